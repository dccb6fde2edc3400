#!/bin/sh
# --no-kv-cache: an encoder is refused without it and agrees with ONNX Runtime with it; a decoder generates the same
# tokens with and without its cache; a graph that is no GPT needs no flag; what such a graph stores.
# usage: no_cache.sh BUILD_DIR SOURCE_DIR
set -u
build=$1 corpus=$2/tests/corpus example=$2/examples/shakespeare/model.onnx
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
fail() {
    echo "FAIL: $*"
    status=1
}
tolerance=$(awk '$2 == "TOL_LOGITS_F32" { print $3 }' "$2/ir/tolerance.h")
[ -n "$tolerance" ] || { echo "FAIL: no tolerance"; exit 1; }

# refused by name and with the hint, and no file
encoder=$corpus/encoder
"$build/gptc" -q "$encoder/model.onnx" -o "$work/model.bin" 2>"$work/err"
[ $? = 1 ] || fail "an encoder compiles with a cache"
grep -q 'encoder-like.*sees later tokens.*hint: --no-kv-cache' "$work/err" || { fail "no reason, or no hint"; cat "$work/err"; }
[ ! -e "$work/model.bin" ] || fail "a refused model left a file"

for level in -O0 -O1; do
    "$build/gptc" "$encoder/model.onnx" $level --no-kv-cache -o "$work/model.bin" 2>"$work/err" || { cat "$work/err"; exit 1; }
    grep -q 'verified.*tokens whole' "$work/err" || fail "not said to be verified"
    "$build/gptc-eval" "$work/model.bin" --tokens "$encoder/tokens.pb" --expect "$encoder/logits.pb" --json >"$work/json" ||
        fail "gptc-eval"
    cat "$work/json"
    sed -n 's/.*"max_abs_err": \([^,]*\).*"ref_std": \([^,]*\).*/\1 \2/p' "$work/json" |
        awk -v t="$tolerance" '{ n++; if (!($1 ~ /^[0-9]/ && $2 > 0 && $1 <= t * $2)) bad++ } END { exit !(n == 1 && !bad) }' ||
        fail "logits over $tolerance"
    grep -q '"kv_cache": false' "$work/json" || fail "has a cache"
done
"$build/gptc-inspect" "$work/model.bin" --plan >"$work/plan" || fail "gptc-inspect"
grep -q 'input.*i64\[batch, seq\].*input_ids' "$work/plan" && grep -q 'matmul.*f32\[batch' "$work/plan" ||
    { fail "the plan says too little"; cat "$work/plan"; }

# the same tokens with and without
"$build/gptc" -q "$example" -o "$work/cached.bin" && "$build/gptc" -q "$example" --no-kv-cache -o "$work/plain.bin" || exit 1
for model in cached plain; do
    "$build/gptc-run" -q "$work/$model.bin" --tokens 5,17,3,9 -n 12 >"$work/$model.txt" || fail "gptc-run $model"
done
cmp -s "$work/cached.txt" "$work/plain.txt" || { fail "other tokens without a cache"; cat "$work/cached.txt" "$work/plain.txt"; }

# no GPT
"$build/gptc" "$corpus/standard-nodes/topk_smallest/model.onnx" -o "$work/node.bin" 2>"$work/err" || fail "a plain function"
grep -q 'no GPT' "$work/err" || fail "not said to be no GPT"
"$build/gptc-run" "$work/node.bin" --tokens 1 -n 1 2>"$work/err"
[ $? = 3 ] || fail "a plain function generates"
grep -q 'no GPT' "$work/err" || { fail "no reason"; cat "$work/err"; }
# weights of 8 bits are widened to fp16
for type in f8e4m3fn f8e4m3fnuz f8e5m2 f8e5m2fnuz; do
    cat >"$work/float8.gir" <<GIR
gir 1 stage=imported
symbol batch
symbol seq
symbol past
input %1 "x" : f32[batch, 128]
const %2 : $type[128, 400] = seed(1)
%3 : f32[128, 400] = cast(%2)
%4 : f32[batch, 400] = matmul(%1, %3)
output %4 "y"
GIR
    "$build/gptc" -q "$work/float8.gir" -o "$work/float8.bin" || fail "a product with $type"
    "$build/gptc-inspect" "$work/float8.bin" --tensors | grep -q 'f16 *panel16 *\[400, 128\]' || fail "$type is not stored as f16"
done
exit $status
