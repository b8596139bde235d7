PYTHON ?= python3
BIN := .venv/bin
RECENT := import sys; sys.version_info >= (3, 11) or \
	sys.exit("expected Python 3.11 or newer: make PYTHON=python3.12 takes another than python3")
# Two files at a time, a thread each: half the time of one by one on two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: demo test check release-check bench

demo: .venv/train
	$(BIN)/python docs/demo.py

test: .venv/ready
	$(PYTEST) -m "not release"

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PYTEST) -m "not release"

# Before a release: every test, those that take minutes too.
release-check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PYTEST)
	$(BIN)/python docs/demo.py

bench: .venv/ready
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/neuron.py
	$(BIN)/python benchmarks/heads.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/results.py

# What it takes to train and export, and to test as well.
.venv/train: pyproject.toml
	@$(BIN)/python -c 'import pip; $(RECENT)' 2>/dev/null || \
		{ $(PYTHON) -c '$(RECENT)' && $(PYTHON) -m venv --clear .venv; }
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

.venv/ready: .venv/train
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
