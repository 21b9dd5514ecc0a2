# The commands of a checkout. `make help` lists them; `make run` is where to begin.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python

# What a shell has set for other projects must not reach ours.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV
export PYTHON

.PHONY: screenshots help run test test-deps lint format zipapp example chaos abuse lock clean bench bench-quick bench-growth bench-soak

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## Serve the demo: offline, with a demo provider, a user and a key
	@exec $(PY) cli.py serve --demo $(ARGS)

test: $(VENV)/.dev ## Run every test (ARGS="-k words" runs some)
	@$(PY) -m pytest -rs $(ARGS)

test-deps: $(VENV)/.dev tests/node/node_modules/.installed ## Install the tools that some tests want (curl, Node SDKs)
	@tools/setup.sh curl

lint: $(VENV)/.dev ## Check style, types and layers
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-cache

format: $(VENV)/.dev ## Put every file into the house's shape
	@$(PY) -m ruff check --fix-only --quiet .
	@$(PY) -m ruff format .

screenshots: $(VENV)/.dev ## Photograph `sellapi tui` on a demo shop into docs/img
	@$(PY) tools/screenshots.py $(ARGS)

zipapp: $(VENV)/.dev ## Build dist/sellapi.pyz, the one file to copy to a server
	@$(PY) tools/zipapp.py

example: $(VENV)/.runtime ## Write sellapi.db.example anew (after a change of schema or catalog)
	@rm -f sellapi.db.example
	@$(PY) cli.py db example sellapi.db.example

chaos: $(VENV)/.dev ## Kill, lock, fill and break a real server under load; count every microcredit (ARGS=--rounds 8)
	@exec $(PY) -m bench.chaos $(ARGS)

abuse: $(VENV)/.dev ## Measure a good client beside every kind of attack
	@exec $(PY) -m bench.abuse $(ARGS)

bench: $(VENV)/.dev ## Measure everything beside bare Sanic and nginx (20 minutes; ARGS=--with-peers)
	@$(PY) -m bench run $(ARGS)

bench-quick: $(VENV)/.dev ## Compare with bare Sanic in under a minute
	@$(PY) -m bench quick

bench-growth: $(VENV)/.dev ## Make and measure a shop of 10 million requests (ARGS="--scale 0.01" a small one)
	@$(PY) -m bench.growth make $(ARGS)
	@$(PY) -m bench.growth measure $(ARGS)

bench-soak: $(VENV)/.dev ## Watch memory under full load (20 minutes; ARGS="--minutes 5")
	@$(PY) -m bench soak $(ARGS)

lock: $(VENV)/.dev ## Resolve pyproject.toml and tests/node again into their locks (ARGS=--upgrade for newer ones)
	@tools/lock.sh $(ARGS)

clean: ## Remove what these commands made (databases stay)
	@rm -rf $(VENV) .venv.lock build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis .import_linter_cache tests/node/node_modules
	@find cli.py sellapi tui tests tools bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Stamps: each is younger than what it was made from, so a second `make run` starts at once.
$(VENV)/.runtime: requirements.txt pyproject.toml
	@tools/setup.sh runtime

$(VENV)/.dev: requirements-dev.txt pyproject.toml
	@tools/setup.sh dev

tests/node/node_modules/.installed: tests/node/package.json tests/node/package-lock.json
	@tools/setup.sh node

# `make -j test-deps test` must not test before the tools are there.
ifneq ($(filter test-deps,$(MAKECMDGOALS)),)
test: | test-deps
endif
