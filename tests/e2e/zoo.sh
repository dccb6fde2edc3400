#!/bin/sh
# One exported model: compiles at -O1 and -O0 with a proven cache and agrees with ONNX Runtime's stored logits,
# whole, stepwise (one row computed per token), in chunks of 5, and two sequences at once.
# usage: zoo.sh BUILD_DIR MODEL_DIR [TOLERANCE_NAME]; where there are a TOLERANCE_NAME_RMS and _KL, they hold too
set -u
build=$1 model=$2
[ -f "$model/model.onnx" ] || { echo "skipped: $model is not here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tolerance_of() { awk -v name="$1" '$2 == name { print $3 }' "$(dirname "$0")/../../ir/tolerance.h"; }
tolerance=$(tolerance_of "${3:-TOL_LOGITS_F32}")
tol_rms=$(tolerance_of "${3:-TOL_LOGITS_F32}_RMS") tol_kl=$(tolerance_of "${3:-TOL_LOGITS_F32}_KL")
[ -n "$tolerance" ] || { echo "FAIL: no tolerance ${3:-}"; exit 1; }

"$build/gptc" -q "$model/model.onnx" -O1 -o "$work/model.bin" || { echo "FAIL: does not compile"; exit 1; }
"$build/gptc" -q "$model/model.onnx" -O0 -o "$work/plain.bin" || { echo "FAIL: does not compile at -O0"; exit 1; }

field() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" "$work/json"; }
status=0 compared=0
agree() { # agree FILE MODE TOKENS LOGITS OPTIONS…
    file=$1 mode=$2 tokens=$3 logits=$4
    shift 4
    if ! "$build/gptc-eval" "$work/$file" --tokens "$tokens" --expect "$logits" --json "$@" >"$work/json"; then
        echo "FAIL: $mode: gptc-eval failed"
        status=1
        return
    fi
    err=$(field max_abs_err) std=$(field ref_std) rows=$(field rows_computed)
    echo "$mode: max_abs_err $err of std $std, $rows rows"
    # only numbers count: an infinite error is printed as null
    awk -v e="$err" -v s="$std" -v t="$tolerance" \
        'BEGIN { exit !(e ~ /^[0-9]/ && s ~ /^[0-9]/ && s > 0 && e + 0 <= t * s) }' ||
        { echo "FAIL: $mode: over $tolerance"; status=1; }
    if [ -n "$tol_rms" ]; then
        rms=$(field rms_err) kl=$(field mean_kl)
        echo "$mode: rms_err $rms, mean_kl $kl"
        awk -v r="$rms" -v k="$kl" -v s="$std" -v tr="$tol_rms" -v tk="$tol_kl" \
            'BEGIN { exit !(r ~ /^[0-9]/ && k ~ /^-?[0-9]/ && r + 0 <= tr * s && k + 0 <= tk) }' ||
            { echo "FAIL: $mode: over $tol_rms of std or $tol_kl nats"; status=1; }
    fi
    [ "$(field kv_cache)" = true ] || { echo "FAIL: $mode: no cache"; status=1; }
    [ "$rows" = "$(field tokens)" ] || { echo "FAIL: $mode: $rows rows computed for $(field tokens) tokens"; status=1; }
    compared=$((compared + 1))
}
for kind in '' _batch; do
    tokens=$model/tokens$kind.pb logits=$model/logits$kind.pb
    [ -f "$tokens" ] || continue
    agree model.bin "tokens$kind whole" "$tokens" "$logits"
    agree model.bin "tokens$kind stepwise" "$tokens" "$logits" --stepwise
    agree model.bin "tokens$kind in chunks of 5" "$tokens" "$logits" --chunk 5
    agree plain.bin "tokens$kind at -O0" "$tokens" "$logits"
done
[ "$compared" -gt 0 ] || { echo "FAIL: nothing was compared"; status=1; }
exit $status
