#!/bin/sh
# Perplexity of a trained model on held-back text, as PyTorch measured it, to 4 digits.
# usage: perplexity.sh BUILD_DIR MODEL_DIR
set -u
build=$1 model=$2
[ -f "$model/model.onnx" ] || { echo "skipped: $model is not here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$build/gptc" -q "$model/model.onnx" -O1 -o "$work/model.bin" --tokenizer "$model/../tokenizer.json" || exit 1
"$build/gptc-eval" "$work/model.bin" --text "$model/../heldback.txt" --window 256 --json >"$work/json" || exit 1
want=$(sed -n 's/.*"perplexity": \([0-9.]*\).*/\1/p' "$model/reference.json")
got=$(sed -n 's/.*"perplexity": \([0-9.]*\).*/\1/p' "$work/json")
echo "perplexity $got, reference $want"
awk "BEGIN { d = $got - $want; if (d < 0) d = -d; exit !(d < 5e-4 * $want) }" || { echo "FAIL: differs"; exit 1; }
