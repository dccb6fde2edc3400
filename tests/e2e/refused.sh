#!/bin/sh
# A model that has to be refused is, with one line that says why, and no file is written.
# usage: refused.sh BUILD_DIR MODEL_DIR      MODEL_DIR/refused: what the line has to hold
set -u
build=$1 model=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$build/gptc" -q "$model/model.onnx" -o "$work/model.bin" >"$work/out" 2>&1
status=$?
cat "$work/out"
[ "$status" = 1 ] || { echo "FAIL: exit status $status"; exit 1; }
[ "$(grep -c error "$work/out")" = 1 ] || { echo "FAIL: not one line"; exit 1; }
grep -qF "$(cat "$model/refused")" "$work/out" || { echo "FAIL: does not say: $(cat "$model/refused")"; exit 1; }
[ ! -e "$work/model.bin" ] || { echo "FAIL: a file was written"; exit 1; }
