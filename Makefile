# Carrara. `make demo`: from nothing to a leaderboard. `make test`: the whole test suite; `make test-fast` leaves out the
# tests marked slow; `make docs`: the documentation in build/site. Each creates .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-fast test-pages lint format docs package clean

demo: $(VENV)/.demo
	$(BIN)/carrara demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses 2

test-fast: $(VENV)/.test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses 2 -m "not slow"

# The tests in a browser alone; they are part of `make test`, and skipped where there is no Chromium or Chrome.
test-pages: $(VENV)/.test
	$(BIN)/python -m pytest -m web

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --strict
	mkdir -p build/site/notebooks
	for page in docs/quickstart.md docs/tutorials/*.md; do \
		$(BIN)/python docs/_run.py $$page build/site/notebooks/$$(basename $$page .md).ipynb || exit 1; done

# Build the wheel and the sdist, install the wheel into a clean environment, and run the demo with few steps from there;
# PACKAGE_CHECK='download pebble --size tiny --data-dir data' runs something shorter.
PACKAGE_CHECK ?= demo --steps 20 --output demo --data-dir data
package: $(VENV)/.torch
	rm -rf dist build/package
	$(PIP) build
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv build/package
	build/package/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	build/package/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd build/package && bin/carrara --version && bin/carrara $(PACKAGE_CHECK)

clean:
	rm -rf $(VENV) build dist *.egg-info

# torch comes first and pinned: any looser wish lets pip fetch gigabytes of CUDA packages.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Carrara needs Python 3.11 or later; make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/.docs: $(VENV)/.test
	$(PIP) --editable '.[test,docs]'
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) --editable '.[test,lint]'
	touch $@
