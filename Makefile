# The few commands a contributor needs.  `make demo` and `make test` do all the set-up themselves.
SHELL := /bin/bash
# Debian's own interpreter first: it is what users have.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11) $(shell command -v python3.11 || command -v python3))
VENV := .venv
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.PHONY: demo test bench lint docs clean

$(RUN): pyproject.toml scripts/sampan scripts/sampan-oci
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { apt-get update -q && apt-get install -qy --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -e .
	touch $@

$(DEV): $(RUN)
	$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(RUN)
	scripts/demo

test: $(DEV)
	scripts/test

bench: $(DEV)
	$(VENV)/bin/python -m bench

lint: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: $(RUN)
	$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	rm -rf $(VENV) dist build-out site
