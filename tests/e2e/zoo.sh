#!/bin/sh
# One exported model: compiles at -O1 with a proven cache and agrees with ONNX Runtime's stored logits,
# whole, stepwise (one row computed per token), in chunks of 5, and two sequences at once.
# usage: zoo.sh BUILD_DIR MODEL_DIR [TOLERANCE_NAME]
set -u
build=$1 model=$2
[ -f "$model/model.onnx" ] || { echo "skipped: $model is not here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tolerance=$(awk -v name="${3:-TOL_LOGITS_F32}" '$2 == name { print $3 }' "$(dirname "$0")/../../ir/tolerance.h")

"$build/gptc" -q "$model/model.onnx" -O1 -o "$work/model.bin" || { echo "FAIL: does not compile"; exit 1; }

"$build/gptc" -q "$model/model.onnx" -O0 -o "$work/plain.bin" || { echo "FAIL: does not compile at -O0"; exit 1; }

field() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" "$work/json"; }
status=0
agree() { # agree MODE TOKENS LOGITS OPTIONS…
    mode=$1 tokens=$2 logits=$3
    shift 3
    if ! "$build/gptc-eval" "$work/model.bin" --tokens "$tokens" --expect "$logits" --json "$@" >"$work/json"; then
        echo "FAIL: $mode: gptc-eval failed"
        status=1
        return
    fi
    err=$(field max_abs_err) std=$(field ref_std) cache=$(field kv_cache) rows=$(field rows_computed)
    echo "$mode: max_abs_err $err, $(awk "BEGIN { printf \"%.2g\", $err / $std }") of std, $rows rows"
    awk "BEGIN { exit !($err <= $tolerance * $std) }" || { echo "FAIL: $mode: over $tolerance"; status=1; }
    [ "$cache" = true ] || { echo "FAIL: $mode: no cache"; status=1; }
    [ "$rows" = "$expected_rows" ] || { echo "FAIL: $mode: $rows rows computed for $expected_rows tokens"; status=1; }
}
# int64 tensors: elements = raw bytes / 8, counted by the tool itself through rows computed whole
one="$model/tokens.pb $model/logits.pb" two="$model/tokens_batch.pb $model/logits_batch.pb"
for pair in "$one" "$two"; do
    set -- $pair
    [ -f "$1" ] || continue
    "$build/gptc-eval" "$work/model.bin" --tokens "$1" --json --dump-logits "$work/l.pb" --expect "$2" >"$work/json" || exit 1
    expected_rows=$(field rows_computed)
    name=$(basename "$1" .pb)
    agree "$name whole" "$1" "$2"
    agree "$name stepwise" "$1" "$2" --stepwise
    agree "$name in chunks of 5" "$1" "$2" --chunk 5
done
exit $status
