# One command each. Every target sets up what it needs; only Python >= 3.11, pip and make must be there.
#
#   make test PYTHON=python3.12          another interpreter
#   make test VENV=/tmp/venv             another environment (default: .venv)
#   make test ARGS="-k batching -x"      arguments for pytest, the demo or the benchmark
#
# torch comes from wherever pip looks. PyPI's Linux wheel brings CUDA along; for the CPU build (a tenth of the size):
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Most tests wait for processes of their own: one more worker than the two cores that CI has keeps them busy.
JOBS   ?= 3
# Compiled modules are kept, as in .ci/run: the tests start hundreds of processes, and pytest rewrites every assertion.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo check format docs test soak gpu browser bench ci clean

help: ## this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## virtual environment with everything, under constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "penstock needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@# Debian's python3 comes without ensurepip; then the pip that is there installs one into the environment.
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -qq pip; }
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: $(STAMP) ## real text through the queue into a real model, and back as answers (under two minutes)
	$(BIN)/penstock demo $(ARGS)

check: $(STAMP) ## ruff, mypy strict, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_floors.py

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## rewrite the generated pages
	$(BIN)/python docs/gen_settings.py

test: $(STAMP) ## all tests but the long ones and those that need a GPU; brings its own Redis and Postgres
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not soak and not gpu and not browser" $(ARGS)

soak: $(STAMP) ## the long variants, and property tests with far more examples
	$(BIN)/pytest -m "soak or hypothesis" --hypothesis-profile penstock-soak --timeout 3600 $(ARGS)

gpu: $(STAMP) ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu $(ARGS)

browser: $(STAMP) ## the tests that look at the dashboard with Chromium (apt install chromium)
	$(BIN)/pytest -m browser $(ARGS)

bench: $(STAMP) ## the queue against stock Celery, on this machine, in one run
	$(BIN)/python benchmarks/queue.py $(ARGS)

ci: ## the whole gate from nothing, as CI runs it
	bash .ci/run

clean: ## remove the environment, caches and build products
	rm -rf $(VENV) .venv-* dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
