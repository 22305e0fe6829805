# The two commands of the README, and what continuous integration runs.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow lint

quickstart: $(VENV)/quickstart.installed
	test -e shards/quickstart || $(BIN)/python -m data_tools build --source sample --output shards/quickstart
	PATH="$(CURDIR)/$(BIN):$$PATH" deepspeed -q launch/train.py --config configs/quickstart.yaml

test: $(VENV)/dev.installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/dev.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# `constraints.txt` holds the versions this was tested with; `setup.py` the ranges it should work with.
$(VENV)/%.installed: setup.py constraints.txt
	test -e $(BIN)/python || $(PYTHON) -m venv $(VENV)
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --constraint constraints.txt --editable '.[$*]'
	touch $@
