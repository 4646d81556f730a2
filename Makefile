# Every target stands alone: it finds a Python, makes .venv and installs what it needs, once.
# Another interpreter: make PYTHON=/path/to/python3.12 test

CANDIDATES := python3.11 python3.12 python3.13 python3
# A name on the path is not enough: version managers leave shims that run nothing.
USABLE = -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p $(USABLE) && echo $$p && break; done)

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check docs wheel clean

help:
	@echo "make demo       pre-train on a few pictures and look at the result"
	@echo "make test       the tests (make test-slow: those that take minutes)"
	@echo "make check      format, lint, types"
	@echo "make docs       the pages, into site/"
	@echo "make wheel      sdist and wheel, into dist/"
	@echo "make clean      remove all that make made, .venv too"

demo: .venv/base.stamp
	$(BIN)/python experiments/image.py --epochs 120 --seeds 3 --out runs/demo

test: .venv/dev.stamp
	$(BIN)/pytest

test-slow: .venv/dev.stamp
	$(BIN)/pytest -m slow

check: .venv/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

docs: .venv/docs.stamp
	$(BIN)/mkdocs build --strict

wheel: .venv/dev.stamp
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- installing: a stamp is newer than the two files that say what belongs in .venv ---

.venv/bin/pip:
	@python="$(PYTHON)"; test -n "$$python" && $$python $(USABLE) || { \
		echo "multimask needs Python 3.11 or later with venv; tried: $(or $(PYTHON),$(CANDIDATES))." \
		"Install one (on Debian: apt install python3-venv), or name it:" \
		"make PYTHON=/path/to/python ..." >&2; exit 1; }; \
	$$python -m venv --clear .venv

# torch first and alone, so that nothing else decides which build of it comes
.venv/base.stamp: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) torch
	$(INSTALL) -e .
	@touch $@

.venv/dev.stamp: .venv/base.stamp
	$(INSTALL) -e '.[dev]'
	@touch $@

.venv/docs.stamp: .venv/base.stamp
	$(INSTALL) -e '.[docs]'
	@touch $@
