# make repro: the whole experiment. make test: checks and tests. Both build the environment first, if it's needed.
PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: env repro leave-one-out sweep real-step suppress concepts soft-prompts free-words deps check test bench

env: $(VENV)/.built

$(VENV)/.built: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

repro: deps
	dvc repro
	python -m stages.tools.record

# Projectors trained under other settings, real steps, learning that is suppressed, features of dictionaries, soft
# prompts, and free words: stages/sweeps/dvc.yaml.
leave-one-out: deps
	dvc repro stages/sweeps/dvc.yaml:leave_one_out
	python -m stages.tools.sweep_table leave_one_out
	dvc repro report

sweep: deps
	dvc repro stages/sweeps/dvc.yaml:experiment
	python -m stages.tools.sweep_table ladder
	dvc repro report

real-step: deps
	dvc repro stages/sweeps/dvc.yaml:real_step

suppress: deps
	dvc repro stages/sweeps/dvc.yaml:suppress
	python -m stages.tools.sweep_table suppress
	dvc repro report

concepts: deps
	dvc repro stages/sweeps/dvc.yaml:concepts
	python -m stages.tools.sweep_table concepts
	python -m stages.tools.sweep_table mixtures
	dvc repro report

soft-prompts: deps
	dvc repro stages/sweeps/dvc.yaml:soft_prompts
	python -m stages.tools.sweep_table soft_prompts
	dvc repro report

free-words: deps
	dvc repro stages/sweeps/dvc.yaml:free_words
	python -m stages.tools.sweep_table free_words
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
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder # in the order of tests/conftest.py

# Minutes of one core: pocket 1, S 4, M some 20 (worked out, not timed as a whole; 12 GB): make bench SIZES="pocket S M".
SIZES ?= pocket S
bench: env
	python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	python -c "import nnsight, transformer_lens" # without them the next line's tests would be skipped
	pytest tests/core/engine/test_peers.py
	$(PYTHON) -m venv .cache/sae-lens # its own: SAELens asks for transformer-lens below 4
	grep -v '^transformer-lens=' constraints.txt > .cache/sae-lens/constraints.txt
	.cache/sae-lens/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint .cache/sae-lens/constraints.txt --editable ".[sae]" beartype pytest
	.cache/sae-lens/bin/python -c "import sae_lens"
	.cache/sae-lens/bin/python -m pytest --noconftest tests/core/concepts/test_sae_lens.py
	python -m tests.benchmarks.engine --size $(SIZES)
	python -m tests.benchmarks.labelling
