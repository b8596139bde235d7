PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench

demo: .venv/ready
	$(BIN)/python docs/demo.py

test: .venv/ready
	$(BIN)/python -m pytest

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

bench: .venv/ready
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/neuron.py
	$(BIN)/python benchmarks/heads.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/inference.py

.venv/ready: pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
