#!/bin/sh
# A mixture of experts, compressed: its stacks of matrices take formats as other matrices do, within a size and within a
# budget, and a plan repeats the file byte for byte.
# usage: lossy_experts.sh BUILD_DIR MODEL_DIR
set -u
build=$1 model=$2/model.onnx
[ -f "$model" ] || { echo "skipped: $2 is not here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
status=0
fail() { echo "FAIL: $*"; status=1; }
options="--threads 1 --ctx 128"

stacks() { "$build/gptc-inspect" "$1" --tensors | grep -cE 'panel16 +\[[0-9]+, [0-9]+, [0-9]+\]'; }

"$build/gptc" -q "$model" $options -o exact.bin || exit 1
[ "$(stacks exact.bin)" -gt 0 ] || { echo "FAIL: no experts in the model"; exit 1; }

# a size
"$build/gptc" "$model" $options --bits 5 --plan-out plan -o small.bin 2>err || { fail "--bits 5"; cat err; exit 1; }
grep -q 'compressed, stepwise against whole' err || { fail "the second gate did not run"; cat err; }
[ "$(stacks small.bin)" = 0 ] || fail "experts are left as they were"
[ $(($(wc -c <small.bin) * 3)) -lt "$(wc -c <exact.bin)" ] || fail "not a third of the size"
"$build/gptc" -q "$model" $options --plan-in plan -o again.bin || fail "--plan-in"
cmp small.bin again.bin || fail "a plan does not repeat the file"

# a budget, on text that the model wrote
"$build/gptc" "$model" $options --budget kl=0.01 --plan-out plan -o kl.bin 2>err || { fail "--budget kl=0.01"; cat err; }
grep -q 'budget .*kl=0.01.* held' err || { fail "no word of the budget"; cat err; }
exit $status
