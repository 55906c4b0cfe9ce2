# flyball: `make run` starts a governed fleet on this machine, `make test` passes the tests.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
SOURCES := $(wildcard ext/*/*.pyx ext/*/*.pxd ext/*/*.c ext/*/*.h ext/*/Makefile)
PYTHONS := agent aggregator ext tests setup.py

run: setup
	$(BIN)/flyball up

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml setup.py packaging/constraints.txt $(SOURCES)
	PYTHON=$(PYTHON) VENV=$(VENV) packaging/setup.sh
	@touch $@

test: setup
	$(BIN)/python -m pytest -rs

lint: setup
	$(BIN)/ruff check $(PYTHONS)
	$(BIN)/ruff format --check $(PYTHONS)
	$(BIN)/mypy agent aggregator ext tests
	$(BIN)/lint-imports
	PATH=$(CURDIR)/$(BIN):$$PATH cython-lint --max-line-length 120 ext

format: setup
	$(BIN)/ruff check --fix $(PYTHONS)
	$(BIN)/ruff format $(PYTHONS)

bench: setup
	$(BIN)/python -m tests.bench

evidence: setup
	$(BIN)/flyball twin evidence

system:
	packaging/system.sh

packages: setup
	$(BIN)/python packaging/build.py --interpreter "$$(packaging/interpreter.sh)"

system-packages:
	packaging/system.sh mmdebstrap systemd-container rpm patchelf

clean:
	rm -rf $(VENV) build dist *.egg-info
	find agent aggregator ext tests -name '__pycache__' -prune -exec rm -rf {} +
	find ext -name '*.so' -delete

.PHONY: run setup test lint format bench evidence system system-packages packages clean
