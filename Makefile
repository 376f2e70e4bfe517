# make repro: the whole experiment. make test: checks and tests. Both build the environment first, if it's needed.
PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: env repro leave-one-out sweep deps check test bench

env: $(VENV)/.built

$(VENV)/.built: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

repro: deps
	dvc repro
	python -m stages.tools.record

leave-one-out: env
	python -m stages.tools.leave_one_out

sweep: env
	python -m stages.tools.sweep
	dvc repro report

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
	python -m tests.benchmarks.labelling
