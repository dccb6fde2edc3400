#!/bin/sh
# Accuracy at equal bits beside llama.cpp (measure.py). Builds llama.cpp from llama-cpp-python's source package in
# bench/models/llama.cpp (some minutes), with a Python environment in .venv; stores the figures in bench/results.
# usage: run.sh TRAIN_TEXT HELD_BACK_TEXT NAME=FOLDER ...
set -eu
[ $# -ge 3 ] || { echo "usage: $0 TRAIN_TEXT HELD_BACK_TEXT NAME=FOLDER ..." >&2; exit 2; }
train=$(realpath "$1") text=$(realpath "$2")
shift 2
here=$(realpath "$(dirname "$0")")
root=$(realpath "$here/../..")
build=${BUILD:-$root/build} work=$root/bench/models/llama.cpp python=$root/.venv/bin/python
[ -x "$python" ] || python3 -m venv "$root/.venv"
"$python" -m pip install -q numpy torch transformers safetensors
mkdir -p "$work"
if [ ! -x "$work/build/bin/llama-quantize" ]; then
    "$python" -m pip download -q --no-binary :all: --no-deps --no-build-isolation -d "$work" llama-cpp-python ||
        "$python" -m pip download -q --no-binary :all: --no-deps -d "$work" llama-cpp-python
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
    cmake -S "$work"/llama_cpp_python-*/vendor/llama.cpp -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
        -DLLAMA_CURL=OFF -DBUILD_SHARED_LIBS=OFF
    cmake --build "$work/build" -j --target llama-quantize llama-perplexity llama-imatrix
fi
out=$root/bench/results/quality-$(date +%Y-%m-%d)-$(git -C "$root" rev-parse --short HEAD).json
"$python" "$here/measure.py" --llama "$work/build/bin" --source "$(echo "$work"/llama_cpp_python-*/vendor/llama.cpp)" \
    --gptc "$build" --train "$train" --text "$text" --work "$work/measured" --out "$out" "$@"
echo "stored in $out"
