# Everything a newcomer needs: `make run` and `make test` set up what is missing by themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test crash torture powercut soak check bench format clean fsck-long fuzz siege

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

run: .venv/ready
	$(BIN)/logqueued -l 127.0.0.1 -p 1218 -x data

test: .venv/ready
	$(BIN)/python -m pytest -q

# The long runs.  ROUNDS and SEED may be given: make torture ROUNDS=100 SEED=7
# make crash MINUTES=60 goes on for an hour.
crash: CUTS ?= $(if $(MINUTES),1000000000,200000)
crash: .venv/ready
	$(BIN)/python -m tests.crashrun --cuts $(CUTS) $(if $(MINUTES),--minutes $(MINUTES)) \
	    $(if $(SEED),--seed $(SEED)) $(if $(KIND),--kind $(KIND))

torture: ROUNDS ?= 1000
torture: .venv/ready
	$(BIN)/python -m tools.torture --rounds $(ROUNDS) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

powercut: ROUNDS ?= 1000
powercut: .venv/ready  # needs root
	$(BIN)/python -m tools.powercut --rounds $(ROUNDS) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

soak: MINUTES ?= 30
soak: .venv/ready
	$(BIN)/python -m tools.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Some rows in two minutes; make bench ARGS=--targets, ARGS=--full: docs/performance.md.
bench: .venv/ready
	$(BIN)/python -m tools.bench $(ARGS)

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info

fsck-long: .venv/ready  # 2,000 random damages; repairs ended at every step
	FSCK_ROUNDS=2000 FSCK_SEED=$(or $(SEED),0) FSCK_STEPS=all $(BIN)/python -m pytest -q \
		tests/test_fsck_random.py tests/test_fsck_interrupted.py

fuzz: INPUTS ?= 100000
fuzz: .venv/ready
	FUZZ_INPUTS=$(INPUTS) $(BIN)/python -m pytest -q tests/test_fuzz.py

siege: .venv/ready
	$(BIN)/python -m tools.siege $(ARGS)
