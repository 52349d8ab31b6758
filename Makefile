# Each target sets up what it needs; all they ask for is make and Python 3.11 or newer.
#
# .venv      what a user installs: run-time dependencies only
# .venv-dev  what a contributor installs: tests, linters, optional parts
#
# A stamp file in each tells when it was last made; a change of pyproject.toml makes it anew.

PYTHON ?= python3
# Tests on real kernels take seconds each: an idle worker takes them from a busy one.
PYTEST_ARGS ?= -n 2 --dist worksteal
DEMO_OUT ?= out/demo
PLUGIN_OUT ?= out/aws-cni

SHELL := /bin/sh
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input --editable

.DEFAULT_GOAL := help
.PHONY: help demo lab test lint format bench bench-sweep exhaustive soak plugin clean
# A recipe that fails halfway leaves no stamp behind.
.DELETE_ON_ERROR:

help: ## list the targets
	@echo 'make TARGET, where TARGET is one of'
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/'

demo: .venv/stamp ## compare two settings on the shipped example and write a report
	@.venv/bin/warmbench compare sim/examples/web-and-jobs.csv \
	    --instance m5.large --nodes 10 --subnet 10.0.0.0/22 \
	    --a WARM_ENI_TARGET=1 --b WARM_IP_TARGET=2,MINIMUM_IP_TARGET=10 \
	    --out $(DEMO_OUT)

lab: .venv/stamp ## install what `warmbench lab` needs beside the workbench
	@.venv/bin/python $(PIP_INSTALL) '.[lab]'
	@echo 'Now, as root: .venv/bin/warmbench lab up'

test: .venv-dev/stamp ## run every test
	.venv-dev/bin/python -m pytest $(PYTEST_ARGS)

lint: .venv-dev/stamp ## check style, formatting, types and import contracts
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy
	.venv-dev/bin/lint-imports

format: .venv-dev/stamp ## lay out the code and repair what ruff can
	.venv-dev/bin/ruff check --fix .
	.venv-dev/bin/ruff format .

bench: .venv-dev/stamp ## measure, and write the results file
	.venv-dev/bin/python -m benchmarks

soak: .venv-dev/stamp ## run what takes long in full size (root, about half an hour)
	.venv-dev/bin/python -m benchmarks.soak_import --mib 1024
	WARMBENCH_REQUIRE_ROOT=1 WARMBENCH_KILLS=200 WARMBENCH_FUZZ=10000 WARMBENCH_PAIRS=10000 \
	    WARMBENCH_SCRIPTS=200 .venv-dev/bin/python -m pytest -s --durations=10 \
	    tests/node/test_crash.py tests/node/test_hostile.py tests/node/test_soak.py \
	    tests/daemon/test_lockstep.py

bench-sweep: .venv-dev/stamp ## time a sweep of 64 settings over a million pods; half an hour
	.venv-dev/bin/python -m benchmarks.sweeps

exhaustive: .venv-dev/stamp ## compare what recommend finds with a whole grid; takes minutes
	.venv-dev/bin/python -m benchmarks.exhaustive $(if $(OPENB),--openb $(OPENB))

plugin: $(PLUGIN_OUT) ## build the static C plug-in; needs a C compiler and a static libc

$(PLUGIN_OUT): cni/plugin/aws-cni.c
	@mkdir -p $(@D)
	$(CC) -std=c11 -Os -static -Wall -Wextra -Werror -pedantic -o $@ $<

clean: ## remove the environments, caches and outputs
	rm -rf .venv .venv-dev out build dist .mypy_cache .ruff_cache .pytest_cache \
	    .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/stamp: pyproject.toml
	@$(check_python)
	@echo 'Installing warmbench into .venv (once, about a minute) ...'
	@$(PYTHON) -m venv .venv
	@.venv/bin/python $(PIP_INSTALL) .
	@touch $@

.venv-dev/stamp: pyproject.toml
	@$(check_python)
	@echo 'Installing warmbench and its test tools into .venv-dev (once, about two minutes) ...'
	@$(PYTHON) -m venv .venv-dev
	@.venv-dev/bin/python $(PIP_INSTALL) '.[dev]'
	@touch $@

# One line that says what to do beats a traceback from the middle of an installation. Debian
# ships Python without ensurepip, which is in its package python3-venv.
define check_python
command -v $(PYTHON) >/dev/null 2>&1 || { \
    echo "warmbench needs Python 3.11 or newer: there is no '$(PYTHON)'; name one with make PYTHON=..." >&2; \
    exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
    echo "warmbench needs Python 3.11 or newer: '$(PYTHON)' is `$(PYTHON) -V 2>&1`; name another with make PYTHON=..." >&2; \
    exit 1; }; \
$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
    echo "'$(PYTHON)' cannot make virtual environments: install them first (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
    exit 1; }
endef
