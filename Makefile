PYTHON ?= python3
BIN := .venv/bin
# Two files at a time, a thread each: half the time of one by one on two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: demo test check bench

demo: .venv/ready
	$(BIN)/python docs/demo.py

test: .venv/ready
	$(PYTEST)

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PYTEST)

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
