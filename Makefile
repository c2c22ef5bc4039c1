# What people and CI call. Everything is installed into .venv and kept in .creditfold; both can be removed.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
CHAOS_COMMANDS ?= 200000
# Requests of `make fuzz` to each route.
EXAMPLES ?= 200
# How often `make test-under-load` runs the tests with busy processes beside them.
TIMES ?= 1
# How many processes run the tests; each has servers of its own, of about 1 GB. And how many more run those of the
# compiled core beside the others, of which there are four times as many. More of them on two processor cores take each
# other's caches, start more servers, and end later: seven took 2,050 s of both cores where these take 1,770.
SIDE_BY_SIDE ?= 4
OF_THE_COMPILED ?= 1

# Everything runs on the compiled core where it can be compiled. PLAIN=1 has it run in plain Python: `make bench PLAIN=1`;
# COMPILED=1 has it fail rather. Tests run in plain Python unless COMPILED=1 is said; `make test` runs both.
ifeq ($(PLAIN),1)
export CREDITFOLD_CORE := plain
else
CORE := compiled
ifeq ($(COMPILED),1)
export CREDITFOLD_CORE := compiled
TEST_CORE := compiled
endif
endif
COMPILE = $(BIN)/python building/creditfold_compilation.py
# Which tests run on which core, by their markers (pyproject.toml): those of what the core computes on both; those of all
# that is around it, and of what users see, on the compiled one alone; and all others on plain Python alone, because many
# put something of their own in place of a part of the core.
ON_COMPILED := (both_cores or compiled_core)
ON_PLAIN := $(if $(filter 1,$(PLAIN)),,both_cores or not compiled_core)
# The modules that have a marker: each process that runs tests imports what it is to choose from.
modules = $(shell grep -rlE '$(1)' tests --include='test_*.py')

# Python compiles what it imports once, and not in each of the many processes here.
unexport PYTHONDONTWRITEBYTECODE

# The first of these that is Python 3.11 or later; `make PYTHON=...` names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

# The stack of this checkout, and not one that is found in a folder above it.
STACK = CREDITFOLD_DATA_DIR=$${CREDITFOLD_DATA_DIR:-.creditfold} $(BIN)/creditfold

.PHONY: compiled-for-tests help demo test tests tests-on-compiled tests-in-plain test-under-load checks lint types test-unit test-compiled test-stack run-tests chaos compiled bench bench-lots bench-questions bench-rebuild up down clean schema-lock install bench-append bench-latency bench-http bench-stages bench-hot bench-check bench-scale bench-report coverage api vendored fuzz bench-search bench-webhooks bench-console

help:
	@echo 'make demo        fold a real purchase history and prove that nothing was lost'
	@echo 'make test        every check: lint, types, unit tests, tests on the real stack, the docs'
	@echo 'make test-unit   the tests that need no server'
	@echo 'make test-compiled  those of the core, on the compiled core'
	@echo 'make test-stack  the tests on the real Kafka and PostgreSQL, the docs among them; what the core computes on both cores'
	@echo 'make test-under-load  every test with two busy processes beside it, TIMES=5 for five times; then pinned to one core'
	@echo 'make coverage    what the unit tests reach, as information'
	@echo 'make chaos       kill, freeze and set back all that there is while $(CHAOS_COMMANDS) commands are folded'
	@echo 'make fuzz        send $(EXAMPLES) requests at random to each route of the HTTP door, and all bounds of its parameters'
	@echo 'make bench       fold 1,000,000 commands of each kind, beside what a team would otherwise pick'
	@echo 'make bench-append  how fast commands are appended and imported, beside how fast they are folded'
	@echo 'make bench-latency  how long a command takes until a reader sees it, at 1,000 and 10,000 a second'
	@echo 'make bench-http  latency of requests to the HTTP door, what they cost the fold, and lines of one request a second'
	@echo 'make bench-stages  where CPU time goes for each command, stage by stage'
	@echo 'make bench-hot   all commands of one account against those of many'
	@echo 'make bench-scale  workers, partitions, accounts and the length of the log'
	@echo 'make bench-check BASE=REVISION  fail where the fold is slower than at that revision'
	@echo 'make bench-report  run all of these and write their figures into docs/benchmarks.md and docs/scale.md'
	@echo 'make bench-lots  what a spend costs in an account with many lots'
	@echo 'make bench-questions  how long the questions of support and finance take over 1,000,000 lines'
	@echo 'make bench-search  how long a search across 1,000,000 accounts takes, and what it costs the fold'
	@echo 'make bench-console  how long each page of the console takes over 1,000,000 lines, and how large it is'
	@echo 'make bench-webhooks  webhooks delivered a second, with 100 dead endpoints beside the one that answers'
	@echo 'make bench-rebuild  rebuild 3,000,000 commands, and what that costs the live fold'
	@echo 'make compiled    compile the core, as most of these do first; PLAIN=1 behind any of them runs plain Python'
	@echo 'make up, down    start Kafka, PostgreSQL, a worker and a publisher; stop them'
	@echo 'make api         write docs/api.md, the clients, and what machines read (OpenAPI, AsyncAPI, conformance)'
	@echo 'make vendored PACKAGE=NAME@VERSION  take the vendored files of the pages from that version of their npm package'
	@echo 'make schema-lock RULES=N  give a changed schema its version and id, readable from rules N on'
	@echo 'make clean       stop everything and remove its data'

demo: $(BIN)/python
	$(need-environment)
	@$(call while-compiling,$(STACK) demo)

# Compiling takes one processor core a minute, in which all else is installed and the servers start: what needs the
# compiled core, a worker, waits for it. Where nothing but the compiled core may run, so does all that is ours.
define while-compiling
$(COMPILE) & $(MAKE) --no-print-directory $(VENV)/.installed$(2) && \
	{ [ "$$CREDITFOLD_CORE" != compiled ] || wait $$!; } && $(1); code=$$?; \
	[ $$code = 0 ] || kill $$! 2>/dev/null; wait; exit $$code
endef

# Every check, and every test.
test: $(BIN)/python
	$(need-environment)
	@$(call while-compiling,$(MAKE) --no-print-directory tests CHECKED_BEFORE=checks,-dev)

# Every test, those of each core in one run, and both at once: what is compiled for the one takes more than a minute of
# one core alone, in which the other begins, and short tests of one fill what long ones of the other leave.
tests: $(VENV)/.installed-dev
ifeq ($(PLAIN),1)
	@$(MAKE) --no-print-directory $(CHECKED_BEFORE) run-tests THESE='$(ON_PLAIN)'
else
	@$(MAKE) --no-print-directory -j 2 tests-on-compiled tests-in-plain
endif

tests-on-compiled: export CREDITFOLD_CORE := compiled
tests-on-compiled: compiled-for-tests $(CHECKED_BEFORE)
	@$(call pytest,'$(ON_COMPILED)',both_cores|compiled_core,$(OF_THE_COMPILED),'compiled core')

tests-in-plain: $(VENV)/.installed-dev $(CHECKED_BEFORE)
	@$(call pytest,'$(ON_PLAIN)',,$(SIDE_BY_SIDE),'plain Python')

test-under-load: $(VENV)/.installed-dev compiled-for-tests
	$(BIN)/python tests/programs/under_load.py --times $(TIMES)

checks:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy benchmarks/*.py
	MYPYPATH=building $(BIN)/mypy building/*.py
	$(BIN)/mypy docs/*.py

test-unit:
	@$(MAKE) --no-print-directory run-tests THESE='not stack and not chaos'

# Information, and no goal: most of what is left is covered on the real servers. In plain Python, which alone is traced.
coverage: $(VENV)/.installed-dev
	$(BIN)/coverage run -m pytest -m 'not stack and not chaos'
	$(BIN)/coverage report

test-compiled:
ifneq ($(PLAIN),1)
	@$(MAKE) --no-print-directory run-tests THESE='both_cores and not stack and not chaos' MODULES=both_cores COMPILED=1
endif

test-stack:
ifneq ($(PLAIN),1)
	@$(MAKE) --no-print-directory run-tests THESE='(stack or chaos) and $(ON_COMPILED)' MODULES='both_cores|compiled_core' COMPILED=1
endif
	@$(MAKE) --no-print-directory run-tests THESE='(stack or chaos)$(if $(ON_PLAIN), and ($(ON_PLAIN)))'

# Those that the markers THESE choose, of the modules that have a marker of MODULES.
run-tests: $(VENV)/.installed-dev $(TEST_CORE)
	$(call pytest,'$(THESE)',$(MODULES),$(SIDE_BY_SIDE))

# Markers, modules, number of processes, and what is said before each line.
pytest = $(if $(4),$(BIN)/python tests/programs/prefixed.py $(4) )$(BIN)/pytest -n $(3) --dist loadgroup \
	--no-loadscope-reorder -m $(1) $(if $(2),$(call modules,$(2)))

# The bounds of every parameter, and as many requests at random of each route.
fuzz: $(VENV)/.installed-dev
	CREDITFOLD_EXAMPLES=$(EXAMPLES) $(BIN)/pytest --timeout 0 tests/api/test_fuzzing.py

chaos: $(VENV)/.installed-dev $(CORE)
	CREDITFOLD_CORE=$(if $(CORE),compiled,plain) CREDITFOLD_CHAOS_COMMANDS=$(CHAOS_COMMANDS) $(BIN)/pytest -m chaos -s

bench: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/fold.py

bench-append: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/append.py

bench-latency: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/latency.py

bench-http: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/door.py --markdown

bench-stages: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/stages.py

bench-hot: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/hot.py

bench-scale: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/scale.py

bench-check: $(VENV)/.installed-dev $(CORE)
	@[ -n "$(BASE)" ] || { echo 'error: say what to compare with: make bench-check BASE=HEAD~1' >&2; exit 2; }
	$(BIN)/python benchmarks/check.py --base $(BASE)

bench-report: $(VENV)/.installed-bench $(CORE)
	$(BIN)/python benchmarks/report.py --fresh

bench-lots: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/lots.py

bench-questions: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/questions.py

bench-console: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/console.py

bench-webhooks: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/webhooks.py

bench-search: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/search.py

bench-rebuild: $(VENV)/.installed-dev $(CORE)
	$(BIN)/python benchmarks/rebuild.py

up: $(BIN)/python
	$(need-environment)
	@$(call while-compiling,$(STACK) up --worker)

down: $(VENV)/.installed
	@$(STACK) down

api: $(VENV)/.installed-dev
	$(BIN)/python docs/routes.py
	$(BIN)/python docs/conformance.py
	$(BIN)/python docs/outcome_schemas.py
	$(BIN)/python docs/webhook_schemas.py
	$(BIN)/python docs/asyncapi.py
	$(BIN)/python docs/client_code.py
	$(BIN)/python docs/reference.py

# The versions that are there already, but that of PACKAGE. Needs npm.
vendored:
	$(BIN)/python building/vendored.py $(PACKAGE)

schema-lock: $(VENV)/.installed-dev
	@[ -n "$(RULES)" ] || { echo 'error: say which version of the rules the new schemas come with: make schema-lock RULES=2' >&2; exit 2; }
	$(BIN)/python -m creditfold.schemas.compatibility --rules $(RULES)

clean:
	@if [ -x $(BIN)/creditfold ]; then $(STACK) down; fi
	rm -rf .creditfold

install: $(VENV)/.installed-dev

# By content: what is compiled already is left as it is.
compiled: $(VENV)/.installed-dev
	@$(COMPILE)

# For the tests, which must have it unless plain Python alone is to be tested.
compiled-for-tests: $(VENV)/.installed-dev
	@CREDITFOLD_CORE=$(if $(filter 1,$(PLAIN)),plain,compiled) $(COMPILE) || { \
		echo 'or test plain Python alone: make test PLAIN=1' >&2; exit 1; }

# Asked of a Python that somebody chose, or that made .venv long ago: pip would look for a release that fits it, and
# say so after minutes.
define need-python
@"$(1)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo 'error: $(1) is not a Python of 3.11 or later that runs.' >&2; \
	echo 'try: $(2)' >&2; exit 1; }
endef

# One that was killed while it was made has a Python and no pip yet. A pip of Python 3.11 takes twice as long as a later
# one; where none can be had, it does. It is there before compiling begins beside, which runs it too.
define need-environment
$(call need-python,$(BIN)/python,rm -rf $(VENV); then the same again)
@[ -e $(VENV)/.installed ] || $(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
@[ -e $(VENV)/.installed ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25' 2>/dev/null || true
endef

# Its Python may be gone, and what was installed for that is of no use for another.
$(BIN)/python:
	@rm -f $(VENV)/.installed $(VENV)/.installed-dev $(VENV)/.installed-bench
	@[ -n "$(PYTHON)" ] || { \
		echo 'error: no Python 3.11 or later is on PATH.' >&2; \
		echo 'try: apt-get install python3 python3-venv, or brew install python; or make PYTHON=/path/to/python3' >&2; exit 1; }
	$(call need-python,$(PYTHON),leave PYTHON out to take the first suitable one on PATH; or make PYTHON=/path/to/python3)
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'error: $(PYTHON) makes no virtual environment.' >&2; \
		echo 'try: apt-get install python3-venv' >&2; exit 1; }

# The sources themselves; they are compiled by the other targets, beside this. What is imported is compiled to bytecode
# then: that is a part of it all.
define install
@PYTHONWARNINGS=ignore CREDITFOLD_CORE=plain \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]' -c constraints.txt --no-compile || { \
	echo 'error: pip could not install what is needed; what it says is above.' >&2; \
	echo 'try: mend the network (HTTPS_PROXY, PIP_INDEX_URL) or the disk, then the same again: it goes on.' >&2; exit 1; }
endef

$(VENV)/.installed: pyproject.toml constraints.txt building/creditfold_checkout.py | $(BIN)/python
	$(need-environment)
	$(call install,all)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt building/creditfold_checkout.py | $(BIN)/python
	$(need-environment)
	$(call install,dev)
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: pyproject.toml constraints.txt building/creditfold_checkout.py | $(BIN)/python
	$(need-environment)
	$(call install,bench)
	@touch $(VENV)/.installed $(VENV)/.installed-dev $@
