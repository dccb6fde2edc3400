#!/bin/sh
# The main job on the example that ships. -O1: the text starts with the prompt and its first 64 tokens are the greedy
# continuation that PyTorch gives. -O3: a file of less than a quarter, near the exact model on its own text.
# That a plan repeats a file byte for byte is lossy.sh's.
# usage: demo.sh BUILD_DIR SOURCE_DIR -O1|-O3
set -u
build=$1 example=$2/examples/shakespeare level=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compile() { # compile OUT OPTIONS…
    out=$1
    shift
    "$build/gptc" -q "$example/model.onnx" "$@" -o "$out" --tokenizer "$example/tokenizer.json" || exit 1
}
compile "$work/model.bin" "$level"
"$build/gptc-run" "$work/model.bin" -p "KING:" -n 64 --temp 0 --ignore-eos >"$work/out" 2>"$work/err" || { cat "$work/err"; exit 1; }
sed -n 's/.*"greedy_text": "\(.*\)".*/\1/p' "$example/reference.json" | sed 's/\\n/\
/g' >"$work/want"
# same text but for the newline that ends the output
printf '%s' "$(cat "$work/out")" >"$work/a"
printf '%s' "$(cat "$work/want")" >"$work/b"
if [ "$level" = -O1 ]; then cmp "$work/a" "$work/b" || { echo "FAIL: the text differs"; diff "$work/want" "$work/out"; exit 1; }; fi
if [ "$level" = -O1 ]; then # the same bytes again from the same input
    compile "$work/again.bin" "$level"
    cmp "$work/model.bin" "$work/again.bin" || { echo "FAIL: two compiles differ"; exit 1; }
    exit 0
fi
compile "$work/exact.bin" -O1
[ $(($(wc -c <"$work/model.bin") * 4)) -lt "$(wc -c <"$work/exact.bin")" ] || { echo "FAIL: -O3 leaves $(wc -c <"$work/model.bin") bytes"; exit 1; }
for seed in 1 2 3 4; do "$build/gptc-run" "$work/exact.bin" -p "KING:" -n 200 --temp 1 --seed $seed 2>/dev/null; done >"$work/text"
"$build/gptc-eval" "$work/model.bin" --against "$work/exact.bin" --text "$work/text" --json >"$work/json" || exit 1
kl=$(sed -n 's/.*"mean_kl": *\([-0-9.e+]*\).*/\1/p' "$work/json")
awk -v kl="$kl" 'BEGIN { exit !(kl != "" && kl + 0 < 0.05) }' || { echo "FAIL: KL $kl on text of the exact model"; exit 1; }
