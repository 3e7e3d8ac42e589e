"""logqueued: recover, then serve until told to stop.  The composition root.

One nursery holds the committer, and inside it a second one the chores and the listeners, so that
the syncs outlive everything that waits for them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import syslog
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial

import trio

from logqueue import logs
from logqueue.commit import Committer
from logqueue.config import Config
from logqueue.detach import detached
from logqueue.errors import Corrupt, LogqueueError, StorageFailed, UsageError
from logqueue.listening import listening
from logqueue.messages import LocalMessageQueues
from logqueue.monitor import Monitor
from logqueue.notify import notify
from logqueue.reload import Reload, read_settings
from logqueue.storage import failpoint
from logqueue.storage.disk import MmapDisk
from logqueue.storage.queue import Options
from logqueue.storage.store import Store
from logqueue.web.access import AccessLog
from logqueue.web.httpsqs import Dialect
from logqueue.web.message import Handler
from logqueue.web.server import Listener, serve
from logqueue.web.tls import Certificate
from logqueue.web.v1.api import Api

EXIT_USAGE = 1  # as HTTPSQS: anything that keeps the daemon from starting
EXIT_STORAGE = 74  # EX_IOERR of sysexits(3): the disk failed; do not restart without a look at it

_log = logging.getLogger("logqueue.daemon")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; the exit status."""
    faulthandler.enable()  # a bad sector under a map is a SIGBUS: say where, then die
    config: Config | None = None
    try:
        read = partial(read_settings, list(sys.argv[1:] if argv is None else argv), os.getcwd())
        config = read()
        if config.check_only:
            _certificate(config)
            print("logqueued: the settings are usable")
            return 0
        if config.detach:
            with detached() as ready:
                return _run(config, ready, read)
        return _run(config, lambda: None, read)
    except KeyboardInterrupt:  # before there is anything to drain
        return 128 + signal.SIGINT
    except BaseException as error:
        cause = _innermost(error)
        if not isinstance(cause, LogqueueError | OSError | StorageFailed):
            raise
        _complain(cause, config)
        return EXIT_STORAGE if isinstance(cause, StorageFailed) else EXIT_USAGE


def _innermost(error: BaseException) -> BaseException:
    """The error that tells why, inside nested groups: each of them ends the daemon."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_innermost(each) for each in error.exceptions]
    return next((each for each in causes if isinstance(each, StorageFailed)), causes[0])


def _complain(cause: BaseException, config: Config | None) -> None:
    """Say in one line why the daemon ends; nobody reads the stderr of a detached one."""
    text = str(cause)
    if isinstance(cause, Corrupt):
        text += "; examine it with logqueue-fsck, or choose another directory with -x"
    elif isinstance(cause, OSError) and cause.filename is not None:
        text = f"{cause.filename}: {cause.strerror}; look at its owner and mode"
    text = logs.escaped(text)
    if config is not None and config.log_format == "json":
        with logs.to_stderr(config.log_format):
            _log.critical("%s", text)
    else:
        print(f"logqueued: {text}", file=sys.stderr)
    if config is not None and config.detach:
        syslog.openlog("logqueued", syslog.LOG_PID, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_CRIT, text)


def _run(config: Config, ready: Callable[[], None], read: Callable[[], Config]) -> int:
    with logs.to_stderr(config.log_format):
        if config.detach:
            logs.to_syslog()
        config = _take_descriptors(config)

        def fitting() -> Config:
            return read().within(resource.getrlimit(resource.RLIMIT_NOFILE)[1])

        trio.run(run, config, ready, fitting, restrict_keyboard_interrupt_to_checkpoints=True)
    return 0


def _take_descriptors(config: Config) -> Config:
    """Raise the limit of open files as far as we may, and stay within it."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    fitting = config.within(limit)
    if fitting != config:
        _log.warning(
            "the limit of %d open files (ulimit -n, LimitNOFILE) allows %d connections and "
            "%d open queues, not the %d and %d that are configured",
            limit,
            fitting.connections_max,
            fitting.queues_open_max,
            config.connections_max,
            config.queues_open_max,
        )
    return fitting


async def run(config: Config, ready: Callable[[], None], read: Callable[[], Config]) -> None:
    """Recover, call `ready` once the daemon serves, serve until SIGTERM or SIGINT.

    `read` gives the settings that should be in force, at SIGHUP.  Raises what keeps the daemon
    from serving: UsageError, Locked, StorageFailed, ...
    """
    reload = Reload(config, read)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with _queues(config) as queues, trio.open_nursery() as nursery:
            drain = trio.Event()
            recovery = trio.CancelScope()
            nursery.start_soon(_obey, signals, drain, recovery, reload)
            with recovery:
                await queues.recover()
            if not drain.is_set():
                await _serve(config, queues, nursery, drain, ready, reload)
            nursery.cancel_scope.cancel()


async def _serve(
    config: Config,
    queues: LocalMessageQueues,
    chores: trio.Nursery,
    drain: trio.Event,
    ready: Callable[[], None],
    reload: Reload,
) -> None:
    """Serve until `drain` is set and done; `chores` are left running."""
    certificate = _certificate(config)
    monitor = Monitor(queues, config, drain.is_set)

    def handler(config: Config) -> Handler:
        password = None if config.auth is None else os.fsencode(config.auth)
        dialect = monitor.dialect = Dialect(queues, password, monitor.pages, monitor.failures)
        durable = "disk" if config.durability == "always" else "page-cache"
        api = Api(queues, dialect, password, durable)
        return AccessLog(api) if config.access_log else api

    def apply(config: Config) -> None:
        if certificate is not None:
            assert config.tls_certificate is not None
            assert config.tls_key is not None
            certificate.load(config.tls_certificate, config.tls_key)
        shared.change(handler(config), config)

    with listening(config, os.environ) as entrances, _pid_file(config.pid_file):
        listeners = [
            Listener(each.socket, None if each.plain else certificate) for each in entrances
        ]
        async with trio.open_nursery() as serving:
            run = partial(serve, drain=drain, traffic=monitor.traffic)
            shared = await serving.start(run, listeners, handler(config), config)
            reload.apply = apply
            _announce(config, listeners)
            logs.flush()
            ready()
            notify("READY=1")
            chores.start_soon(queues.run)
            chores.start_soon(monitor.run)


@contextlib.asynccontextmanager
async def _queues(config: Config) -> AsyncIterator[LocalMessageQueues]:
    """The open data directory; closed cleanly unless the storage has failed."""
    options = Options(
        committed_reads=config.durability == "always",
        segment_bytes_max=config.segment_bytes_max,
    )
    disk = failpoint.around(MmapDisk(config.disk_reserve_bytes), os.environ.get(failpoint.VARIABLE))
    store = await trio.to_thread.run_sync(Store.open, disk, config.data_directory, options)
    async with trio.open_nursery() as nursery:
        committer = Committer()
        await nursery.start(committer.run)
        queues = LocalMessageQueues(store, committer, config)
        yield queues
        await queues.close()
        nursery.cancel_scope.cancel()


async def _obey(
    signals: AsyncIterator[int], drain: trio.Event, recovery: trio.CancelScope, reload: Reload
) -> None:
    """SIGHUP reads the settings again.  The first of the others ends a recovery or drains, the
    second one ends the process at once."""
    async for number in signals:
        if number == signal.SIGHUP:
            reload.run()
            continue
        if drain.is_set():
            _log.warning("%s again: stopping at once", signal.Signals(number).name)
            logs.flush()
            os._exit(128 + number)
        _log.info("%s: finishing the requests in flight", signal.Signals(number).name)
        notify("STOPPING=1")
        drain.set()
        recovery.cancel()


def _certificate(config: Config) -> Certificate | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return Certificate(config.tls_certificate, config.tls_key)


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    if path is None:
        yield
        return
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise UsageError(f"-i {path}: {error.strerror}; choose a path you may write") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _announce(config: Config, listeners: Sequence[Listener]) -> None:
    """The ready line: recovery is done, and these addresses are open."""
    for listener in listeners:
        if not config.auth and not _is_local(listener.socket):
            _log.warning(
                "%s is open to other machines and there is no password: "
                "anyone who reaches it owns the queues; set --auth-file",
                listener.url,
            )
        _log.info(
            "ready on %s (data in %s, durability %s)",
            listener.url,
            config.data_directory,
            config.durability,
        )


def _is_local(listener: socket.socket) -> bool:
    """Whether no other machine can reach it."""
    if listener.family == socket.AF_UNIX:
        return True
    host = str(listener.getsockname()[0])
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
