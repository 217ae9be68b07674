# `make demo` and `make test` do all set-up on a fresh machine: a virtual environment with pinned CPU packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Bytecode is kept, whatever the environment says: the workers of pytest, the kernels of notebooks and the processes that
# tests start would each compile the package and the tests anew.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo check test lint types notebooks lab docs wheel dist versions numpy2 bridges other-processor coverage fuzz defects clean

demo: $(READY)
	$(BIN)/prenet demo

# A subset for daily work, without the tests marked slow: under two minutes on two cores.
check: $(READY)
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow" tests

# All of it: lint, types, tests, and the examples in docstrings.
test: $(READY) lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests py4dstem_prenet

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python docs/lint.py

# Of what users call.
types: $(READY)
	$(BIN)/python -m mypy --cache-dir $(VENV)/mypy

notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/jupyter execute --inplace notebooks/*.ipynb

# Opens them in JupyterLab (the extra `notebook`).
lab: $(READY)
	$(BIN)/python -m pip install --quiet -c requirements-lock.txt "jupyterlab>=4.2"
	$(BIN)/jupyter lab notebooks

docs: $(READY)
	$(BIN)/python docs/build.py --flags
	$(BIN)/python docs/build.py

# The wheel, without the checkout: weights and data must be in it.
wheel: $(READY)
	rm -rf $(VENV)/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w $(VENV)/wheel .
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/wheel/installed $(VENV)/wheel/*.whl
	cd $(VENV)/wheel && PYTHONPATH=$(CURDIR)/$(VENV)/wheel/installed OMP_NUM_THREADS=1 ../bin/python ../../.ci/smoke.py

# What a release is made of, in dist/: sdist and wheel, checked as an index would.
dist:
	rm -rf dist $(VENV)/dist
	$(PYTHON) -m venv $(VENV)/dist
	$(VENV)/dist/bin/pip install --quiet build twine hatchling
	$(VENV)/dist/bin/python -m build --no-isolation
	$(VENV)/dist/bin/twine check --strict dist/*

# What needs no py4DSTEM, with numpy 2, in an environment of its own.
numpy2:
	.ci/numpy2

# The bridges to pyxem and quantem, each in an environment of its own.
bridges:
	.ci/bridges

# Other Pythons, with the lowest and the newest dependencies.
versions:
	.ci/versions

# All tests with the instructions of an older processor, on which the last digits of floats differ.
other-processor: $(READY)
	OPENBLAS_CORETYPE=Nehalem ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 NPY_DISABLE_CPU_FEATURES="AVX2 FMA3" \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests

coverage: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run --source=py4dstem_prenet --data-file=$(VENV)/coverage -m pytest -q
	$(BIN)/python -m coverage report --data-file=$(VENV)/coverage --fail-under=92 --skip-covered

fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py

# Deliberate defects in a copy, and the test that notices each.
defects: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/defects.py

# torch comes first and without what it depends on: PyPI's build for Linux would bring gigabytes of CUDA packages. Where
# its CPU builds cannot be reached, the one that pip is configured to find has to do.
$(READY): requirements-lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
		{ echo "The pinned packages need Python 3.11 or 3.12; name one, as in: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	-$(BIN)/python -m pip install --quiet --no-deps --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu \
		$$(grep '^torch==' requirements-lock.txt)
	$(BIN)/python -m pip install --quiet -r requirements-lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $(READY)

clean:
	rm -rf $(VENV) demo docs/site
