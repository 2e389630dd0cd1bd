# make demo: install, train on the built-in digits, end with the report's path.
# make test: install, lint, check types, run every test.
# make torture: kill, starve and corrupt runs, and count what survives; SHORT=1, ONLY="kill disk", SEED=3, JSON=file.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast torture check format install install-dev clean

demo: install
	$(BIN)/vitrail train digits

test: check
	$(BIN)/pytest -n 2

test-fast: install-dev
	$(BIN)/pytest -n 2 -m "not slow"

torture: install-dev
	$(BIN)/python -m torture $(if $(SHORT),--short) $(if $(ONLY),--only $(ONLY)) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON))

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
