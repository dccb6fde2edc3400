#!/bin/sh
# Every export below the folders: compiles at -O1 with a proven cache and agrees with the stored logits, whole,
# stepwise, in chunks of 5, and two sequences at once. One line each, the count at the end.
# usage: check.sh BUILD_DIR FOLDER…
set -u
build=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tolerance=$(awk '$2 == "TOL_LOGITS_F32" { print $3 }' "$(dirname "$0")/../../ir/tolerance.h")
passed=0 failed=0
field() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" "$work/json"; }
check() { # check FOLDER: sets result; nonzero when it fails
    "$build/gptc" -q "$1/model.onnx" -O1 -o "$work/m.bin" 2>"$work/err" || {
        result="compile: $(grep -m1 -a error "$work/err" | cut -c1-300)"
        [ "$result" = "compile: " ] && result="compile: $(head -n1 "$work/err" | cut -c1-300)"
        return 1
    }
    worst=0
    for suffix in "" _batch; do
        [ -f "$1/tokens$suffix.pb" ] || continue
        for mode in "" --stepwise "--chunk 5"; do
            # shellcheck disable=SC2086
            "$build/gptc-eval" "$work/m.bin" --tokens "$1/tokens$suffix.pb" --expect "$1/logits$suffix.pb" $mode \
                --json >"$work/json" 2>"$work/err" || {
                result="run$suffix $mode: $(head -n1 "$work/err" | cut -c1-300)"
                return 1
            }
            worst=$(awk "BEGIN { e = $(field max_abs_err) / $(field ref_std); print (e > $worst ? e : $worst) }")
            [ "$(field kv_cache)" = true ] || { result="no cache"; return 1; }
            awk "BEGIN { exit !($worst <= $tolerance) }" || { result="wrong$suffix $mode: $worst of std"; return 1; }
        done
    done
    result="ok $(awk "BEGIN { printf \"%.1e\", $worst }")"
}
for top; do
    for model in $(find "$top" -name model.onnx | sort); do
        folder=$(dirname "$model")
        [ -f "$folder/logits.pb" ] || continue
        if check "$folder"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
        printf '%s\t%s\n' "$(basename "$folder")" "$result"
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
