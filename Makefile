# Every target makes .venv and installs into it on first use.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
JOBS ?= 2
CHECKOV := .cis/checkov
QUIETLY := --quiet --compact --skip-download

.PHONY: help demo test test-moto lint audit up format clean
.DEFAULT_GOAL := help

help: ## This list
	@grep -hE '^[a-z_.-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 24

demo: $(READY) ## The main job end to end on the embedded AWS, with its result
	$(VENV)/bin/cis demo

test: $(READY) ## All tests; JOBS=1 for one after the other
	$(VENV)/bin/pytest --numprocesses=$(JOBS) --dist=loadfile

test-moto: $(READY) ## The broker's tests once more, against moto instead of the embedded AWS
	$(VENV)/bin/pytest --emulator=moto tests/broker

lint: $(READY) ## Style, types, templates, scripts, security
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/cfn-lint deploy/*.yaml
	$(VENV)/bin/shellcheck deploy/*.sh deploy/cis-worker .ci/run
	$(VENV)/bin/bandit -q -c pyproject.toml -r cis_tasks lambda_trigger scaling celeryconfig.py

audit: $(CHECKOV)/.ready ## Templates and Dockerfile against checkov's rules
	$(CHECKOV)/bin/checkov --directory deploy --framework cloudformation $(QUIETLY)
	$(CHECKOV)/bin/checkov --file Dockerfile $(QUIETLY)

up: $(READY) ## The laptop cloud in the foreground, until Ctrl-C
	$(VENV)/bin/cis up

format: $(READY) ## Rewrite the code in our style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench-%: $(READY) ## One benchmark, such as bench-spine_accuracy; ARGS="--quick --json"
	$(VENV)/bin/python benchmarks/$*.py $(ARGS)

clean: ## Remove what make made
	rm -rf $(VENV) .cis

# torch first: its CPU build is enough here, and others would bring in gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cis-tasks needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

$(CHECKOV)/.ready: .ci/checkov.txt
	$(PYTHON) -m venv $(CHECKOV)
	$(CHECKOV)/bin/pip install --quiet --requirement .ci/checkov.txt
	touch $(CHECKOV)/.ready
