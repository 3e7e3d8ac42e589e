# docker build -t logqueue .    (docs/operating.md says how to run it)
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY logqueue ./logqueue
RUN python -m venv /opt/logqueue \
    && /opt/logqueue/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.12-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin logqueue \
    && install -d -m 0700 -o logqueue -g logqueue /var/lib/logqueue
COPY --from=build /opt/logqueue /opt/logqueue
ENV PATH=/opt/logqueue/bin:$PATH \
    LOGQUEUE_DATA=/var/lib/logqueue \
    LOGQUEUE_LISTEN=0.0.0.0 \
    LOGQUEUE_PORT=1218 \
    LOGQUEUE_LOG_FORMAT=json
USER 10001
VOLUME /var/lib/logqueue
EXPOSE 1218
STOPSIGNAL SIGTERM
# A port of its own, or TLS, needs a check of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=1h CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:1218/healthz', timeout=4)"]
ENTRYPOINT ["logqueued"]
