# What a developer runs. Needs make and Python 3.11 or newer, nothing else:
# each target sets up .venv as far as it must, once, and again when
# pyproject.toml, setup.py or constraints.txt change.

PYTHON ?= python3
VENV   := .venv
BUILD  := build/bench

BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check
PINS  := pyproject.toml setup.py constraints.txt

# A stamp is touched only after all of its set-up succeeded, so an interrupted
# download is repeated by the next run.
CREATED := $(VENV)/.stamp-created
RUNTIME := $(VENV)/.stamp-runtime
PLOTS   := $(VENV)/.stamp-bench
DEV     := $(VENV)/.stamp-dev
TORCH   := $(VENV)/.stamp-torch

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-logic test-processes torch-suite many-ranks check bench sim clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(RUNTIME) ## Show two sealed processes, and what an eavesdropper sees
	$(BIN)/sealfabric demo

# Tests of logic alone need a processor and nothing else. They run beside those that start
# processes and wait for them, which leave a core idle much of the time, and at the lowest
# priority, so that they do not take from the others what has to be on time.
LOGIC := $(addprefix tests/,crypto identity link sim tensor wire) $(wildcard tests/bench/test_sim_*.py) \
  $(patsubst %,tests/collectives/test_%.py,execution moving operands reducing reduction steps)

test: $(TORCH) ## Run all tests, with torch
	@$(MAKE) --no-print-directory --jobs=2 test-processes test-logic

test-processes: $(TORCH)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(LOGIC))

# Its output comes in one piece when it has ended, in the midst of the other's.
test-logic: $(TORCH)
	@mkdir -p build
	@nice -n 19 $(BIN)/python -m pytest -o timeout=600 -o cache_dir=.pytest_cache/logic $(LOGIC) \
	  > build/test-logic.log 2>&1; status=$$?; cat build/test-logic.log; exit $$status

torch-suite: $(TORCH) ## Run PyTorch's own distributed tests over the backend, with 2 and 4 ranks
	PYTHONPATH=tests $(BIN)/python -m support.torch_suite_runner

many-ranks: $(DEV) ## Run every collective operation among 64 processes
	PYTHONPATH=tests $(BIN)/python -m support.many_ranks 64

check: $(DEV) ## Lint, format, types, import layers and repository rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict transport bench
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_repository.py

bench: $(PLOTS) $(TORCH) ## Measure transfers, collectives and a training step beside others, into build/bench
	mkdir -p $(BUILD)
	$(BIN)/sealfabric bench p2p --targets --json $(BUILD)/p2p.json --plot $(BUILD)/p2p.svg \
	  --markdown $(BUILD)/p2p.md
	$(BIN)/sealfabric bench collectives --targets --json $(BUILD)/collectives.json \
	  --plot $(BUILD)/collectives.svg
	$(BIN)/sealfabric bench ddp --json $(BUILD)/ddp.json

# All experiments on the simulated fabric, as JSON and drawings; the last one takes minutes.
SIM      := build/sim
SIMULATE  = $(BIN)/sealfabric sim $(2) --json $(SIM)/$(1).json --plot $(SIM)/$(1).svg

sim: $(PLOTS) ## Simulate all experiments beside a TCP-like control, into build/sim
	mkdir -p $(SIM)
	$(call SIMULATE,single,single --seeds 1-5)
	$(call SIMULATE,incast-15,incast --seeds 1-5)
	$(call SIMULATE,incast-127,incast --senders 127 --seeds 1-5)
	$(call SIMULATE,burst,burst --seeds 1-5)
	$(call SIMULATE,imbalance,imbalance --seeds 1-5)
	$(call SIMULATE,fairness,fairness --seeds 1-5)
	$(call SIMULATE,failure,failure --seeds 1-5)
	$(call SIMULATE,wan,wan --seeds 1-5)
	$(call SIMULATE,permutation-128,permutation --seeds 1-5)
	$(call SIMULATE,permutation-1024,permutation --hosts 1024 --only srd)

clean: ## Remove everything that these targets made
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each set-up upgrades nothing and pins what it adds: the constraints hold torch to
# one version, since an open range would fetch gigabytes of newer GPU libraries.
$(RUNTIME): $(CREATED) $(PINS)
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(PLOTS): $(CREATED) $(PINS)
	$(PIP) install --quiet -c constraints.txt -e '.[bench]'
	@touch $@ $(RUNTIME)

$(DEV): $(CREATED) $(PINS)
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(RUNTIME) $(PLOTS)

$(TORCH): $(DEV)
	$(PIP) install --quiet -c constraints.txt -e '.[dev,torch-dev]'
	@touch $@

$(CREATED):
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "There is no '$(PYTHON)' here. Install Python 3.11 or newer, or name one:" >&2; \
	  echo "    make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Sealfabric needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name a newer one:" >&2; \
	  echo "    make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@
