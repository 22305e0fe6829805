# The commands used by README, the documentation and continuous integration.

PYTHON ?= python3.11
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2

.PHONY: quickstart test test-slow test-oldest lint docs

quickstart: $(VENV)/quickstart.installed
	test -e shards/quickstart || $(BIN)/python -m data_tools build --source sample --output shards/quickstart
	PATH="$(CURDIR)/$(BIN):$$PATH" deepspeed -q launch/train.py --config configs/quickstart.yaml

test: $(VENV)/dev.installed
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

test-slow: $(VENV)/dev.installed
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest -m 'hypothesis and not slow' --hypothesis-profile=thorough

# The fast tests with the oldest versions that setup.py allows, in a separate environment of about 8 GB, because its
# torch is a CUDA build. `.ci/nightly` runs it.
test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

lint: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# `setup.py` has the supported version ranges, `constraints-oldest.txt` their lower bounds, `constraints.txt` the versions
# used for testing.
$(VENV)/%.installed: setup.py $(CONSTRAINTS)
	test -e $(BIN)/python || $(PYTHON) -m venv $(VENV)
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable '.[$*]'
	touch $@
