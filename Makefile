# Every target sets up what it needs: `make demo` and `make test` work in a fresh checkout.
.DEFAULT_GOAL := help
.PHONY: release help demo test lint bench docs env clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tried in this order, each by running it: a pyenv shim may exist and still lead nowhere.
PYTHONS := $(PYTHON) python3.13 python3.12 python3 python python3.14

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(STAMP)  ## simulate a fleet, fit it, answer questions, write a report
	$(BIN)/bayeslat demo

test: $(STAMP)  ## every test but the slow ones
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

lint: $(STAMP)  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## every benchmark, one after the other
	@set -e; for script in benchmarks/*.py; do \
	    echo "== $$script"; $(BIN)/python "$$script"; \
	done

docs: $(STAMP)  ## the documentation site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

release: $(STAMP)  ## fit the posteriors that come with the package again
	$(BIN)/python models/rebuild.py

env: $(STAMP)  ## the virtual environment alone

clean:  ## remove the environment, caches and build products
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
	find bayeslat tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@for name in $(PYTHONS); do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	        found="$$name"; break; \
	    fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "make: got no Python >= 3.12, expected one of: $(strip $(PYTHONS));" \
	        "install one or give its path with PYTHON=" >&2; exit 2; \
	fi; \
	echo "$$found -m venv $(VENV)"; \
	"$$found" -m venv $(VENV) || { \
	    echo "make: $$found could not make $(VENV); install its venv module" \
	        "(Debian: python3-venv) or give another with PYTHON=" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	    --build-constraint constraints.txt --editable . --group dev
	@touch $(STAMP)
