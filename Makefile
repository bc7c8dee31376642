# ftx: `make quickstart` and `make test` do everything from a fresh clone, set-up included.

PYTHON ?= python3
# A package index to take torch from, as https://download.pytorch.org/whl/cpu for the CPU build; empty: PyPI.
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
# Two workers on two cores, one torch thread each (more threads than cores only wait for each other). A file's tests stay
# on one worker, with the models that its fixtures made; the file that takes longest begins (tests/durations.py).
WORKERS ?= 2
# What tensors took stays with the process: glibc else gives it back to the system each time, and asks for it again.
KEEP := MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824
PYTEST := OMP_NUM_THREADS=1 $(KEEP) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# `make test-changed` runs the tests of what differs from this commit.
BASE ?= HEAD

# The side of the images that `make bench` trains on: 224 has four times the patches.
BENCH_SIZE ?= 112
# The images: a folder with train/ and test/; by default the embedded sample.
BENCH_DATA ?= build/bench/sample-data
BENCH_SEEDS ?= 0

# An environment of its own, with the versions of tests/lowest.txt; and the tests, slow ones too, that go through every
# library: training, merging, both exports, INT8, validation, and the folders that other libraries wrote.
# Old releases warn of what new ones deprecate: warnings are no errors there.
LOWEST := .venv-lowest
LOWEST_WHOLE := tests/test_pipeline.py tests/runtimes tests/exporting tests/interop tests/strangers

.DEFAULT_GOAL := help
.PHONY: help setup fmt lint type test test-slow test-changed test-all test-lowest durations mutants fuzz bench bench-presets families docs transcripts quickstart clean

help: ## Show what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Make .venv and install ftx with its extras `train` and `serve`, and the development tools

fmt: $(VENV)/.installed ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/.installed type ## Check style, formatting, imports between packages, types, and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m tests.words
	$(BIN)/python -m tests.sentences

type: $(VENV)/.installed ## Check types in strict mode
	$(BIN)/basedpyright

test: $(VENV)/.installed ## Run all tests that are not marked slow: 8 to 15 minutes on two cores
	$(PYTEST) -m 'not slow' --durations-to=build/durations/test.json

test-slow: $(VENV)/.installed ## Run the tests that `make test` leaves out: 20 to 40 minutes on two cores
	$(PYTEST) -m slow --durations-to=build/durations/slow.json

test-changed: $(VENV)/.installed ## Run the tests of `make test` that your changes since BASE=HEAD affect: 3 minutes
	files=$$($(BIN)/python -m tests.changed --base $(BASE)) && $(PYTEST) -m 'not slow' $$files

durations: ## Print the 30 slowest test files and write tests/durations.json (after `make test` and `make test-slow`)
	$(BIN)/python -m tests.durations --keep

test-all: lint test test-slow docs ## Run lint and all tests, and build the packages and the documentation
	$(BIN)/python -m build --outdir build/dist .
	$(BIN)/python -m build --outdir build/dist models

test-lowest: $(LOWEST)/.installed ## Run the tests of `make test` and the pipeline with the lowest versions that ftx allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -W default -n $(WORKERS) --dist loadfile -m 'not slow'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -W default -n $(WORKERS) --dist loadfile $(LOWEST_WHOLE)

fuzz: $(VENV)/.installed ## Hand every parser some thousands of damaged documents
	$(PYTEST) --hypothesis-profile=fuzz tests/strangers

mutants: $(VENV)/.installed ## Put some 900 faults into the source, one at a time: `make test` must notice 95 %, of those by hand 90 % (two hours)
	$(BIN)/python -m tests.mutants run --workers $(WORKERS)

bench: $(VENV)/.installed ## Compare speed and accuracy of training with other tools, into build/bench (over an hour; resumes if interrupted)
	mkdir -p build/bench
	test -d $(BENCH_DATA) || $(BIN)/ftx data sample --out build/bench
	$(BIN)/python -m tests.benchmarks.step --to build/bench/step
	$(BIN)/python -m tests.benchmarks.first_step $(BENCH_DATA) --size $(BENCH_SIZE) --to build/bench/first_step.json
	$(BIN)/python -m tests.benchmarks.peers $(BENCH_DATA) build/bench --size $(BENCH_SIZE) --seeds $(BENCH_SEEDS)
	$(BIN)/python -m tests.benchmarks.bench build/bench

bench-presets: $(VENV)/.installed ## Compare the presets on 23 data sets, into build/presets (a day; resumes if interrupted)
	test -d build/data-sets || $(BIN)/python -m tests.benchmarks.datasets all build/data-sets
	$(BIN)/python -m tests.benchmarks.presets build/data-sets build/presets/development data.image_size=$(BENCH_SIZE)
	$(BIN)/python -m tests.benchmarks.presets build/data-sets build/presets/held-back data.image_size=$(BENCH_SIZE) --half held-back

families: $(VENV)/.installed ## Print the table of families: adapted, merged, read by peft and exported
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.families

docs: $(VENV)/.docs ## Build the documentation into build/site
	$(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

transcripts: $(VENV)/.installed ## Run the commands of README.md and the pages, and write their output and pictures (over an hour)
	$(BIN)/python docs/make_transcripts.py
	rm -rf build/transcripts build/page-pictures
	$(BIN)/ftx quickstart --out build/transcripts/run
	$(BIN)/python docs/make_diagram.py build/transcripts/run
	$(BIN)/ftx export build/transcripts/run --precision fp16
	$(BIN)/ftx validate build/transcripts/run
	$(BIN)/python docs/make_figures.py build/transcripts/run
	$(BIN)/python -m docs.make_page_pictures

quickstart: $(VENV)/.installed ## Run the quickstart on the bundled data: train, merge, export, validate
	$(BIN)/ftx quickstart

clean: ## Remove what was built, the virtual environment included; runs stay
	rm -rf $(VENV) $(LOWEST) build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ftx needs Python 3.11 or later; say which: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: pyproject.toml models/pyproject.toml | $(VENV)/.pip
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) torch torchvision)
	@test -n "$(TORCH_INDEX)" || command -v nvidia-smi >/dev/null || echo "No NVIDIA GPU found. To avoid gigabytes of CUDA, stop this and run: make $(MAKECMDGOALS) TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	$(BIN)/python -m pip install --quiet --editable ./models --editable '.[train,serve]' --group dev
	@touch $@

$(LOWEST)/.installed: pyproject.toml models/pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(if $(TORCH_INDEX),$(LOWEST)/bin/python -m pip install --quiet --index-url $(TORCH_INDEX) --constraint tests/lowest.txt torch torchvision)
	$(LOWEST)/bin/python -m pip install --quiet --constraint tests/lowest.txt --editable ./models --editable '.[train,serve]' --group dev
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@
