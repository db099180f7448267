# SPDX-License-Identifier: Apache-2.0
# The commands of the project. Each sets up what it needs in .venv and build/, and nothing outside
# the checkout; cmake and ninja come from the package index like the Python tools.
# Prerequisites (Debian 12): g++ make git python3-dev python3-venv; clang for `make fuzz`, mmdebstrap
# for `make wheel`.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
# Some tests want a gigabyte or two.
PYTEST_WORKERS ?= --numprocesses auto --maxprocesses 4 --dist worksteal
LAB_ARGS ?=
MATRIX_ARGS ?=
FUZZ_SECONDS ?= 600
SOAK_MINUTES ?= 60
SOAK_ARGS ?=
# The thread sanitizer of clang 14 crashes under CPython; g++ has both sanitizers.
SANITIZE_CXX ?= g++
FUZZ_CXX ?= clang++

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE :=

NATIVE_SOURCES = $(shell find src tests/native tests/double -name '*.[ch]pp' 2>/dev/null)
PACKAGE_FILES = $(shell find python -name '*.py*' -not -name '*.pyc' 2>/dev/null)

# Requirements of the named groups of pyproject.toml, one a line, for `pip install -r`.
requirements = $(BIN)/python -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
	o = p["project"]["optional-dependencies"]; b = p["build-system"]["requires"] + ["cmake>=3.24", "ninja"]; \
	print(*[r for g in sys.argv[1:] for r in (b if g == "build" else p["project"]["dependencies"] if g == "run" else o[g])], sep="\n")'

.PHONY: help demo test native-test python-test docs soak lab lab-all matrix wheel sanitize sanitize-address sanitize-thread fuzz lint bench build clean

help:  ## Show the commands
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---- set-up ---------------------------------------------------------------------------------

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ndverbs needs Python 3.11 or newer; call make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.build-tools: pyproject.toml $(VENV)/.made
	@echo "installing what pyproject.toml names: build run"
	@$(requirements) build run | $(BIN)/python -m pip install --quiet -r /dev/stdin
	@touch $@

$(VENV)/.test-tools: pyproject.toml $(VENV)/.build-tools
	@echo "installing what pyproject.toml names: test"
	@$(requirements) test | $(BIN)/python -m pip install --quiet -r /dev/stdin
	@touch $@

$(VENV)/.lint-tools: pyproject.toml $(VENV)/.build-tools
	@echo "installing what pyproject.toml names: run test lint"
	@$(requirements) run test lint | $(BIN)/python -m pip install --quiet -r /dev/stdin
	@touch $@

$(VENV)/.wheel-tools: pyproject.toml $(VENV)/.build-tools
	@echo "installing what pyproject.toml names: run test wheel"
	@$(requirements) run test wheel | $(BIN)/python -m pip install --quiet -r /dev/stdin
	@touch $@

$(VENV)/.docs-tools: pyproject.toml $(VENV)/.build-tools
	@echo "installing what pyproject.toml names: docs"
	@$(requirements) docs | $(BIN)/python -m pip install --quiet -r /dev/stdin
	@touch $@

$(VENV)/.installed: pyproject.toml CMakeLists.txt $(NATIVE_SOURCES) $(PACKAGE_FILES) $(VENV)/.build-tools
	@echo "building ndverbs"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation \
		--config-settings=cmake.define.NDVERBS_TESTING=ON --config-settings=cmake.define.NDVERBS_WERROR=ON --editable .
	@touch $@

wheel: $(VENV)/.wheel-tools  ## Build wheels into dist/, for each CPython that can be had, and try them
	PYTHONPATH=tests $(BIN)/python -m wheels
	$(BIN)/python -m pytest --noconftest tests/wheels $(PYTEST_ARGS)

build: $(VENV)/.installed  ## Build the package, editable, in .venv

# ---- commands -------------------------------------------------------------------------------

demo: $(VENV)/.installed  ## Move a real file between two processes by RDMA
	$(BIN)/ndverbs demo

bench: $(VENV)/.installed  ## Time writes, reads and sends (BENCH_ARGS="write --bw")
	$(BIN)/ndverbs bench $(BENCH_ARGS)

test: native-test python-test  ## Run every test that needs no privileges

native-test: $(VENV)/.build-tools
	$(BIN)/cmake -S . -B build/native -G Ninja -DNDVERBS_NATIVE_TESTS=ON -DNDVERBS_WERROR=ON -DNDVERBS_PYTHON=OFF \
		--log-level=WARNING
	$(BIN)/cmake --build build/native
	$(BIN)/ctest --test-dir build/native --output-on-failure

python-test: $(VENV)/.installed $(VENV)/.test-tools
	$(BIN)/python -m pytest $(PYTEST_WORKERS) $(PYTEST_ARGS)

docs: $(VENV)/.installed $(VENV)/.docs-tools  ## Build the documentation site, with its notebooks run, in build/docs
	$(BIN)/python -m sphinx -W -E --keep-going -q -c docs . build/docs
	@echo "the site begins at build/docs/index.html"

soak: $(VENV)/.installed $(VENV)/.test-tools  ## Run the long campaigns for SOAK_MINUTES (SOAK_ARGS: names of campaigns)
	$(BIN)/python tests/soak.py $(SOAK_MINUTES) $(SOAK_ARGS)

lab: $(VENV)/.build-tools  ## Run the suites on kernel RDMA devices in a virtual machine (docs/lab.md; LAB_ARGS=...)
	PYTHONPATH=tests $(BIN)/python -m lab test $(LAB_ARGS)

lab-all: $(VENV)/.build-tools  ## Run all of the lab's suites on all of its kernels (hours where QEMU emulates)
	PYTHONPATH=tests $(BIN)/python -m lab test --all --release bookworm,trixie,testing $(LAB_ARGS)

matrix: $(VENV)/.build-tools  ## Run every test on Debian 12, 13 and testing, in roots of their own (MATRIX_ARGS=...)
	PYTHONPATH=tests $(BIN)/python -m matrix $(MATRIX_ARGS)

# A sanitized extension needs an environment of its own: the editable install's import hook would
# win over PYTHONPATH. It borrows the packages of .venv, whose hook a nested .pth does not run.
# $(1): folder under build/, $(2): NDVERBS_SANITIZE
define sanitized_build
	$(BIN)/cmake -S . -B build/$(1) -G Ninja -DCMAKE_CXX_COMPILER=$(SANITIZE_CXX) -DNDVERBS_SANITIZE=$(2) \
		-DNDVERBS_PYTHON=ON -DNDVERBS_TESTING=ON -DNDVERBS_NATIVE_TESTS=ON -DNDVERBS_WERROR=ON \
		-DPython_EXECUTABLE=$(abspath $(BIN))/python \
		-Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)"
	$(BIN)/cmake --build build/$(1)
	test -x build/$(1)/venv/bin/python || $(BIN)/python -m venv --without-pip build/$(1)/venv
	site="$$(build/$(1)/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"; \
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))' > "$$site/borrowed.pth"; \
	rm -rf "$$site/ndverbs" "$$site/pytest_ndverbs"; cp -R python/ndverbs python/pytest_ndverbs "$$site"; \
	$(BIN)/cmake --install build/$(1) --prefix "$$site"
endef

# The run-time library must come first in the process, and libstdc++ with it, or the interceptor
# of C++ exceptions finds nothing to forward to.
preload = $$($(SANITIZE_CXX) -print-file-name=$(1)):$$($(SANITIZE_CXX) -print-file-name=libstdc++.so)
# Address randomisation with many bits collides with the shadow memory of g++ 12's thread sanitizer.
NO_ASLR = $(shell setarch -R true 2>/dev/null && echo setarch -R)

sanitize: sanitize-address sanitize-thread  ## Run the tests under ASan+UBSan, and rings, state word and a subset under TSan

sanitize-address: $(VENV)/.installed $(VENV)/.test-tools
	$(call sanitized_build,asan,address)
	$(BIN)/ctest --test-dir build/asan --output-on-failure
	$(call sanitized_pytest,asan,address,libasan.so,)

sanitize-thread: $(VENV)/.installed $(VENV)/.test-tools
	$(call sanitized_build,tsan,thread)
	TSAN_OPTIONS=$(TSAN_OPTIONS) $(NO_ASLR) $(BIN)/ctest --test-dir build/tsan --output-on-failure
	$(call sanitized_pytest,tsan,thread,libtsan.so,-m tsan,$(NO_ASLR))

# Reports go to files, because pytest captures what a process writes before it dies. The
# interpreter and other packages leak at exit: a leak counts when our code is on its stack.
# $(1): folder under build/, $(2): NDVERBS_SANITIZE, $(3): library, $(4): selection, $(5): prefix
define sanitized_pytest
	@rm -rf build/$(1)/reports; mkdir -p build/$(1)/reports; status=0; \
	log="log_path=$(abspath build)/$(1)/reports/report"; \
	ASAN_OPTIONS="$(ASAN_OPTIONS):$$log" UBSAN_OPTIONS="$(UBSAN_OPTIONS):$$log" TSAN_OPTIONS="$(TSAN_OPTIONS):$$log" \
	PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1 NDVERBS_SANITIZED=$(2) LD_PRELOAD="$(call preload,$(3))" \
		$(5) build/$(1)/venv/bin/python -m pytest $(4) $(PYTEST_WORKERS) $(SANITIZE_PYTEST_ARGS) $(PYTEST_ARGS) || status=$$?; \
	for report in build/$(1)/reports/*; do \
		test -s "$$report" || continue; \
		if grep -q -E 'ERROR: AddressSanitizer|runtime error:|: ThreadSanitizer' "$$report"; then cat "$$report"; status=1; \
		else awk -v RS= '/ leak of / && /_(native|testing)\.|\/src\/(base|iwarp|core|providers|stream|bench|bindings)\// \
			{ print $$0 "\n"; found = 1 } END { exit found }' "$$report" || status=1; fi; \
	done; \
	test $$status = 0 && echo "$(2) sanitizer: clean" || { echo "$(2) sanitizer: failed, see above"; exit 1; }
endef

# exitcode=0: a leak of the interpreter's must not change what a child process returns; errors abort.
# intercept_tls_get_addr=0: g++ 12's guess where glibc keeps a module's thread-local block is wrong at
# times, and the leak checker then dies of it ("DTLS 4 at 0x972", signal 11).
ASAN_OPTIONS = intercept_tls_get_addr=0:detect_leaks=1:exitcode=0:abort_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1
UBSAN_OPTIONS = print_stacktrace=1:abort_on_error=1
TSAN_OPTIONS = second_deadlock_stack=1:exitcode=66:suppressions=$(abspath tests/tsan.supp)
# Several times slower than a plain run: the limits that only mean failure move with it.
# g++'s UBSan takes no log_path and writes to descriptor 2, which pytest must leave alone.
SANITIZE_PYTEST_ARGS = --capture=sys --timeout=600 -o faulthandler_timeout=660

fuzz: $(VENV)/.build-tools  ## Fuzz every target for FUZZ_SECONDS (needs clang)
	@command -v $(FUZZ_CXX) > /dev/null || { echo "make fuzz needs $(FUZZ_CXX) for libFuzzer; on Debian: apt-get install clang"; exit 1; }
	$(BIN)/cmake -S . -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=$(FUZZ_CXX) -DNDVERBS_FUZZ=ON -DNDVERBS_SANITIZE=address \
		-DNDVERBS_WERROR=ON -DNDVERBS_PYTHON=OFF
	$(BIN)/cmake --build build/fuzz
	@found=0; for target in build/fuzz/fuzz/fuzz_*; do \
		test -x "$$target" || continue; found=1; \
		name="$${target##*/fuzz_}"; corpus="build/fuzz/corpus/$$name"; \
		seeds="tests/fuzz/corpus/$$name"; mkdir -p "$$corpus"; test -d "$$seeds" || seeds=; \
		echo "fuzzing $$name for $(FUZZ_SECONDS) s"; \
		"$$target" -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
			-artifact_prefix="build/fuzz/" "$$corpus" $$seeds; \
	done; test $$found = 1 || echo "no fuzz targets in tests/fuzz yet"

FORMATTED = $(shell find src tests/native tests/fuzz tests/double -name '*.[ch]pp' 2>/dev/null)

lint: $(VENV)/.lint-tools  ## Check format, style, types and the stub
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)
	@if [ -e tests/check_stub.py ]; then $(MAKE) --no-print-directory $(VENV)/.installed && $(BIN)/python tests/check_stub.py; fi

clean:  ## Remove builds and the environment
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
