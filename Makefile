# Two commands: `make repro` reruns the benchmark, `make test` checks the code.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1

PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: repro test test-all test-unit lint ui clean

repro: .venv/installed
	dvc repro

test: .venv/installed lint
	pytest $(PARALLEL) -m "not slow or core"

test-all: .venv/installed lint
	pytest $(PARALLEL)

test-unit: .venv/installed
	pytest $(PARALLEL) -m "not slow"

lint: .venv/installed
	ruff check .
	ruff format --check .

ui: .venv/installed
	@echo 'the runs: http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning'
	mlflow ui --backend-store-uri sqlite:///mlflow.db

clean:
	rm -rf runs .scratch mlruns mlflow.db*

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
