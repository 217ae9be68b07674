#!/bin/sh
# Measure on one GPU, in under 8 minutes: benchmarks/gpu.sh [OUT]. Installs nothing; PYTHON names the interpreter, in
# which the package, or its dependencies, are installed with a PyTorch for the card.
cd "$(dirname "$0")/.." || exit 1
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" benchmarks/gpu.py --device cuda --out "${1:-runs/gpu}"
