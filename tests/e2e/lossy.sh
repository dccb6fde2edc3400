#!/bin/sh
# Compression from the command line: a budget holds on text that the search did not see, a plan repeats the file byte
# for byte, sizes hold, what is refused is refused in one line, and nothing that breaks its budget is written.
# usage: lossy.sh BUILD_DIR SOURCE_DIR
set -u
build=$1 example=$2/examples/shakespeare
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
fail() { echo "FAIL: $*"; status=1; }
refused() { # refused STATUS REGEX ARGUMENTS…
    want=$1 regex=$2
    shift 2
    rm -f none.bin
    "$build/gptc" -q "$@" -o none.bin >out 2>err </dev/null
    got=$?
    [ "$got" = "$want" ] || { fail "$*: exit $got, expected $want"; cat err; }
    [ "$(wc -l <err)" = 1 ] && grep -qE -e "$regex" err || { fail "$*: no /$regex/ in one line:"; cat err; }
    [ ! -e none.bin ] || fail "$*: wrote a model"
}
number() { sed -n "s/.*\"$1\": *\([-0-9.e+]*\).*/\1/p" "$2"; }
below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && a + 0 <= b + 0) }'; }

cp "$example/model.onnx" "$example/tokenizer.json" "$work"
cd "$work" || exit 1
"$build/gptc" -q model.onnx -o exact.bin || exit 1
for seed in 1 2 3 4 5 6 7 8 9 10 11 12; do
    "$build/gptc-run" exact.bin -p "KING:" -n 300 --temp 1 --threads 1 --seed $seed 2>/dev/null
done >text
tail -c 4000 text >fresh
head -c -4000 text >seen

# a budget, its record, and its plan again
"$build/gptc" model.onnx --threads 1 --ctx 128 --budget kl=0.03 --calibrate seen --plan-out plan --report page.html -o small.bin 2>err ||
    { fail "--budget kl=0.03"; cat err; exit 1; }
grep -q 'cache .*8 bits kept.*measured' err && grep -q '^cache q8$' plan && grep -q 'rows .*8 bits kept.*measured' err && grep -q '^activations q8$' plan || { fail "8 bits beside the weights were not tried"; cat err; }
grep -q 'budget .*kl=0.03.* held' err || { fail "no word of the budget"; cat err; }
"$build/gptc-inspect" small.bin --report >record || fail "no record in the model"
head -n "$(wc -l <plan)" record | cmp -s - plan || fail "the record does not begin with the plan"
"$build/gptc" -q model.onnx --threads 1 --ctx 128 --plan-in plan --calibrate seen -o again.bin || fail "--plan-in"
cmp small.bin again.bin || fail "a plan does not repeat the file"
[ "$(wc -c <small.bin)" -lt $(($(wc -c <exact.bin) / 3)) ] || fail "not a third of the size"
"$build/gptc-eval" small.bin --against exact.bin --text fresh --json >eval.json || fail "gptc-eval"
below "$(number mean_kl eval.json)" 0.03 || { fail "the budget is broken on fresh text"; cat eval.json; }
grep -q '<svg' page.html && grep -q 'id=frontier' page.html && grep -q 'id=risk' page.html || fail "the page lacks a part"
if grep -qE '(src|href)=|https?://' page.html; then fail "the page needs more than itself"; fi

# sizes, and the cache in fp32 where nothing else is asked for
"$build/gptc" -q model.onnx --threads 1 --ctx 128 --bits 4.5 --calibrate seen --plan-out bits.plan -o bits.bin || fail "--bits 4.5"
"$build/gptc-inspect" bits.bin --report | grep -q '^budget bits=4.5' || fail "no budget of bits in the record"
"$build/gptc-inspect" bits.bin --report | grep -qE '^(cache|activations) ' && fail "8 bits beside the weights unasked, for a budget of bits"

# speed on each target: before any work, and of what was written
"$build/gptc" model.onnx --ctx 128 --bits 4.5 --dry-run >dry || fail "--dry-run"
for line in '' 'compressed: '; do
    grep -qE "^${line}decode on this CPU, predicted: at most [0-9.e+]+ tokens" dry && grep -qE "^${line}decode on one H200 .*predicted: [0-9]+ tokens" dry || { fail "--dry-run, ${line}decode"; cat dry; }
done
rate() { sed -n "s/.*one H200.*predicted: \([0-9]*\).*/\1/p" dry | sed -n "$1p"; }
below "$(rate 1)" "$(rate 2)" || { fail "compressed weights are not predicted to be read faster"; cat dry; }
"$build/gptc" model.onnx --threads 1 --ctx 128 --plan-in bits.plan --calibrate seen --target cpu,cuda:sm_90 --nvrtc "$build/tests/libnvrtc-stand-in.so" --nvrtc-cache '' --report cuda.html -o cuda.bin 2>err || { fail "a plan for CUDA"; cat err; }
grep -qE '^  H200 +decodes [0-9]+ tokens/s at context 128, before [0-9]+ \(predicted\)' err && ! grep -q '^  A100' err || { fail "no speed on the GPUs that there is code for"; cat err; }
grep -q 'decode on one H200 before.*class="predicted"' cuda.html || fail "the page has no predicted speed"

# refused before or after the work, never written
refused 1 'budget kl=never' model.onnx --budget kl=never
refused 1 'smallest formats take' model.onnx --ctx 128 --size 1kB --calibrate seen
refused 2 'one of them decides' model.onnx --budget kl=0.01 --bits 4
refused 2 'one of them decides' model.onnx --cache q8 --plan-in plan
refused 2 'f32 or q8' model.onnx --cache q3
refused 2 'f32 or q8' model.onnx --activations 8
refused 2 'belong to -O3' model.onnx -O1 --budget kl=0.01
refused 2 'belong to -O3' model.onnx --no-kv-cache --bits 4
head -c 300 seen >short
refused 1 'too few to calibrate' model.onnx --ctx 128 --budget kl=0.01 --calibrate short
refused 1 'another calibration text' model.onnx --ctx 128 --plan-in plan --calibrate fresh
sed 's/^model ./model 0/; s/^model 00/model 01/' plan >other.plan
refused 1 'another model' model.onnx --ctx 128 --plan-in other.plan --calibrate seen
sed 's/ keep / nine /; s/ [a-z0-9]* "/ nine "/' plan >wrong.plan
refused 1 'wrong.plan:[0-9]+.*no such format' model.onnx --ctx 128 --plan-in wrong.plan --calibrate seen
sed 's/^budget .*/budget kl=0.000001/' plan >strict.plan
refused 1 'breaks its budget' model.onnx --ctx 128 --plan-in strict.plan --calibrate seen --plan-out lost.plan --report lost.html
[ ! -e lost.plan ] && [ ! -e lost.html ] || fail "a plan or a page of a model that was not written"
sed 's/^budget .*/budget bits=3/' bits.plan >large.plan
refused 1 'budget bits=3 is broken: .* 4\.[0-9]* bits' model.onnx --ctx 128 --plan-in large.plan --calibrate seen
refused 1 'nowhere/plan: cannot create' model.onnx --ctx 128 --bits 4 --calibrate seen --plan-out nowhere/plan
refused 2 'are not written' model.onnx --dry-run --bits 4 --plan-out lost.plan

refused 1 'is read by this compile' model.onnx --ctx 128 --plan-in plan --calibrate seen --report model.onnx
refused 1 'already; name another file' model.onnx --ctx 128 --plan-in plan --calibrate seen --report seen
refused 1 'nothing was compressed' model.onnx --ctx 128 --bits 4 --disable=prune,quantize

# a pass that is left out
"$build/gptc" -q model.onnx -O3 --disable=prune,quantize -o off.bin || fail "--disable=quantize"
cmp -s off.bin small.bin && fail "--disable=quantize has no effect"
exit $status
