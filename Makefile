# `make demo` and `make test` do all set-up on a fresh machine: a virtual environment with pinned CPU packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint notebooks clean

demo: $(READY)
	$(BIN)/prenet demo

test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .

notebooks: $(READY)
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

$(READY): requirements-lock.txt pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements-lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $(READY)

clean:
	rm -rf $(VENV) demo
