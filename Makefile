# `make demo` and `make test` need Python 3.11 or newer with venv, a Rust toolchain and a C linker;
# all else is installed into .venv. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# In CI a lock file that does not fit Cargo.toml is an error, elsewhere it is brought up to date.
LOCKED := $(if $(CI),--locked)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Folders are among the sources, so that a deleted file counts as a change.
SOURCES := Cargo.toml $(wildcard Cargo.lock) pyproject.toml $(wildcard README.md) \
	$(shell find rust python -name __pycache__ -prune -o -print)
TYPED := python/mmsb $(wildcard examples)
PYTHON_CODE := python tests bench/python $(wildcard examples)
BENCH_TARGET := target/bench

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-rust test-python check-rust lint bench bench-rust clean kills memory

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1\t\2/p' Makefile | expand -t 14

demo: $(VENV)/.installed  ## the solar system: killed, recovered, proved, searched and forked
	$(BIN)/mmsb demo

test: test-rust test-python  ## all tests, Rust and Python

test-rust:  ## the tests of the engine
	@scripts/need $(PYTHON)
	cargo test $(LOCKED) --workspace --exclude mmsb-py

test-python: $(VENV)/.installed  ## the tests of the installed package, docstrings among them
	$(BIN)/pytest -n auto --dist worksteal

check-rust:  ## that the workspace compiles (with RUSTUP_TOOLCHAIN: under another Rust)
	cargo check $(LOCKED) --workspace

lint: $(VENV)/.installed  ## formatting, lints, types and stubs
	cargo fmt --all --check
	cargo fmt --manifest-path bench/rust/Cargo.toml --check
	PYO3_PYTHON=$(BIN)/python cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings
	cargo clippy --manifest-path bench/rust/Cargo.toml --target-dir $(BENCH_TARGET) -- -D warnings
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/mypy $(TYPED)
	$(BIN)/python -m mypy.stubtest mmsb._core

bench: $(VENV)/.bench bench-rust  ## floors and peers beside MMSB, one table of ratios (QUICK=1: under 2 minutes)
	$(BIN)/python bench/python/bench.py --rust $(BENCH_TARGET)/release/mmsb-bench $(if $(QUICK),--quick)

bench-rust:  ## build the Rust side of the benchmarks
	@scripts/need $(PYTHON)
	cargo build $(LOCKED) --release --manifest-path bench/rust/Cargo.toml --target-dir $(BENCH_TARGET)

# Proof: each target prints what it tried and keeps its line for RELIABILITY.md. SEED= and, where a target says so,
# CASES= and SECONDS= give other numbers.
SEED ?= 1
PROOF := cargo run $(LOCKED) --quiet --profile proof --package mmsb-proof --
NUMBERS = --seed $(SEED) $(if $(CASES),--cases $(CASES)) $(if $(SECONDS),--seconds $(SECONDS))

kills:  ## processes killed at random moments (CASES=1000)
	$(PROOF) kills $(NUMBERS)

memory:  ## memory refused, counted and given back: allocation failure, zero allocations, leaks
	scripts/memory

# End of the proof.

clean:  ## remove what make built
	rm -rf target $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The tool that builds the wheel.
$(VENV)/.tools: constraints.txt scripts/need
	@scripts/need $(PYTHON)
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) 'maturin>=1.16,<2'
	@touch $@

# The release wheel, installed as a user would have it, with what the tests need.
$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	@scripts/need $(PYTHON)
	rm -rf target/wheels
	$(BIN)/maturin build $(LOCKED) --release --compatibility linux --interpreter $(BIN)/python --out target/wheels
	$(PIP) --no-deps --force-reinstall target/wheels/*.whl
	$(PIP) "$$(echo target/wheels/*.whl)[test]"
	@touch $@

$(VENV)/.bench: $(VENV)/.installed bench/python/requirements.txt
	$(PIP) --requirement bench/python/requirements.txt
	@touch $@
