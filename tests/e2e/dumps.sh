#!/bin/sh
# Every dump of every pass parses back to the same bytes, for the example and each exported graph of the corpus.
# usage: dumps.sh BUILD_DIR SOURCE_DIR
set -u
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0 n=0
for model in "$2/examples/shakespeare/model.onnx" "$2"/tests/corpus/onnx/*.onnx; do
    "$build/gptc" "$model" --dump-dir "$work/dumps" --emit=ir >/dev/null 2>"$work/err" || { cat "$work/err"; exit 1; }
    for dump in "$work"/dumps/*.gir; do
        n=$((n + 1))
        "$build/gptc" "$dump" --weights "$(dirname "$model")" --passes= --emit=ir >"$work/again.gir" 2>"$work/err" ||
            { echo "FAIL: $(basename "$model") $(basename "$dump"): does not parse"; cat "$work/err"; status=1; }
        cmp -s "$dump" "$work/again.gir" ||
            { echo "FAIL: $(basename "$model") $(basename "$dump"): prints differently"; status=1; }
    done
    rm -rf "$work/dumps"
done
echo "$n dumps"
[ "$n" -gt 100 ] || { echo "FAIL: too few dumps"; status=1; }
exit $status
