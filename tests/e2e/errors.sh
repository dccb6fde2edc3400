#!/bin/sh
# Bad inputs give one clear line, the right exit status, and leave what was there untouched.
# usage: errors.sh BUILD_DIR SOURCE_DIR
set -u
build=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
expect() { # expect STATUS REGEX COMMAND…
    want=$1 regex=$2
    shift 2
    "$@" >"$work/out" 2>"$work/err"
    got=$?
    [ "$got" = "$want" ] || { echo "FAIL: $*: exit $got, expected $want"; cat "$work/err"; status=1; }
    grep -qE "$regex" "$work/err" || { echo "FAIL: $*: no /$regex/ in:"; cat "$work/err"; status=1; }
    [ "$(wc -l <"$work/err")" -le 2 ] || { echo "FAIL: $*: more than two lines"; cat "$work/err"; status=1; }
}
example=$source/examples/shakespeare
"$build/gptc" -q "$example/model.onnx" -o "$work/good.bin" || exit 1

expect 2 'model is needed' "$build/gptc"
expect 2 'no such option' "$build/gptc" --frobnicate x.onnx
expect 1 'none.onnx' "$build/gptc" -o "$work/x.bin" "$work/none.onnx"
head -c 5000 "$example/model.onnx" >"$work/cut.onnx"
expect 1 'cut.onnx' "$build/gptc" -o "$work/x.bin" "$work/cut.onnx"
echo "not a model" >"$work/text.onnx"
expect 1 'text.onnx' "$build/gptc" -o "$work/x.bin" "$work/text.onnx"
expect 1 'bad.json' "$build/gptc" -q -o "$work/x.bin" --tokenizer "$work/bad.json" "$example/model.onnx"
expect 1 'target' "$build/gptc" --target cuda:sm_9x "$example/model.onnx"
expect 2 'cuda-source' "$build/gptc" -o "$work/x.bin" --cuda-source "$example/model.onnx"
[ ! -e "$work/x.bin" ] || { echo "FAIL: a failed compile left a file"; status=1; }

# a text whose logits are for more tokens than it has embeddings
cat >"$work/rows.gir" <<'EOF'
gir 1 stage=imported
symbol batch
symbol seq
symbol past
input %1 "ids" : i64[batch, seq] role=tokens
const %2 : f32[32, 16] = seed(1)
const %3 : f32[16, 64] = seed(2)
%4 : f32[batch, seq, 16] = gather(%2, %1)
%5 : f32[batch, seq, 64] = matmul(%4, %3)
output %5 "logits" role=logits
EOF
expect 1 'as many logits as embeddings' "$build/gptc" -q -o "$work/y.bin" "$work/rows.gir"

# a table of angles shorter than the context
cat >"$work/angles.gir" <<'EOF'
gir 1 stage=raised
symbol batch
symbol seq
input %1 "input_ids" : i64[batch, seq] role=tokens
const %2 : f32[32, 16] = seed(1)
const %3 : f32[8, 4] = seed(2)
%4 : i64[seq] = iota()
%5 : f32[batch, seq, 16] = gather(%2, %1)
%6 : f32[batch, seq, 2, 8] = reshape(%5)
%7 : f32[batch, seq, 2, 8] = rope(%6, %3, %3, %4)
%8 : f32[batch, seq, 2, 8] = attention(%7, %7, %6) {scale=0.5, causal=true}
%9 : f32[batch, seq, 16] = reshape(%8)
const %10 : f32[16, 32] = seed(3)
%11 : f32[batch, seq, 32] = linear(%9, %10)
output %11 "logits" role=logits
EOF
expect 1 'table of positions has 8 rows; hint: --ctx 8' "$build/gptc" -q -o "$work/y.bin" "$work/angles.gir"
"$build/gptc" -q --ctx 8 -o "$work/y.bin" "$work/angles.gir" || { echo "FAIL: a context of 8"; status=1; }

# activations in 8 bits
cat >"$work/float8.gir" <<'EOF'
gir 1 stage=imported
symbol batch
symbol seq
symbol past
input %1 "ids" : i64[batch, seq] role=tokens
const %2 : f32[32, 16] = seed(1)
const %3 : f32[16, 32] = seed(2)
%4 : f32[batch, seq, 16] = gather(%2, %1)
%5 : f8e5m2[batch, seq, 16] = cast(%4)
%6 : f32[batch, seq, 16] = cast(%5)
%7 : f32[batch, seq, 32] = matmul(%6, %3)
output %7 "logits" role=logits
EOF
expect 1 'activations are rounded to 8 bits.*hint: --no-kv-cache' "$build/gptc" -q -o "$work/y.bin" "$work/float8.gir"
"$build/gptc" -q --no-kv-cache -o "$work/y.bin" "$work/float8.gir" || { echo "FAIL: activations in 8 bits"; status=1; }
rm -f "$work/y.bin"

# an existing output survives a failed compile
cp "$work/good.bin" "$work/keep.bin"
expect 1 'cut.onnx' "$build/gptc" -o "$work/keep.bin" "$work/cut.onnx"
cmp -s "$work/good.bin" "$work/keep.bin" || { echo "FAIL: a failed compile changed its output"; status=1; }
if ls "$work"/*tmp* >/dev/null 2>&1; then echo "FAIL: a temporary was left"; status=1; fi

expect 1 'none.bin' "$build/gptc-run" "$work/none.bin" -p x
head -c 100000 "$work/good.bin" >"$work/cut.bin"
expect 1 'cut.bin' "$build/gptc-run" "$work/cut.bin" -p x
expect 2 '' "$build/gptc-run"
expect 2 '' "$build/gptc-eval" "$work/good.bin"
expect 3 'CUDA|cuda' "$build/gptc-run" "$work/good.bin" --device cuda --tokens 1,2 -n 1
expect 1 'vocab|token' "$build/gptc-run" "$work/good.bin" --tokens 1,99999 -n 1
exit $status
