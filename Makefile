# Two commands for users: `make demo` and `make test`. Both work in .venv, made on first use.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test test-deepspeed notebooks check lint clean

demo: .venv/installed
	$(BIN)/egup demo --output_dir demo_output

test: .venv/installed-test lint
	$(BIN)/python -m pytest tests/cli/test_demo.py  # alone on the machine: its time is tested
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/cli/test_demo.py

DEEPSPEED := build/deepspeed
test-deepspeed: .venv/installed-test $(DEEPSPEED)
	PYTHONPATH=$(DEEPSPEED) $(BIN)/python -m pytest tests/invariants/test_deepspeed.py

$(DEEPSPEED): # apart from .venv, and without what only its GPU side needs
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $@ \
		deepspeed==0.19.8 hjson py-cpuinfo msgpack einops

notebooks: .venv/installed-notebooks  # executed copies in build/notebooks
	$(BIN)/python -m notebooks.execute --output_dir build/notebooks

.venv/installed-notebooks: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[notebooks]"
	touch $@

check: lint .venv/installed-check
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive egup_trainer benchmarks setup.py
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --progress-spinner off  # asks PyPI for known faults

.venv/installed-check: .venv/installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check "bandit[toml]" pip-audit
	touch $@

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf .venv build dist demo_output *.egg-info .pytest_cache .ruff_cache
