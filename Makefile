VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=

# Tried by running each: a shim in PATH may stand for a version that is not there. One that can make
# virtual environments is preferred; any new enough can at least start the services.
PYTHON ?= $(shell \
	for module in ensurepip sys; do \
		for python in python3.13 python3.12 python3.11 python3; do \
			$$python -c "import sys, $$module; sys.exit(sys.version_info < (3, 11))" 2>/dev/null \
				&& echo $$python && exit; \
		done; \
	done; echo no-python-3.11-or-newer)

.NOTPARALLEL:
.PHONY: help demo run test bench lint format services soak clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Play the shop's scenarios with and without the guard, and check the outcome
	@$(BIN)/python -m shop_example.demo $(ARGS)

run: $(VENV)/.demo ## Serve the shop and its admin, to click through
	@$(BIN)/python -m shop_example.serve $(ARGS)

test: services $(VENV)/.test ## Run the tests on every database that is there (ARGS="-k name" goes to pytest)
	@$(BIN)/python -m tests.run $(ARGS)

soak: services $(VENV)/.test ## Run the tests that take minutes
	@$(BIN)/python -m pytest -m soak $(ARGS)

bench: services $(VENV)/.test ## Measure what the guard costs
	@$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/.test ## Check style, types and migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python manage.py makemigrations --check --dry-run

format: $(VENV)/.test ## Put the code into its format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

services: ## Start the servers that tests use; as root on Debian, install what is missing
	@$(PYTHON) -m tests.services start

clean: ## Remove the virtual environment and everything built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo 'Python 3.11 or newer is needed (make PYTHON=/path/to/python3).' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo 'This Python cannot make virtual environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@echo 'Making $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.cfg pyproject.toml | $(BIN)/python
	@echo 'Installing what the demo needs'
	@$(PIP) install --editable '.[demo]'
	@touch $@

# Without its stamp, so that mysqlclient is tried again the next time.
$(VENV)/.test: requirements.txt | $(BIN)/python
	@echo 'Installing requirements.txt'
	@if $(PIP) install -r requirements.txt; then touch $@; else \
		echo 'Trying without mysqlclient; to build it, on Debian: apt-get install libmariadb-dev pkg-config gcc python3-dev'; \
		grep -v '^mysqlclient' requirements.txt > $(VENV)/without-mysqlclient.txt; \
		$(PIP) install -r $(VENV)/without-mysqlclient.txt; \
	fi
