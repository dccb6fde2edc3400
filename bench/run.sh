#!/bin/sh
# Speed beside ONNX Runtime on a GPT-2 124M with random weights. Makes a Python environment in .venv with
# the peers, the model in bench/models, and stores the figures in bench/results.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/pip install -q onnx onnxruntime numpy
[ -f bench/models/gpt2-124m/model.onnx ] || .venv/bin/python bench/make_gpt2.py bench/models/gpt2-124m
out=bench/results/cpu-$(date +%Y-%m-%d)-$(git rev-parse --short HEAD).json
.venv/bin/python bench/cpu.py "$build" bench/models/gpt2-124m --out "$out"
echo "stored in $out"
