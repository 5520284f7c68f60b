# make demo   installs into .venv and reduces a real file        make test   installs and runs all tests
# make test-real   the tests beside real servers, which tests/real/install installs
# make fuzz   other writers' files, made up for two minutes, beside NumPy (SECONDS=600 SEED=1)
# make lint   ruff          make types   mypy          make docs   the site          make bench   beside every peer

PYTHON ?= python3
BIN := .venv/bin
STAMPS := .venv/.installed

.PHONY: demo test test-real fuzz lint types docs bench clean

demo: $(STAMPS)-all
	$(BIN)/activestore demo

test: $(STAMPS)-all,test
	$(BIN)/python -m pytest -n auto $(ARGS)

# One process: each server is started once.
test-real: $(STAMPS)-all,test
	$(BIN)/python -m pytest -m real $(ARGS) tests/real

# SECONDS of it with a SEED of one's own; else with a new one, which is printed.
SECONDS := 120
fuzz: $(STAMPS)-all,test
	$(BIN)/python -W ignore -m tests.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: $(STAMPS)-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMPS)-lint $(STAMPS)-all,test
	$(BIN)/mypy

docs: $(STAMPS)-docs $(STAMPS)-all,test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest --quiet tests/test_docs.py -k site

# compileall does what an installation that is not editable does: without it, imports are timed with the compiler.
bench: $(STAMPS)-all,bench
	$(BIN)/python -m compileall -q activestore
	$(BIN)/python -m benchmarks $(ARGS)

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

$(STAMPS)-%: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch '$@'

clean:
	rm -rf .venv site .hypothesis .mypy_cache fuzz-faults .pytest_cache .ruff_cache benchmarks/data
