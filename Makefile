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
.PHONY: help demo test test-rust test-python check-rust lint bench bench-rust crash crash-deep crash-soak faults bits \
	damage fuzz kills determinism golden-digests properties properties-deep memory loom shuttle miri \
	miri-big-endian tsan asan lsan asan-python valgrind mutants mutants-fast coverage assertions kills-python \
	enospc readers sigbus golden stateful museum reliability wheel try-wheel sdist clean

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

crash:  ## crashes at every call and what is left of the disk after them (CASES= images)
	$(PROOF) crash $(NUMBERS)

crash-deep:  ## all workloads of three acts, left in all ways: hours
	$(PROOF) crash-deep $(NUMBERS)

crash-soak:  ## random workloads with ever new seeds for SECONDS=600
	$(PROOF) crash --seed $(SEED) --seconds $(or $(SECONDS),600)

faults:  ## every call of the file system fails
	$(PROOF) faults $(NUMBERS)

bits:  ## every single bit of a store of over 64 KiB flipped
	$(PROOF) bits $(NUMBERS)

damage:  ## more than one bit, files in the wrong place, torn ends (CASES=)
	$(PROOF) damage $(NUMBERS)

fuzz:  ## the fuzz targets, each for SECONDS=150 on every core
	scripts/fuzz $(or $(SECONDS),150)

kills:  ## processes killed at random moments (CASES=1000)
	$(PROOF) kills $(NUMBERS)

determinism:  ## random histories taken in every way, compared byte for byte (CASES=10000)
	$(PROOF) determinism $(NUMBERS)

golden-digests:  ## pin the digests of today, after a change that is meant to change them
	$(PROOF) golden-digests > target/golden-digests.txt
	mv target/golden-digests.txt rust/mmsb-proof/golden-digests.txt

properties:  ## random histories beside the model: 500 of 100 acts (CASES=)
	$(PROOF) properties $(NUMBERS)

properties-deep:  ## the same, 5,000 of 500 acts
	$(PROOF) properties-deep $(NUMBERS)

memory:  ## memory refused, counted and given back: allocation failure, zero allocations, leaks
	scripts/memory

loom:  ## the engine under loom: every order of up to 3 preemptions (LOOM_MAX_PREEMPTIONS=2: in a minute)
	scripts/models $@

shuttle:  ## whole commits in random orders with a crash in the middle (SCHEDULES=102000)
	SCHEDULES=$(SCHEDULES) scripts/models $@

# Undefined behaviour. A tool that a machine lacks is installed, or one line says what is missing and no row is kept;
# with NO_SKIP=1 that is a failure.
miri:  ## Miri over the engine on heap memory, stacked and tree borrows (MIRI_SHORT=1: a part in two minutes)
	scripts/undefined $@

miri-big-endian:  ## Miri as a machine of the other byte order
	scripts/undefined $@

tsan:  ## ThreadSanitizer over the engine and its threaded tests, std included
	scripts/undefined $@

asan:  ## AddressSanitizer over the tests of the engine
	scripts/undefined $@

lsan:  ## LeakSanitizer over the tests of the engine
	scripts/undefined $@

asan-python: $(VENV)/.installed  ## AddressSanitizer and LeakSanitizer over the native module in CPython
	scripts/undefined $@

valgrind: $(VENV)/.installed  ## valgrind over a Python run of everything that touches memory
	scripts/undefined $@

mutants:  ## tests of the tests: every mutant in log, checkpoint, recovery and reclaim
	cargo mutants --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-mutants
	scripts/mutants

mutants-fast:  ## the same for a few files
	cargo mutants --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-mutants
	scripts/mutants log/recover.rs log/repair.rs log/meta.rs

coverage:  ## lines and regions of log, checkpoint, recovery and reclaim that the Rust tests reach
	cargo llvm-cov --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-llvm-cov
	scripts/coverage

assertions:  ## how many assertions are on in release, and what they cost a commit
	scripts/assertions

# The same through Python.
KILLS ?= 200
FILLS ?= 100
READERS ?= 10000
STATEFUL ?= stateful

kills-python: $(VENV)/.installed  ## Python processes killed at random moments (KILLS=200)
	$(BIN)/python tests/kills.py $(KILLS) $(SEED)

enospc: $(VENV)/.installed  ## disks filled and freed while the store is in use (FILLS=100, of each kind)
	$(BIN)/python tests/fills.py $(FILLS) $(SEED)

readers: $(VENV)/.installed  ## readers killed and stopped beside a host (READERS=10000)
	$(BIN)/python tests/readers.py $(READERS) $(SEED)

sigbus: $(VENV)/.installed  ## every file cut, replaced and removed under readers and hosts
	$(BIN)/python tests/harms.py $(SEED)

golden: $(VENV)/.installed  ## stores of every released format, read, continued, and refused where they must be
	$(BIN)/python tests/golden.py

stateful: $(VENV)/.installed  ## state machines, 500 x 100 (STATEFUL=deep: 5,000 x 500)
	$(BIN)/python tests/test_stateful.py $(STATEFUL) $(SEED)

museum:  ## defects planted one at a time, which the proofs must find
	scripts/museum

reliability:  ## put what the runs printed into RELIABILITY.md
	scripts/reliability

# End of the proof.

# What is published. zig links against the old glibc of manylinux, for either machine.
WHEEL_TARGETS ?= x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu
DIST := target/dist

wheel: $(VENV)/.dist  ## manylinux wheels for x86-64 and aarch64
	rm -rf $(DIST)/*.whl
	for target in $(WHEEL_TARGETS); do \
		rustup target add $$target && \
		PATH="$(BIN):$$PATH" $(BIN)/maturin build $(LOCKED) --release --zig --target $$target \
			--compatibility manylinux_2_28 --out $(DIST) || exit; \
	done

try-wheel:  ## install the wheel of this machine into a fresh venv and run the demo
	scripts/try-wheel $(PYTHON) $(DIST)

sdist: $(VENV)/.dist  ## the source distribution
	rm -f $(DIST)/*.tar.gz
	$(BIN)/maturin sdist --out $(DIST)


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

$(VENV)/.dist: $(VENV)/.tools
	$(PIP) ziglang
	@touch $@

$(VENV)/.bench: $(VENV)/.installed bench/python/requirements.txt
	$(PIP) --requirement bench/python/requirements.txt
	@touch $@
