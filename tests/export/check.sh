#!/bin/sh
# Every export below the folders goes through tests/e2e/zoo.sh. One line each, the count at the end.
# usage: check.sh BUILD_DIR FOLDER…
set -u
build=$1
shift
log=$(mktemp)
trap 'rm -f "$log" "$log.list"' EXIT
passed=0 failed=0
for top; do
    find "$top" -name model.onnx | sort >"$log.list"
    while IFS= read -r model; do
        folder=$(dirname "$model")
        [ -f "$folder/logits.pb" ] || continue
        tolerance=
        case $folder in *fp16*) tolerance=TOL_LOGITS_F16 ;; esac
        if sh "$(dirname "$0")/../e2e/zoo.sh" "$build" "$folder" $tolerance >"$log" 2>&1; then
            passed=$((passed + 1)) result=ok
        else
            failed=$((failed + 1)) result=$(grep -m1 -aE 'error|FAIL' "$log" | cut -c1-300)
        fi
        printf '%s\t%s\n' "$(basename "$folder")" "$result"
    done <"$log.list"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
