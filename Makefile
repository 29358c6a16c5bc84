# Each target does its own set-up, in .venv: `make run` and `make test` work on a fresh machine.
#
#   PYTHON   the interpreter to make .venv with (3.11 or later)
#   TORCH    what pip is asked for; this exact version keeps CPU machines free of CUDA packages
#            where pip's index has a CPU build of it (elsewhere name that index in PIP_INDEX_URL)

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN = .venv/bin
TICKET = Since this morning nobody in our office can log in, and the invoice run is at noon!

.PHONY: run test test-all clients check types install clean

run: .venv/installed
	@$(BIN)/sgen pull smollm2
	$(BIN)/sgen run examples/triage.py:triage --arg ticket="$(TICKET)"

test: .venv/developing check
	@$(BIN)/sgen pull smollm2
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-all: .venv/developing check
	@$(BIN)/sgen pull smollm2
	$(BIN)/python -m pytest

# The clients that people use, against a server: each in an environment of its own (needs npm, too).
clients: .venv/developing
	@$(BIN)/sgen pull smollm2
	$(BIN)/python -m benchmarks.clients

check: .venv/developing types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONSAFEPATH=1 MYPYPATH=build/types $(BIN)/mypy -p sgen
	PYTHONSAFEPATH=1 MYPYPATH=build/types $(BIN)/mypy examples benchmarks

install: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sgen needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/developing: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

# One tree of links in which type checkers see the folders as the one package that they install as.
types:
	@rm -rf build/types && mkdir -p build/types/sgen
	@for f in sgen/*; do ln -s "../../../$$f" build/types/sgen/; done
	@for d in frontend grammars runtime kernels; do ln -s "../../../$$d" build/types/sgen/$$d; done

clean:
	rm -rf .venv build *.egg-info
