# `make` lists the targets. Each creates the environment first where it is missing or out of date.

PYTHON ?= python3
BIN := .venv/bin
# Pins apply to build environments too; nothing may pull a newer torch.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help env demo test lint types layers unit test-full coverage-door mutants bench proto clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

env: .venv/.installed ## Create the environment in .venv (about two minutes)

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "Expected Python 3.11, found `$(PYTHON) --version`. Name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: env ## Train across simulated hospitals, with live progress and a written report
	$(BIN)/wardround simulate demo

test: lint types layers unit ## Lint, types, import layers and all tests: what CI runs

lint: env ## Style (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env ## Types (mypy, strict)
	$(BIN)/mypy

layers: env ## Import layers (import-linter)
	$(BIN)/lint-imports --no-cache

unit: env ## All tests (pytest)
	$(BIN)/pytest --numprocesses 2 --dist worksteal

test-full: env ## All tests, campaigns in full size; writes docs/campaigns.md
	WARDROUND_HYPOTHESIS=full $(BIN)/pytest --numprocesses 2 --dist worksteal

coverage-door: env ## Lines and branches of the door that its tests do not run
	$(BIN)/pytest --numprocesses 0 $$($(BIN)/python -m tests.mutation.door)

mutants: env ## Whether the tests notice 300 ways to break the door (an hour of a core)
	rm -f mutants.jsonl
	$(BIN)/python -m tests.mutation --count 300

bench: env ## Speed against a plain loop and against Flower's simulation runtime
	$(BIN)/wardround bench engine

proto: env ## Generate the code of client/site.proto (grpcio-tools, as pinned)
	$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --grpc_python_out=. client/site.proto

clean: ## Remove the environment and the caches
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
