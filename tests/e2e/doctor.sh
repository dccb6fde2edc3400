#!/bin/sh
# The import doctor: what gptc-inspect says of a graph is true, also of graphs that do not compile, and the exit
# status says whether it would.
# usage: doctor.sh BUILD_DIR SOURCE_DIR MODELS_DIR
set -u
build=$1 source=$2 models=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
look() { # look STATUS FILE: keeps the report
    want=$1
    "$build/gptc-inspect" "$2" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    [ "$got" = "$want" ] || { echo "FAIL: $2: exit $got, expected $want"; cat "$work/out" "$work/err"; status=1; }
    [ ! -s "$work/err" ] || { echo "FAIL: $2: something on standard error"; cat "$work/err"; status=1; }
    name=$2
}
says() { # says REGEX…: of the last report
    for regex; do
        grep -qE -e "$regex" "$work/out" || { echo "FAIL: $name: no /$regex/ in:"; cat "$work/out"; status=1; }
    done
}
silent() { ! grep -qE -e "$1" "$work/out" || { echo "FAIL: $name: /$1/ in:"; cat "$work/out"; status=1; }; }
pass_test() { sed '/^; ---- after/,$d' "$source/tests/passes/$1.gir" >"$work/$1.gir"; } # its first half

# a model that compiles
example=$source/examples/shakespeare/model.onnx
look 0 "$example"
says '^  producer +pytorch' '^  opsets +ai.onnx 18' '^  f16 +26 tensors' '^  input_ids +i64\[batch, seq\] +tokens +picks' \
    '^  layers +6$' '^  heads +8$' '^  head size +32$' '^  masks +causal, all layers' '; biases$' \
    'layer, epsilon 1e-05, before each part, and before the head' 'GELU, tanh form$' '^  feed forward +1024, after' \
    'the embedding, transposed' '^  context +512: the rows' '^  cache a token +12.3 kB' '^  all +5132288$' \
    '^  attention +6$' '^  linear +25$' '^  proven +yes' '^  compiles +yes'
silent 'nearly recognised'
"$build/gptc-inspect" --json "$example" >"$work/out" || { echo "FAIL: --json"; status=1; }
says '^\{.*\}$' '"architecture": \{"layers": 6, "hidden_size": 256, ' '"inputs": \[\{"name": "input_ids"' \
    '"compiles": true'

# graphs that nearly are what is looked for: the node, the pattern and the difference
miss() { # miss TEST STATUS REGEX
    pass_test "$1"
    look "$2" "$work/$1.gir"
    says '^nearly recognised' "$3"
}
miss raise-attention-not-times-alone 1 'softmax on line [0-9]+ +not attention +mul on line 20: scores are multiplied'
miss raise-attention-not-weak-mask 1 'not attention +where on line 21: .* not low enough to block'
miss raise-attention-not-max-beside-sinks 1 'sub on line 22: what it subtracts'
miss raise-attention-not-capped-sinks 1 'sinks join the scores before'
says '^  reason +matmul on line 20 compares positions' '^  stops at +kvcache' 'line 20.*hint: '
miss raise-norm-not-axis 0 'sqrt on line 11 +not norm +the mean runs over other axes'
miss raise-norm-not-other-value 0 'not norm +the mean is of the square of another value'
miss raise-norm-not-outer-eps 0 'not norm +epsilon is added after the root'
miss raise-act-not-constant 0 'not gelu .*0.03566544 x\^3.* GELU has '

# what stands in the way of a cache: op, place, reason, remedy
pass_test raise-position-length
look 1 "$work/raise-position-length.gir"
says '^  proven +no' '^  stops at +raise-position' 'from cos on line 15, which depends on the length.*hint: '

# a graph without tokens is a plain function
pass_test raise-norm-layer
look 0 "$work/raise-norm-layer.gir"
says '^plain function' '^  norm +1' '^  compiles +yes'
silent '^KV cache|^architecture'

# operators that are not known are listed at once, with what to do
LC_ALL=C sed -e 's/Softmax/Softmix/g' -e 's/Transpose/Transpoze/g' "$example" >"$work/unknown.onnx"
look 1 "$work/unknown.onnx"
says '^operators that are not supported' '^  Softmix +ai.onnx 18 +6 nodes' '^  Transpoze +ai.onnx 18 +[0-9]+ nodes' \
    '^  stops at +import'
head -c 5000 "$example" >"$work/cut.onnx"
if "$build/gptc-inspect" "$work/cut.onnx" >"$work/out" 2>"$work/err"; then echo "FAIL: a cut file"; status=1; fi
[ ! -s "$work/out" ] && grep -q 'cut.onnx' "$work/err" || { echo "FAIL: what is said of a cut file"; status=1; }

# exported models, where they are
zoo=$models/zoo
model() { # model NAME REGEX…
    [ -f "$zoo/$1/model.onnx" ] || { echo "not here: $1"; return; }
    look 0 "$zoo/$1/model.onnx"
    shift
    says "$@" '^  compiles +yes'
}
model gpt2-ts-past 'attention_mask .* mask .*bound to 1' 'position_ids .* positions .*bound to past \+ index' \
    'appended to it along axis 2' 'positions +learned, 128 rows' 'context +128: the rows of'
model bloom-ts-past 'positions +ALiBi; all layers'
model gemma2-dynamo18 'window 16, layer 0 of 2; causal, layer 1 of 2' 'scale 0.0625, not 1 / sqrt.*soft cap 50' \
    'RMS, .*before and after each part' 'GELU, tanh form, gated' 'soft cap 30 on logits' 'key heads +2, each for several'
model gptj-dynamo18 'rotary, 8 of 16 features, neighbours, base 10000' 'feed forward +256, beside attention' \
    'head +a matrix of its own'
model gptneox-dynamo18 'rotary, 4 of 16 features, halves, base 10000' 'GELU, exact'
model llama-ts-past 'rotary, all of 16 features' 'SiLU, gated' 'RMS, epsilon 1e-06, before each part'
model mistral-ts-past 'masks +causal, window 16, all layers'
model qwen3moe-ts-past 'experts +4, 2 a token' 'norms on queries and keys' '^  norm +9$'
model handwritten-static 'context +32: the length the graph was exported with'
exit $status
