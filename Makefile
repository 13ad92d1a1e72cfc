# Everything a developer does. What a target needs is made on the way; `make setup` does only that.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv/bin
export PATH := $(CURDIR)/$(VENV):$(PATH)
# Otherwise Ansible's many short-lived processes re-read their sources, a second of every playbook.
unexport PYTHONDONTWRITEBYTECODE
# Line by line, though `sed` says whose each is.
export PYTHONUNBUFFERED := 1
# Plain lines, also for pytest inside of molecule.
export MOLECULE_COMMAND_BORDERS := false
ifndef MAKE_TERMOUT
export NO_COLOR := 1
endif

SCENARIO ?= default
# First `default`, which keeps the release that it builds for the others, and one that needs none, then the longest.
FIRST := default postgresql rotation tutorial hardening client oidc roll
SCENARIOS := $(FIRST) $(filter-out $(FIRST) next,$(patsubst molecule/%/molecule.yml,%,$(sort $(wildcard molecule/*/molecule.yml))))
# On a suite of Debian's that moves; so it may fail one day without a change here.
MOVING = $(if $(TEST_ALL),next)
HOSTS := tools/hosts exec --

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
	@$(MAKE) $(if $(findstring jobserver,$(MAKEFLAGS)),,--jobs=2) --output-sync=target lint unit

lint: venv
	ruff check .
	ruff format --check .
	ansible-lint

unit: venv
	pytest

.PHONY: molecule
molecule: molecule-$(SCENARIO) ## One scenario on test hosts: make molecule SCENARIO=default

# A browser logs in there. Not a prerequisite, for which make would put them last.
BROWSER := chromium libnss3-tools
molecule-oidc molecule-hardening: PACKAGES := $(BROWSER)
molecule-next: IMAGES := debian-testing

molecule-%: setup
	@tools/apt $(PACKAGES)
	@$(if $(IMAGES),tools/hosts setup $(IMAGES))
	@$(HOSTS) tools/scenario run $*

# The linter and the unit tests have the cores while the hosts' packages come over the network.
.PHONY: test
test: ## Check, and every scenario, three at a time: a test waits for much of its time
	@ended=0; begun=$$(date +%s); \
	$(MAKE) --no-print-directory --jobs=3 --keep-going check $(patsubst %,molecule-%,$(SCENARIOS) $(MOVING)) || ended=$$?; \
	$(HOSTS) tools/scenario table $$begun $(SCENARIOS) $(MOVING) || ended=$$?; \
	exit $$ended

.PHONY: test-all
test-all: export TEST_ALL := 1
test-all: $(if $(filter command%,$(origin SCENARIO)),molecule-$(SCENARIO),test) ## All tests, or of one scenario: make test-all SCENARIO=roll

.PHONY: faults
faults: setup ## Seed known faults, each has to be caught: make faults [ARGS=unit]
	@tools/faults $(ARGS)

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
