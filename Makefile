# make repro: the whole experiment. make test: checks and tests. Both build the environment first, if it's needed.
PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: env repro deps check test bench

env: $(VENV)/.built

$(VENV)/.built: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

repro: env
	dvc repro

deps: env
	python -m stages.tools.dependencies

check: env
	ruff check .
	ruff format --check .
	pyright
	lint-imports
	python -m stages.tools.dependencies --check

test: check
	pytest

bench: env
	python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	python -m tests.benchmarks.engine
