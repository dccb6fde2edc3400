#!/bin/sh
# bench/gpu.sh without a GPU: every stage that needs none runs against the null driver, what is there is not measured again,
# and a page is made. usage: gpu_rehearsal.sh BUILD_DIR SOURCE_DIR
set -u
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $*"; exit 1; }
rehearse() { BUILD=$1 SPEED_MODELS=tiny sh "$2/bench/gpu.sh" --rehearse --out "$work/out" >"$work/log" 2>&1; }
rehearse "$1" "$2" || fail "does not run: $(cat "$work/log")"
page=$(ls "$work"/out/gpu-*-rehearsal.md) || fail "no page"
for line in '| check | .*--decode graph' '| check | .*--decode auto' '| speed | tiny .*--decode persistent .*decode_tps [0-9]' \
    '| drawn | persistent --temp 0.8 .*decode_tps [0-9]' '^0 failed'; do
    grep -q "$line" "$page" || fail "no /$line/ in $(cat "$page")"
done
rehearse "$1" "$2" && grep -q '^== speed: there already' "$work/log" || fail "measures again: $(cat "$work/log")"
echo '{"what": "planted", "figures": {"error": "it broke"}}' >>"$work/out/speed.jsonl"
rehearse "$1" "$2" && fail "a failed measurement passes"
grep -q '^1 failed' "$page" || fail "a failed measurement is not shown"
if command -v nvidia-smi >/dev/null 2>&1; then exit 0; fi
BUILD=$1 sh "$2/bench/gpu.sh" --out "$work/none" >"$work/log" 2>&1
[ $? = 3 ] && grep -q 'no NVIDIA GPU' "$work/log" || fail "does not say that there is no GPU"
