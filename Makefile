# Every target is one line that calls the real tool; run the tool itself for anything finer.
PYTHON ?= python3
# Which build of torch: cpu or cuda. The one for the CPU is a tenth of the size.
TORCH ?= $(shell (nvidia-smi -L || ls /proc/driver/nvidia/gpus) 2>/dev/null | grep -q . && echo cuda || echo cpu)
BIN := .venv/bin
READY := .venv/.installed

.PHONY: help book test lint check table html lab lock licences imports clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

book: $(READY) ## run every chapter in the quick profile (CPU, embedded data), check, build the pages
	$(BIN)/unimat-book run all --profile quick && $(BIN)/unimat-book build --profile quick

test: $(READY) lint ## lint and the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY) ## ruff, codespell, and who may import whom
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell && $(BIN)/lint-imports

check: $(READY) ## are the published notebooks whole, and do they match their sources?
	$(BIN)/unimat-book check --profile full

table: $(READY) ## the column Reproduction of the table: 15 trainings, under ten minutes on one GPU
	$(BIN)/python benchmarks/paper_table.py --profile full

html: $(READY) ## build the pages from the published notebooks, running nothing
	$(BIN)/unimat-book build --profile full

lab: $(READY) ## JupyterLab on the tutorials; the chapters lie beside them (chapters/src/*.md open as notebooks)
	UNIMAT_ROOT=$(CURDIR) $(BIN)/jupyter lab --notebook-dir=$(CURDIR) --LabApp.default_url=/lab/tree/tutorials

lock: $(READY) ## write the hashes of the versions in requirements.lock (needs uv and the network)
	$(BIN)/python .ci/lock.py

licences: $(READY) ## write LICENCES.md, the licence of every package of the environment
	$(BIN)/pip-licenses --with-system --format=markdown --output-file=LICENCES.md --packages $$(sed -n 's/==.*//p' requirements.lock)

imports: $(READY) ## draw who imports whom: _static/imports.svg
	$(BIN)/python .ci/draw_imports.py

clean: ## remove everything built (not the environment, not data/cache)
	rm -rf _build

# One environment, made from the locks; made anew when they or the package's own declaration change.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -qq
WHY_cpu := no NVIDIA GPU was found, so torch is PyTorch's build for the CPU (TORCH=cuda takes the other)
WHY_cuda := an NVIDIA GPU was found, so torch is the build with CUDA (TORCH=cpu takes the small one)
LOCKS_cuda := -r requirements-cuda.lock

$(READY): requirements.lock requirements-cpu.lock requirements-cuda.lock pyproject.toml
	$(if $(filter cpu cuda,$(TORCH)),,$(error TORCH is cpu or cuda, but $(TORCH) came))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11")'
	@echo "Installing requirements.lock into .venv (the first time: a few minutes of downloads); $(WHY_$(TORCH))"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test $(TORCH) = cuda || $(INSTALL) --retries 2 --require-hashes --no-deps -r requirements-cpu.lock
	@$(INSTALL) --require-hashes -r requirements.lock $(LOCKS_$(TORCH))
	@$(INSTALL) --no-build-isolation --no-deps -e .
	@touch $@
