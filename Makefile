# Every target is one line that calls the real tool; run the tool itself for anything finer.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.PHONY: help book test lint check table html lab clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

book: $(READY) ## run every chapter in the quick profile (CPU, embedded data), check, build the pages
	$(BIN)/unimat-book run all --profile quick && $(BIN)/unimat-book build --profile quick

test: $(READY) lint ## lint and the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(READY) ## ruff, codespell, and who may import whom
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell && $(BIN)/lint-imports

check: $(READY) ## are the published notebooks whole, and do they match their sources?
	$(BIN)/unimat-book check --profile full

table: $(READY) ## the paper's whole table, 15 trainings, on one GPU in under ten minutes
	$(BIN)/python benchmarks/paper_table.py --profile full

html: $(READY) ## build the pages from the published notebooks, running nothing
	$(BIN)/unimat-book build --profile full

lab: $(READY) ## JupyterLab on the chapters (open chapters/src/*.md as notebooks)
	UNIMAT_ROOT=$(CURDIR) $(BIN)/jupyter lab --notebook-dir=$(CURDIR)

clean: ## remove everything built (not the environment, not data/cache)
	rm -rf _build

# One environment, made from the lock; made anew when the lock or the package's own declaration changes.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11")'
	@echo "Installing requirements.lock into .venv (the first time: a few minutes of downloads)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@
