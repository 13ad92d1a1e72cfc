# Everything a developer does. Targets set up what they need; `make setup` does only that.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv/bin
export PATH := $(CURDIR)/$(VENV):$(PATH)
# Otherwise Ansible's many short-lived processes recompile their sources, which adds a second to every playbook.
unexport PYTHONDONTWRITEBYTECODE
# Line by line, although tools/scenario prefixes each line with its scenario.
export PYTHONUNBUFFERED := 1
# Plain lines, also for pytest inside molecule.
export MOLECULE_COMMAND_BORDERS := false
ifndef MAKE_TERMOUT
export NO_COLOR := 1
endif

SCENARIO ?= default
ifeq ($(wildcard molecule/$(SCENARIO)/molecule.yml),)
$(error Wanted a scenario; found none named $(SCENARIO); take one of $(patsubst molecule/%/molecule.yml,%,$(wildcard molecule/*/molecule.yml)))
endif
# First `default`, which keeps the release that it builds for the others, then one that needs no release, then the longest.
FIRST := default postgresql rotation tutorial hardening client oidc roll
SCENARIOS := $(FIRST) $(filter-out $(FIRST) next,$(patsubst molecule/%/molecule.yml,%,$(sort $(wildcard molecule/*/molecule.yml))))
# On a moving Debian suite, so it may start to fail without a change here.
MOVING = $(if $(TEST_ALL),next)
HOSTS := tools/hosts exec --

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: venv ## Set up the control environment, the container engine and the images of test hosts
	@tools/hosts setup

.PHONY: venv
venv:
	@tools/setup

.PHONY: check lint unit
check: venv ## Lint and unit tests, no host needed
	@$(MAKE) $(if $(findstring jobserver,$(MAKEFLAGS)),,--jobs=2) --output-sync=target lint unit

lint: venv
	ruff check .
	ruff format --check .
	codespell
	ansible-lint

unit: venv
	pytest

.PHONY: molecule
molecule: molecule-$(SCENARIO) ## One scenario on test hosts: make molecule SCENARIO=default

# Scenarios in which a browser logs in. Not a prerequisite: with one, make would run these scenarios last.
BROWSER := chromium libnss3-tools
PACKAGES_oidc := $(BROWSER)
PACKAGES_hardening := $(BROWSER)
IMAGES_next := debian-testing
NEEDS = tools/apt $(PACKAGES_$1)$(if $(IMAGES_$1), && tools/hosts setup $(IMAGES_$1))

molecule-%: setup
	@$(call NEEDS,$*)
	@$(HOSTS) tools/scenario run $*

# With hosts that stay up from one command to the next.
MOLECULE := $(HOSTS) molecule --base-config .config/molecule/config.yml

.PHONY: up verify down
up: setup ## Create a scenario's hosts, or apply a change to them: make up SCENARIO=roll
	@$(call NEEDS,$(SCENARIO))
	@$(MOLECULE) converge --scenario-name $(SCENARIO)

verify: venv ## Run tests on hosts that are up: make verify SCENARIO=roll ARGS="-k drift"
	@PYTEST_ADDOPTS="$(ARGS)" $(MOLECULE) verify --scenario-name $(SCENARIO)

down: venv ## Remove a scenario's hosts: make down SCENARIO=roll
	@$(MOLECULE) destroy --scenario-name $(SCENARIO)

# The linter and the unit tests use the cores while the hosts' packages are downloaded.
.PHONY: test
test: ## Check and run every scenario, three at a time: tests spend much of their time waiting
	@ended=0; begun=$$(date +%s); \
	$(MAKE) --no-print-directory --jobs=3 --keep-going check $(patsubst %,molecule-%,$(SCENARIOS) $(MOVING)) || ended=$$?; \
	$(HOSTS) tools/scenario table $$begun $(SCENARIOS) $(MOVING) || ended=$$?; \
	exit $$ended

.PHONY: test-all
test-all: export TEST_ALL := 1
test-all: $(if $(filter command%,$(origin SCENARIO)),molecule-$(SCENARIO),test) ## All tests, or all of one scenario: make test-all SCENARIO=roll

.PHONY: faults
faults: setup ## Seed known faults, each of which has to be caught: make faults [ARGS=unit]
	@tools/faults $(ARGS)

.PHONY: demo demo-down screenshot
demo: setup ## Turn a throwaway host into a tracking server and use it with the MLflow client
	@$(HOSTS) demo/run

demo-down: ## Remove the demo's host
	@$(HOSTS) python3 demo/run down

screenshot: setup ## Take docs/ui.png from the demo's host, in Debian's chromium
	@tools/apt $(BROWSER)
	@$(HOSTS) demo/run screenshot

.PHONY: bench
bench: setup ## Measure a claim: make bench NAME=provision
	@$(if $(wildcard bench/$(NAME).py),,$(error Wanted NAME; found '$(NAME)'; take one of $(patsubst bench/%.py,%,$(wildcard bench/*.py))))
	@$(HOSTS) python bench/$(NAME).py $(ARGS)

.PHONY: lock lock-control
lock: venv ## Lock the packages of another MLflow version: make lock MLFLOW_VERSION=3.17.2 [ARGS=--oidc]
	tools/lock $(MLFLOW_VERSION) $(ARGS)

lock-control: venv ## Lock the control environment again, after a change of requirements/control.in
	.cache/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.12 \
	    --generate-hashes --only-binary :all: --no-header --no-annotate \
	    requirements/control.in --output-file requirements/control.txt
