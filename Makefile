# GNU make and a POSIX shell. `make` alone lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINS := pyproject.toml constraints.txt tools/torch_cpu.py shared/native.c $(wildcard shared/kernels/*.h)
comma := ,
# Pip's own check for a newer pip is noise here.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' Makefile)

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile

install: $(VENV)/installed ## Install what running needs into .venv

run: $(VENV)/installed ## Install what is missing, then start everything; Ctrl-C stops it
	@exec $(BIN)/python -m launcher

train: $(VENV)/installed ## Train the model in service on the votes it got (ARGS="--help" lists the options)
	@exec $(BIN)/python -m dialogue_service.training $(ARGS)

test: $(VENV)/installed-dev ## Install what the tests need, then run them (ARGS="-k memory" to choose)
	@exec $(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/installed-dev ## Check style, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

audit: $(VENV)/installed-dev ## Look for versions with known vulnerabilities in constraints.txt
	@$(BIN)/python -m tools.audit

fuzz: $(VENV)/installed-dev ## Try thousands of made-up requests; writes benchmarks/fuzz.md (ARGS="--examples 100" for fewer)
	@$(BIN)/python -m benchmarks.fuzz $(ARGS)

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

bench-learning: $(VENV)/installed ## Measure what thumbs teach; writes benchmarks/learning.md (DATA=folder)
	@$(BIN)/python -m benchmarks.learning --data $(or $(DATA),../shared/data/dialogue) $(ARGS)

torture: $(VENV)/installed-dev ## Kill, break and overload Parley; writes benchmarks/reliability.md (ARGS="--rounds 50")
	@$(BIN)/python -m benchmarks.torture $(ARGS)

bench-training: $(VENV)/installed ## Measure what a training job costs those who chat; writes benchmarks/training_load.md
	@$(PIP_INSTALL) -e '.[bench]'
	@$(BIN)/python -m benchmarks.training_load $(ARGS)

clean: ## Remove .venv and the tools' caches, never the memory in .data
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info build shared/*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The stamps are made last: an install that was interrupted is done again, one that is older than the pins too.
$(VENV)/installed: $(PINS)
	@$(call prepare)
	@echo "Installing the other packages (about 220 MB, a minute or so)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/installed-dev: $(PINS)
	@$(call prepare)
	@echo "Installing the other packages and the tests' tools (about 320 MB, a minute or so)"
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
