# make serve      set everything up and serve the bundled demo (MODEL=… and ARGS="…" go to `multiflora serve`)
# make test       set everything up, then lint, types and all tests (PYTEST_ARGS="…" goes to pytest)
# make check      before a commit: lint, types and the tests of what has changed against main, in about a minute
# make lint       ruff: rules and format
# make tests      run all tests alone
# make types      mypy, strict
# make tools      install the programs that tests use: nginx, PostgreSQL, Chromium, promtool, helm, an OpenID provider
# make client     write the Python client's operations anew, after a route has changed
# make bench      measure kernels and serving beside transformers + PEFT
# make demo       train the demo's model and adapters from nothing (45 minutes and more)
# make gpu-packages  what a machine with an NVIDIA GPU and no network lacks, in .gpu-packages, to be carried there
# make gpu-check  on a machine with an NVIDIA GPU: kernels, graphs and parity there, with the Python that it has
# make gpu-predict  here: what steps of Llama 3.1 8B must take at least on known cards
# make gpu-contact  there, in calls of nine minutes: all that is to be measured, in the order of its worth
# make clean      remove .venv, caches and the demo server's data
# make help       print this
# Needs Python 3.11 or newer and make; everything else lands in .venv.

suitable = $(shell $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(1))
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(call suitable,$(name))))
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
export MULTIFLORA_DATA_DIR ?= $(CURDIR)/.multiflora
# One more than cores: each waits for its servers a quarter of the time.
workers = $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))')
# The tests start dozens of Python processes, each of which would compile all of our modules anew.
unexport PYTHONDONTWRITEBYTECODE

# On a machine with a GPU nothing is installed: packages that its Python lacks come along in .gpu-packages.
GPU_PYTHON ?= python3
CACHE_PYTHON ?=
OUT ?= gpu-contact
SOURCES := platform:engine:kernels:adapters:benchmarks:.gpu-packages
ON_GPU := PYTHONPATH=$(SOURCES) $(GPU_PYTHON) -P
define needs_gpu
@$(ON_GPU) -c 'import sys, torch, triton; sys.exit(not torch.cuda.is_available())' || { \
  echo "This needs an NVIDIA GPU and a Python with PyTorch and Triton; set GPU_PYTHON=…" >&2; exit 1; }
endef

.PHONY: serve test tests tools check lint types bench gpu-packages gpu-check gpu-predict gpu-contact client demo clean help

serve: $(VENV)/.installed
	exec $(BIN)/multiflora serve $(MODEL) $(ARGS)

# What takes one core alone goes side by side: both kinds of packages, then types and tests.
test:
	$(MAKE) -j2 tools $(VENV)/.installed-dev
	$(MAKE) lint
	$(MAKE) -j2 types tests

tools:
	tests/install_system_packages.sh

tests: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(workers) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: lint types
	$(BIN)/python -m tests.changed

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/multiflora bench kernels
	$(BIN)/python benchmarks/serving.py

gpu-packages:
	PYTHONPATH=$(SOURCES) $(PYTHON) -P -m gpu.packages .gpu-packages $(CACHE_PYTHON:%=--cache-python %)

gpu-check:
	$(needs_gpu)
	$(ON_GPU) -m gpu.check --output $(OUT) -- $(PYTEST_ARGS)

gpu-predict: $(VENV)/.installed
	PYTHONPATH=$(SOURCES) $(BIN)/python -P -m gpu.predict

gpu-contact:
	$(needs_gpu)
	$(ON_GPU) -m gpu.contact --output $(OUT) $(CONTACT_ARGS)

client: $(VENV)/.installed-dev
	$(BIN)/python -m multiflora_platform.client_source

demo: $(VENV)/.installed-dev
	$(BIN)/python examples/demo/train.py --stage all

clean:
	rm -rf $(VENV) .gpu-packages .multiflora .mypy_cache .ruff_cache .pytest_cache .hypothesis

help:
	@sed -n 's/^# //p; /^$$/q' Makefile

# pip compiles on one core, after all else; some packages carry files that no Python can compile.
define install
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e $(1)
$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
endef

# The pip that came with an older Python takes three times as long to choose versions; it would do.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Multiflora needs Python 3.11 or newer; install it or set PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(call install,.)
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(call install,'.[dev]')
	touch $@ $(VENV)/.installed
