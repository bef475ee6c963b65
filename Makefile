# `make demo` and `make test` need Python >= 3.11 and a package index, nothing else:
# each builds the environments it uses inside the checkout.
#
# There are two to work in, because niquests brings urllib3-future, which takes the place of
# urllib3 in the whole environment:
#   .venv           every tool, every backend but niquests, the real urllib3
#   .venv-niquests  every tool, every backend, urllib3-future
# and two that hold what a user may have instead:
#   .venv-wheel     what a user gets without extras: the built wheel and what it requires
#   .venv-lowest    as .venv, with the oldest versions that setup.cfg allows

# Override with `make test PYTHON=/path/to/python`.
PYTHON ?= python3

# What runs again with urllib3-future in place, as a pytest -m expression.
NIQUESTS_TESTS ?= contract or niquests

# Test processes side by side: most tests wait for a server rather than work.
WORKERS ?= 2

# Handed on to every pytest run, as in `make tests PYTEST_ARGS="-x -k retry"`.
PYTEST_ARGS ?=

# Handed on to the benchmarks; `--help` lists what they take.
BENCH_ARGS ?=

BIN := .venv/bin
BIN_NIQUESTS := .venv-niquests/bin
BIN_LOWEST := .venv-lowest/bin
READY := .venv/.ready
READY_NIQUESTS := .venv-niquests/.ready
READY_LOWEST := .venv-lowest/.ready
PACKAGING := setup.cfg setup.py pyproject.toml

MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(READY) ## Fetch in parallel from an embedded server and show the speed-up
	@$(BIN)/python examples/demo.py

.PHONY: test
test: lint types layers tests tests-niquests wheel ## Everything a change must pass

.PHONY: lint
lint: $(READY) ## Style and formatting
	@echo "==> ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "Not formatted: run 'make format'."; exit 1; }

.PHONY: format
format: $(READY) ## Format the code and sort the imports
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: $(READY) ## Static types
	@echo "==> mypy"
	@$(BIN)/mypy

.PHONY: layers
layers: $(READY) ## Imports point down only
	@echo "==> import-linter"
	@$(BIN)/lint-imports --no-cache --no-logo

.PHONY: tests
tests: $(READY) ## The tests, with the real urllib3
	@echo "==> pytest"
	@$(BIN)/python -m pytest -q -n $(WORKERS) $(PYTEST_ARGS)

.PHONY: tests-niquests
tests-niquests: $(READY_NIQUESTS) ## The contract once more, with niquests and urllib3-future
	@echo "==> pytest, with urllib3-future"
	@$(BIN_NIQUESTS)/python -m pytest -q -n $(WORKERS) -m "($(NIQUESTS_TESTS)) and not soak" $(PYTEST_ARGS)

.PHONY: tests-lowest
tests-lowest: $(READY_LOWEST) ## The tests, with the oldest libraries that setup.cfg allows
	@echo "==> pytest, with the oldest libraries"
	@$(BIN_LOWEST)/python -m pytest -q -n $(WORKERS) $(PYTEST_ARGS)

.PHONY: wheel
wheel: ## Build the wheel and use it, without any extra
	@echo "==> the wheel, without extras"
	@rm -rf build
	@$(PYTHON) -m venv --clear .venv-wheel
	@.venv-wheel/bin/python -m pip install -qq --prefer-binary .
	@rm -rf build
	@.venv-wheel/bin/python -P -W error tests/base_install.py

.PHONY: coverage
coverage: $(READY) ## Branch coverage of the tests
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: bench
bench: $(READY) ## The benchmarks, against what users would pick instead
	@$(BIN)/python -m benchmarks.compare $(BENCH_ARGS)

.PHONY: gates
gates: $(READY) ## Measure rate, stop, timeouts and an outage on every backend
	@$(BIN)/python -m benchmarks.gates $(BENCH_ARGS)

.PHONY: soak
soak: $(READY) ## The long runs under load
	@$(BIN)/python -m pytest -q -s -m soak --timeout 3600 $(PYTEST_ARGS)

.PHONY: clean
clean: ## Remove environments, builds and caches
	@rm -rf .venv .venv-niquests .venv-wheel .venv-lowest benchmarks/.envs build dist *.egg-info htmlcov .coverage .coverage.* .benchmarks \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find parallel_requests tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(READY): $(PACKAGING)
	$(call environment,.venv,dev$(comma)requests$(comma)aiohttp$(comma)curl)
	@touch $@

# Both urllib3 and urllib3-future own the same files, and the one installed last is the one imported:
# put urllib3-future there, whatever the order was.
$(READY_NIQUESTS): $(PACKAGING)
	$(call environment,.venv-niquests,dev$(comma)all)
	@$(BIN_NIQUESTS)/python -c "import urllib3, sys; sys.exit(int(urllib3.__version__.split('.')[2]) < 900)" \
		|| $(BIN_NIQUESTS)/python -m pip install -qq --force-reinstall --no-deps urllib3-future
	@touch $@

$(READY_LOWEST): $(PACKAGING)
	$(call environment,.venv-lowest,dev$(comma)requests$(comma)aiohttp$(comma)curl)
	@sed -n '/^install_requires/,/^dev =/{/niquests\|urllib3-future/d;s/^    \([^ ].*\)>=/\1==/p}' setup.cfg \
		| $(BIN_LOWEST)/python -m pip install -qq -r /dev/stdin
	@touch $@

comma := ,

# $(call environment,folder,extras): a fresh environment with this checkout, editable, in it.
define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "$(PYTHON) is missing or older than Python 3.11; name another: make PYTHON=python3.12" >&2; exit 1; }
@echo "==> setting up $(1) (once; a minute or two)"
@$(PYTHON) -m venv --clear $(1)
@$(1)/bin/python -m pip install -qq --prefer-binary --editable ".[$(2)]"
endef
