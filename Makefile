# make serve   set everything up and serve the bundled demo (MODEL=… and ARGS="…" go to `multiflora serve`)
# make test    set everything up, then lint, types and all tests
# make bench   measure kernels and serving beside transformers + PEFT
# Needs Python 3.11 or newer and make; everything else lands in .venv.

suitable = $(shell $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(1))
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(call suitable,$(name))))
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
export MULTIFLORA_DATA_DIR ?= $(CURDIR)/.multiflora

.PHONY: serve test lint types bench demo clean

serve: $(VENV)/.installed
	exec $(BIN)/multiflora serve $(MODEL) $(ARGS)

test: lint types
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/multiflora bench kernels
	$(BIN)/python benchmarks/serving.py

demo: $(VENV)/.installed-dev
	$(BIN)/python examples/demo/train.py --stage all

clean:
	rm -rf $(VENV) .multiflora .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Multiflora needs Python 3.11 or newer; install it or set PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.installed
