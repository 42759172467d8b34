# Two commands: `make serve` runs the server with an example deployed, `make test` runs the tests.
# Both need Python 3.11 or newer and make, and install everything else into .venv, as wheels (one pure Python package
# of the tests, forbiddenfruit, has none).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --constraint constraints.txt

.PHONY: help serve tools test check bench docs clean
.DEFAULT_GOAL := help

help:
	@echo "make serve   run the server on embedded defaults with the greeter example deployed"
	@echo "make tools   install the compilers for services in C and Go"
	@echo "make test    run every test"
	@echo "make check   ruff and mypy"
	@echo "make bench   measure the server beside a bare one"
	@echo "make docs    write docs/configuration.md and docs/cli.md from the code"
	@echo "make clean   remove the environment and the data folder"

serve: $(VENV)/serve.ok
	@exec $(BIN)/insula serve --deploy greeter $(ARGS)

tools: $(VENV)/tools.ok

test: $(VENV)/test.ok
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/test.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/test.ok
	$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/serve.ok
	$(BIN)/insula config docs --write docs/configuration.md
	$(BIN)/insula reference --write docs/cli.md

$(VENV)/serve.ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Insula needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 …") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Insula into $(VENV) (about a minute the first time)"
	@$(PIP) --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@

$(VENV)/tools.ok: $(VENV)/serve.ok
	@echo "installing the compilers for C and Go (180 MB)"
	@$(PIP) --editable '.[build]'
	@touch $@

$(VENV)/test.ok: $(VENV)/serve.ok
	@echo "installing what the tests need"
	@$(PIP) --no-binary forbiddenfruit --editable '.[postgres,s3,build,test]'
	@touch $@

clean:
	rm -rf $(VENV) insula-data build dist
