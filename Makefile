# GNU make and a POSIX shell. `make` alone lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := pyproject.toml constraints.txt tools/torch_cpu.py
comma := ,
# Pip's own check for a newer pip is noise here.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install run test lint bench-intents bench-intent-speed bench-generation bench-replies bench-recall clean

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

install: $(VENV)/installed ## Install what running needs into .venv

run: $(VENV)/installed ## Install what is missing, then start everything; Ctrl-C stops it
	@exec $(BIN)/python -m launcher

test: $(VENV)/installed-dev ## Install what the tests need, then run them (ARGS="-k memory" to choose)
	@exec $(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/installed-dev ## Check style, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench-intent-speed: $(VENV)/installed ## Measure how fast intents are found; writes benchmarks/intent_speed.md
	@$(BIN)/python -m benchmarks.intent_speed

bench-intents: $(VENV)/installed ## Measure how well intents are found; writes benchmarks/intents.md (DATA=folder)
	@$(BIN)/python -m benchmarks.intents --data $(or $(DATA),../shared/data/intents) $(ARGS)

bench-generation: $(VENV)/installed ## Measure how fast replies come; writes benchmarks/generation.md (LLAMA=1 builds llama.cpp)
	@$(PIP_INSTALL) -e '.[bench$(if $(LLAMA),$(comma)bench-llama)]'
	@$(BIN)/python -m benchmarks.generation $(if $(DATA),--vocab $(DATA)) $(ARGS)

bench-replies: $(VENV)/installed ## Measure how good replies are; writes benchmarks/replies.md (DATA=folder)
	@$(BIN)/python -m benchmarks.replies --data $(or $(DATA),../shared/data/dialogue) $(ARGS)

bench-recall: $(VENV)/installed ## Measure whether the starter uses what it was told; writes benchmarks/recall.md (DATA=folder)
	@$(BIN)/python -m benchmarks.recall --data $(or $(DATA),../shared/data/dialogue) $(ARGS)

clean: ## Remove .venv and the tools' caches, never the memory in .data
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info build
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The stamps are made last: an install that was interrupted is done again, one that is older than the pins too.
$(VENV)/installed: $(PINS)
	@$(call prepare)
	@echo "Installing the other packages (about 150 MB, a minute or so)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/installed-dev: $(PINS)
	@$(call prepare)
	@echo "Installing the other packages and the tests' tools (about 250 MB, a minute or so)"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/installed $@

define prepare
command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Install Python 3.11 to 3.13, or name one: make PYTHON=/path/to/python3.12"; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
  || { echo "Parley needs Python 3.11 to 3.13; this is $$($(PYTHON) --version). Name another one: make PYTHON=python3.12"; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
  || { echo "This Python cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }; \
echo "Preparing $(VENV) with $$($(PYTHON) --version) and torch (about 200 MB, a minute or so)"; \
$(PYTHON) -m venv $(VENV) && $(BIN)/python tools/torch_cpu.py
endef
