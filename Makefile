# Two commands for users: `make demo` and `make test`. Both work in .venv, made on first use.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test test-slow test-deepspeed test-oldest release-check docs notebooks check lint clean

demo: .venv/installed
	$(BIN)/egup demo --output_dir demo_output

demo_output/report.html: | .venv/installed
	$(BIN)/egup demo --output_dir demo_output

test: .venv/installed-test lint
	$(BIN)/python -m pytest tests/cli/test_demo.py  # alone on the machine: its time is tested
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/cli/test_demo.py

test-slow: .venv/installed-test # what the default run leaves out
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

DEEPSPEED := build/deepspeed
test-deepspeed: .venv/installed-test $(DEEPSPEED)
	PYTHONPATH=$(DEEPSPEED) $(BIN)/python -m pytest tests/invariants/test_deepspeed.py

$(DEEPSPEED): # apart from .venv, and without what only its GPU side needs
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $@ \
		deepspeed==0.19.8 hjson py-cpuinfo msgpack einops

test-oldest: .venv-oldest/installed # the lowest versions that setup.cfg allows
	.venv-oldest/bin/python -m pytest -n auto --dist loadfile

.venv-oldest/installed: setup.cfg constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt \
		--editable ".[test]"
	touch $@

RELEASE := build/release
release-check: .venv/installed-check # what a user gets: wheel and sdist, installed apart, the demo from there
	rm -rf dist $(RELEASE)
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd $(RELEASE) && bin/egup --help && bin/python -c "from egup_trainer import *"
	$(RELEASE)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		"$$(ls dist/*.whl)[all]"
	cd $(RELEASE) && bin/egup demo --output_dir demo_output

docs: .venv/installed-docs demo_output/report.html # build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: .venv/installed-notebooks  # executed copies in build/notebooks
	$(BIN)/python -m notebooks.execute --output_dir build/notebooks

.venv/installed-notebooks: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[notebooks]"
	touch $@

check: lint .venv/installed-check
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive egup_trainer benchmarks setup.py
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --progress-spinner off  # asks PyPI for known faults

.venv/installed-check: .venv/installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[check]"
	touch $@

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all]"
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist demo_output *.egg-info .pytest_cache .ruff_cache .import_linter_cache
