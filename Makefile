# The same commands for people and for CI. Every target installs what it needs into
# .venv, once: a stamp file remembers it until pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint $(CONSTRAINTS)
MANIFEST := pyproject.toml $(CONSTRAINTS)
PACKAGE := --editable ".[offline,plot]"
JUNIT := .pytest_cache/junit.xml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installs into one environment must not run at once.
.NOTPARALLEL:

.PHONY: help
help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Environment

$(VENV)/.pip:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --upgrade "pip>=25.1"  # the first to know --group
	@touch $@

$(VENV)/.installed-package: $(MANIFEST) | $(VENV)/.pip
	@echo "Installing sklearn-bert into $(VENV); this can take minutes"
	@$(INSTALL) $(PACKAGE)
	@touch $@

$(VENV)/.installed-lint $(VENV)/.installed-dist: $(VENV)/.installed-%: $(MANIFEST) | $(VENV)/.pip
	@echo "Installing the group '$*' into $(VENV)"
	@$(INSTALL) --group $*
	@touch $@

$(VENV)/.installed-tests $(VENV)/.installed-docs $(VENV)/.installed-bench $(VENV)/.installed-ecosystem $(VENV)/.installed-clusters: $(VENV)/.installed-%: $(MANIFEST) | $(VENV)/.pip
	@echo "Installing sklearn-bert and the group '$*' into $(VENV); this can take minutes"
	@$(INSTALL) $(PACKAGE) --group $*
	@touch $@

.PHONY: install
install: $(VENV)/.installed-tests  ## Install the package, editable, and what the tests need into .venv

# Use

.PHONY: demo
demo: $(VENV)/.installed-package  ## Run the demo: needs no network once installed
	$(BIN)/python -m sklearn_bert demo

# Checks. HF_HUB_OFFLINE=0 make test ARGS="-m hub" runs what needs the hub.

OFFLINE := test test-fast torture test-dist run-newest run-ecosystem run-clusters coverage docs
$(OFFLINE): export HF_HUB_OFFLINE ?= 1
$(OFFLINE): export TOKENIZERS_PARALLELISM ?= false
$(OFFLINE): export MPLBACKEND ?= Agg

# pytest exits 0 when every test was skipped: that is no test run.
PYTEST = $(BIN)/python -m pytest --junitxml=$(JUNIT)
EXECUTED = @$(BIN)/python -c "import sys; from xml.etree import ElementTree; \
	s = ElementTree.parse('$(JUNIT)').find('testsuite').attrib; \
	sys.exit(s['tests'] == s['skipped'] and 'no test was executed')"

.PHONY: test
test: $(VENV)/.installed-tests  ## Run all tests and doctests; ARGS="-k store -x" goes to pytest
	$(PYTEST) $(ARGS)
	$(EXECUTED)

.PHONY: test-fast
test-fast: $(VENV)/.installed-tests  ## Run the tests that are not marked slow
	$(PYTEST) -m "not slow and not hub" $(ARGS)
	$(EXECUTED)

.PHONY: torture
torture: export SKLEARN_BERT_TORTURE = long
torture: $(VENV)/.installed-tests  ## Kill, damage, fill up and overload: about 35 minutes
	$(PYTEST) tests/torture $(ARGS)
	$(BIN)/python tests/torture/figures.py
	$(EXECUTED)

.PHONY: coverage
coverage: $(VENV)/.installed-tests  ## Run all tests and report the lines and branches missed
	$(PYTEST) --cov --cov-report=term-missing --cov-report=xml $(ARGS)
	$(EXECUTED)

# In an environment of its own, as TPOT holds setuptools back.
.PHONY: test-ecosystem run-ecosystem
test-ecosystem:  ## Run every search tool, installed into .venv-ecosystem (some 3 GB)
	@$(MAKE) --no-print-directory VENV=.venv-ecosystem run-ecosystem
run-ecosystem: $(VENV)/.installed-ecosystem
	$(PYTEST) tests/test_ecosystem.py $(ARGS)
	$(EXECUTED)

.PHONY: test-clusters run-clusters
test-clusters:  ## Run on local clusters of dask, Ray and Spark, in .venv-clusters
	@$(MAKE) --no-print-directory VENV=.venv-clusters run-clusters
run-clusters: $(VENV)/.installed-clusters
	$(PYTEST) tests/test_clusters.py tests/test_recipes.py $(ARGS)
	$(EXECUTED)

# The range of versions that pyproject.toml promises: both ends, in their environments.
.PHONY: test-oldest test-newest run-newest
test-oldest:  ## Run all tests with the oldest dependencies, in .venv-oldest (some 6 GB)
	@$(MAKE) --no-print-directory VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt test
test-newest:  ## Run all tests with the newest dependencies, in .venv-newest (some 6 GB)
	@$(MAKE) --no-print-directory VENV=.venv-newest run-newest
run-newest: $(VENV)/.pip
	@echo "Installing the newest of everything into $(VENV); this can take minutes"
	@$(PIP) install --quiet --upgrade --upgrade-strategy eager $(PACKAGE) --group tests
	$(PYTEST) $(ARGS)
	$(EXECUTED)

.PHONY: test-dist
test-dist: dist  ## Test the wheel in an empty environment, .venv-dist, with the sdist's tests
	$(PYTHON) .ci/test_dist.py --junitxml=$(abspath $(JUNIT)) $(ARGS)
	$(EXECUTED)

.PHONY: lint
lint: $(VENV)/.installed-lint  ## Check style and formatting (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.installed-lint $(VENV)/.installed-package  ## Check types (mypy)
	$(BIN)/mypy

.PHONY: docs
docs: $(VENV)/.installed-docs  ## Build the site into docs/_build/html; warnings are errors
	@rm -rf docs/api  # generated; a page of a name that is gone would be an orphan
	$(BIN)/python -m sphinx -W --keep-going -n -b html docs docs/_build/html

BENCHMARKS := encode layers grid_search store scale precision jobs gpu probe sweep finetune frozen_vs_finetuned tokens long_documents export mix mini_batches

.PHONY: bench
bench: $(VENV)/.installed-bench  ## Run a short form of every benchmark; ARGS="--keep" keeps results
	@set -e; for name in $(BENCHMARKS); do \
		printf '\n# %s\n\n' $$name; \
		$(BIN)/python benchmarks/bench_$$name.py --short $(ARGS); \
	done

.PHONY: dist
dist: $(VENV)/.installed-dist  ## Build the wheel and the source archive into dist/
	@rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

.PHONY: clean
clean:  ## Remove everything built or cached, except environments
	rm -rf dist docs/_build docs/api docs/gallery
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* coverage.xml
	find . \( -name $(notdir $(VENV)) -o -name '.venv*' \) -prune -o -name __pycache__ -type d -exec rm -rf {} +
