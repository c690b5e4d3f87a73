# `make test` and `make demo` each set everything up: a virtual environment in .venv, then the command.
# PYTHON=python3.13 chooses the Python; an environment of another version is then made anew.
VENV := .venv
BIN := $(VENV)/bin
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
FOUND := $(call version,$(BIN)/python)
PYTHON ?= $(if $(FOUND),$(BIN)/python,python3)
# A file of tests at a time, so that its tests share what it sets up; rewritten test files are kept for the next time,
# also where Python is told not to keep what it compiles, as in many containers.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 --dist loadfile $(SKIPS)
# What is installed; with EXTRA=ci also Ray, Gradio, a browser's client and weights, which some slow tests need.
EXTRA ?= dev
INSTALLED := $(VENV)/.installed$(if $(filter dev,$(EXTRA)),,-$(EXTRA))
STALE := $(if $(filter $(FOUND),$(call version,$(PYTHON))),,--clear)

.PHONY: help install test test-parts test-slow test-all lint format types docs demo clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

ifneq ($(STALE),)
.PHONY: $(INSTALLED)
endif
$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamgan needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(STALE) $(VENV)
	$(BIN)/pip install --editable '.[$(EXTRA)]'
	touch $@

install: $(INSTALLED)  ## Create .venv with streamgan and everything for development

test: install  ## The fast suite: every subject, with two-process runs, about five minutes on two cores
	$(PYTEST) -m 'not slow and not gpu'

test-parts: install  ## Ray, and the page in a real browser, which need EXTRA=ci and Chromium
	$(PYTEST) -m 'slow and not gpu' tests/test_sharding_ray.py tests/test_serve.py

test-slow: install  ## The slow suite: the other tests that need no GPU
	$(PYTEST) -m 'slow and not gpu'

test-all: install  ## Every test, those of a GPU too where there is one
	$(PYTEST)

lint: install  ## Style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: install  ## Reformat
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: install  ## Static types
	$(BIN)/pyright

docs: install  ## The documentation site, into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

demo: install  ## The whole journey on real photos: parquet, shards, training, scores, coloured photos
	$(BIN)/streamgan demo --out demo

clean:  ## Remove what the demo and the site made
	rm -rf demo build
