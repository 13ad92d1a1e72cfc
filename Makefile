# Everything a developer does. What a target needs is made on the way; `make setup` does only that.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv/bin
export PATH := $(CURDIR)/$(VENV):$(PATH)
# Ansible's many short processes else read their sources again each time, a second of every playbook.
unexport PYTHONDONTWRITEBYTECODE
# Line by line, though `sed` says whose each is.
export PYTHONUNBUFFERED := 1
# Plain lines, also for pytest inside of molecule.
export MOLECULE_COMMAND_BORDERS := false
ifndef MAKE_TERMOUT
export NO_COLOR := 1
endif

SCENARIO ?= default
# Two run at a time: first `default`, which keeps the release that it builds for the others, beside one that needs none, then the
# longest.
FIRST := default postgresql rotation hardening
SCENARIOS := $(FIRST) $(filter-out $(FIRST),$(patsubst molecule/%/molecule.yml,%,$(sort $(wildcard molecule/*/molecule.yml))))
HOSTS := tools/hosts exec --
# Molecule finds its base by itself only in a git repository.
MOLECULE := $(HOSTS) molecule --base-config .config/molecule/config.yml

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: venv ## Make the control environment, the container engine and the images of test hosts
	@tools/hosts setup

.PHONY: venv
venv:
	@tools/setup

.PHONY: check lint unit
check: venv ## Lint and unit tests, no host needed
	@$(MAKE) --jobs=2 --output-sync=target lint unit

lint:
	ruff check .
	ruff format --check .
	ansible-lint

unit:
	pytest

.PHONY: molecule
molecule: molecule-$(SCENARIO) ## One scenario on test hosts: make molecule SCENARIO=default

# A browser logs in there. Not a prerequisite, for which make would put them last.
BROWSER := chromium libnss3-tools
molecule-oidc molecule-hardening: PACKAGES := $(BROWSER)

# What molecule remembers of a run that was killed would have it leave out `create`.
molecule-%: setup
	@{ echo "==> Scenario $*"; \
	tools/apt $(PACKAGES) \
	    && $(HOSTS) sh -c 'rm -rf .cache/ansible/tmp/molecule.*.$*' \
	    && $(MOLECULE) test --scenario-name $* \
	    || { echo "==> Scenario $* failed after $$SECONDS s"; exit 1; }; \
	echo "==> Scenario $* passed in $$SECONDS s"; } 2>&1 | sed --unbuffered 's/^/[$*] /'

.PHONY: test
test: check ## Check, then every scenario, two at a time: a test waits half of its time
	@$(MAKE) --no-print-directory --jobs=2 $(SCENARIOS:%=molecule-%)
	@echo "scenarios: $(words $(SCENARIOS)) passed, 0 failed"

.PHONY: test-all
test-all: export TEST_ALL := 1
test-all: test ## All tests: rolls killed at every step, rotations at every task: hours

.PHONY: demo demo-down screenshot
demo: setup ## Make a throwaway host a tracking server and drive it with the MLflow client
	@$(HOSTS) demo/run

demo-down: ## Remove the host of the demo
	@$(HOSTS) python3 demo/run down

screenshot: setup ## Take docs/ui.png of the demo's host, in Debian's chromium
	@tools/apt $(BROWSER)
	@$(HOSTS) demo/run screenshot

.PHONY: bench
bench: setup ## Measure a claim: make bench NAME=provision
	@$(HOSTS) python bench/$(NAME).py $(ARGS)

.PHONY: lock lock-control
lock: venv ## Lock the packages of another MLflow: make lock MLFLOW_VERSION=3.17.2 [ARGS=--oidc]
	tools/lock $(MLFLOW_VERSION) $(ARGS)

lock-control: venv ## Lock the control environment anew, after a change of requirements/control.in
	.cache/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.12 \
	    --generate-hashes --only-binary :all: --no-header --no-annotate \
	    requirements/control.in --output-file requirements/control.txt
