# Two commands: `make repro` reruns the benchmark, `make test` checks the code.
PYTHON ?= python3
PORT ?= 5000
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
# DVC runs the commands of stages in the user's login shell, whatever that is.
SHELL := /bin/sh
export SHELL
# A container's user may have no home, which DVC and pip look for.
ifndef HOME
export HOME := $(CURDIR)/.scratch
endif

PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Of what pip prints: its count of packages, large downloads, and the silent minutes at the end.
TELL := /^ *(Collecting|Processing) / && ++n % 20 == 0 { print "  package " n " of " total } \
  /Downloading .*([0-9][0-9][0-9]\.[0-9] M|G)B/ { print } \
  /^Installing collected/ { print "  unpacks them" } { fflush() }
# The programs in .venv/bin begin with the path that the clone had when it was made.
MOVED := $(shell test ! -e $(BIN)/dvc || grep -qF "$(CURDIR)/$(BIN)" $(BIN)/dvc || echo moved)

.PHONY: repro test test-all test-unit lint docs gpu ui clean ready moved

# Checks params.yaml, counts the stages of `dvc repro` with the time left, and ends with the best runs and the page.
repro: .venv/installed
	@python -m stages.check
	@python -m stages.repro

test: .venv/installed lint
	pytest $(PARALLEL) -m "not slow or core"

# With the coverage of lines, those that programs run which the tests start among them.
test-all: .venv/installed lint
	pytest $(PARALLEL) --cov --cov-report=term:skip-covered

test-unit: .venv/installed
	pytest $(PARALLEL) -m "not slow and not seconds"

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

# Pages of the public API, from the docstrings: .scratch/api/index.html
docs: .venv/installed
	pdoc --output-directory .scratch/api pipeline.losses pipeline.data.views pipeline.probing

# A report of minutes on the first GPU: make gpu CIFAR10='PATH/cifar10-{split}.parquet' MINUTES=12
gpu: .venv/installed
	@python -m benchmarks.gpu $(if $(MINUTES),--minutes $(MINUTES)) $(if $(CIFAR10),--cifar10 '$(CIFAR10)')

ui: .venv/installed
	@python -m stages.ui $(PORT)

clean:
	rm -rf runs .scratch mlruns mlflow.db*

# What would end in an error of pip or DVC after minutes is said at once.
ready:
	@command -v git >/dev/null || { echo 'ERROR: git is not installed, and DVC needs it' >&2; exit 1; }
	@git rev-parse --git-dir >/dev/null || { if test -e .git; then \
	  echo 'ERROR: git cannot use this clone; see the line above' >&2; else \
	  echo 'ERROR: this copy has no git repository, which DVC needs; clone it with git, or make one here and call make again:' >&2; \
	  echo '  git init && git add --all && git -c user.name=me -c user.email=me@localhost commit --quiet -m start' >&2; fi; exit 1; }

moved:
	@echo 'The clone was moved or copied since .venv was made: it is made again here.'

.venv/installed: pyproject.toml constraints.txt $(MOVED) | ready
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v < (3, 11) and sys.exit("ERROR: Python %d.%d is too old, 3.11 or newer is needed; name another one: make PYTHON=python3.12" % v)'
	@echo 'Installing into .venv what constraints.txt lists, PyTorch among it: about 6 GB, 3 to 10 minutes, this once.'
	$(if $(MOVED),rm -rf .venv)
	$(PYTHON) -m venv .venv
	@{ PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]" || \
	  touch .venv/failed; } | awk -v total="$$(wc -l < constraints.txt)" '$(TELL)'; ! rm .venv/failed 2>/dev/null
	touch $@
