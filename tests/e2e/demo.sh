#!/bin/sh
# The main job on the example that ships: the text starts with the prompt and its first 64 tokens are the
# greedy continuation that PyTorch gives.
# usage: demo.sh BUILD_DIR SOURCE_DIR
set -u
build=$1 example=$2/examples/shakespeare
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$build/gptc" -q "$example/model.onnx" -O3 -o "$work/model.bin" --tokenizer "$example/tokenizer.json" || exit 1
"$build/gptc-run" "$work/model.bin" -p "KING:" -n 64 --temp 0 --ignore-eos >"$work/out" 2>"$work/err" || { cat "$work/err"; exit 1; }
sed -n 's/.*"greedy_text": "\(.*\)".*/\1/p' "$example/reference.json" | sed 's/\\n/\
/g' >"$work/want"
# same text but for the newline that ends the output
printf '%s' "$(cat "$work/out")" >"$work/a"
printf '%s' "$(cat "$work/want")" >"$work/b"
cmp "$work/a" "$work/b" || { echo "FAIL: the text differs"; diff "$work/want" "$work/out"; exit 1; }
# the same bytes again from the same input
"$build/gptc" -q "$example/model.onnx" -O3 -o "$work/again.bin" --tokenizer "$example/tokenizer.json" || exit 1
cmp "$work/model.bin" "$work/again.bin" || { echo "FAIL: two compiles differ"; exit 1; }
