# One environment, .venv, for everything; it is remade when pyproject.toml changes.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint format types clean

quickstart: $(VENV)/installed  ## set up and run the whole main job on handwritten digits
	$(BIN)/qmnv3 quickstart

# A core for each worker; a file's tests stay together, so that what they share is made once.
test: $(VENV)/installed-dev  ## set up and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

lint: $(VENV)/installed-dev  ## ruff: style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev  ## mypy --strict
	$(BIN)/mypy

format: $(VENV)/installed-dev  ## rewrite files as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist

# torch first and by number: an open range could fetch gigabytes of CUDA for a CPU job.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
