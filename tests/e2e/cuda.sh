#!/bin/sh
# One exported model through the CUDA backend without a GPU: the emitted text is compiled for the CPU by
# codegen/cuda/kernels/prelude_host.h, a driver of the tests runs it (tests/cuda/driver.cpp), and the logits agree
# with ONNX Runtime's stored ones, whole, in chunks, stepwise and two sequences at once. Emission is repeatable.
# usage: cuda.sh BUILD_DIR SOURCE_DIR MODEL_DIR [TOLERANCE_NAME] [OPTIONS] (CUDA_SANITIZE: flags for the host build;
# CUDA_TOKENS=no: what is generated is not compared, where rows rounded to 16 bits choose other experts)
# With -O2 many rows are run on matrix units, those of four warps (sm_90) and those of one (older chips). With --cache q8, which
# is lossy, the CPU's logits of the same file take the place of the stored ones; and so with `mixed`, where each matrix of a
# layer has another form than that of the layer before.
set -u
level=${5:--O1}
build=$1 source=$2 model=$3
[ -f "$model/model.onnx" ] || { echo "skipped: $model is not here"; exit 77; }
command -v "${CXX:-c++}" >/dev/null || { echo "skipped: no C++ compiler"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tolerance=$(awk -v name="${4:-TOL_LOGITS_F32}" '$2 == name { print $3 }' "$source/ir/tolerance.h")
[ -n "$tolerance" ] || { echo "FAIL: no tolerance ${4:-}"; exit 1; }
fail() { echo "FAIL: $*"; exit 1; }

int8= mixed=
case $level in
*q8*) int8=yes ;;
mixed)
    mixed=yes
    "$build/gptc" -q "$model/model.onnx" -O3 --bits 8 --plan-out "$work/eight" -o "$work/model.bin" || fail "no plan"
    awk 'BEGIN { n = split("q8g32 q2g32z n4 p8v2 q6g64 n3g32 q8 n5g64 keep q4g32z f8 n2g64 p8v4 q5g64 q4g64 n4g64 n3g64 q4g32", form) }
        $1 == "site" { $5 = form[i++ % n + 1] } { print }' "$work/eight" >"$work/plan"
    level="-O3 --plan-in $work/plan"
    ;;
esac

"$build/gptc" -q "$model/model.onnx" $level --emit=cuda -o "$work/model.cu" || fail "does not emit"
"$build/gptc" -q "$model/model.onnx" $level --emit=cuda -o "$work/again.cu" && cmp "$work/model.cu" "$work/again.cu" || fail "emits other text the second time"
most=3000
! grep -q '^/\* code_forms.cu' "$work/model.cu" || most=3100 # compressed weights
! grep -q '^/\* gemm_codes.cu' "$work/model.cu" || most=3600 # two libraries: compressed weights, and those on matrix units
[ -z "$int8" ] || most=4000 # matrices in several forms
[ -z "$mixed" ] || most=4400
[ "$(wc -l <"$work/model.cu")" -lt $most ] || fail "more than $most lines"
sed -n 's/^KERNEL([0-9, ]*) \([a-z0-9_]*\)(.*/HOST_KERNEL(\1)/p' "$work/model.cu" >"$work/table"
"${CXX:-c++}" -std=c++17 -O1 -g -fPIC -shared ${CUDA_SANITIZE:-} -I"$source" -DGPTC_EMITTED="\"$work/model.cu\"" \
    -DGPTC_TABLE="\"$work/table\"" "$source/tests/cuda/driver.cpp" -o "$work/driver.so" || fail "the emitted text does not compile"
"$build/gptc" -q "$model/model.onnx" $level --target cpu,cuda:sm_80,cuda:sm_90 --nvrtc "$build/tests/libnvrtc-stand-in.so" --nvrtc-cache '' -o "$work/model.bin" ||
    fail "does not compile for CUDA"

field() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" "$work/json"; }
from=$model
cpu_says() { # cpu_says KIND OPTIONS…: logits$KIND.pb
    kind=$1
    shift
    "$build/gptc-eval" "$work/model.bin" --tokens "$work/tokens$kind.pb" "$@" --dump-logits "$work/logits$kind.pb" >/dev/null ||
        fail "the CPU does not run it"
}
if [ -n "$int8$mixed" ]; then
    from=$work
    cp "$model/tokens.pb" "$work" && cpu_says ''
fi
[ -z "$int8" ] || grep -q 'global<const Int8> k' "$work/model.cu" || fail "no cache in 8 bits"
if [ -n "$mixed" ]; then # one loop over the layers all the same
    grep -q '^ \* 2 layers in a loop' "$work/model.cu" || fail "layers of other forms are not alike"
    [ "$(grep -c '^    case [0-9]*: sum = ring_sum' "$work/model.cu")" -ge 8 ] || fail "few forms"
    grep -q 'grids_load<1>' "$work/model.cu" && grep -q 'grids_load<4>' "$work/model.cu" || fail "no grids"
fi
agree() { # agree KIND OPTIONS…
    kind=$1
    shift
    "$build/gptc-eval" "$work/model.bin" --tokens "$from/tokens$kind.pb" --expect "$from/logits$kind.pb" --json \
        --device "cuda:$work/driver.so" "$@" >"$work/json" || fail "tokens$kind $*: gptc-eval failed"
    err=$(field max_abs_err) std=$(field ref_std)
    echo "tokens$kind $*: max_abs_err $err of std $std"
    awk -v e="$err" -v s="$std" -v t="$tolerance" 'BEGIN { exit !(e ~ /^[0-9]/ && s ~ /^[0-9]/ && s > 0 && e + 0 <= t * s) }' ||
        fail "tokens$kind $*: over $tolerance"
    [ "$(field rows_computed)" = "$(field tokens)" ] || fail "tokens$kind $*: rows computed"
}
agree '' 
agree '' --stepwise --decode graph
agree '' --chunk 5
if grep -q '^KERNEL(288, 1) decode(' "$work/model.cu"; then # one kernel a step, of as many blocks as the chip has SMs
    counts='2 3'
    [ -z "${CUDA_SANITIZE:-}" ] && [ -z "$int8" ] || counts=2 # 45 s of fibers for the other
    for sms in $counts; do GPTC_SMS=$sms agree '' --stepwise --decode persistent; done
    forms='graph persistent'
    [ -z "$int8" ] || forms=persistent # which reads what it wrote itself; drawing is as in other models
else
    echo "no persistent kernel"
    forms=graph
fi
if [ -z "${CUDA_SANITIZE:-}${CUDA_TOKENS:-}" ]; then # minutes of fibers; the prelude checks memory and barriers by itself
    for form in $forms; do
        GPTC_SMS=2 "$build/tests/cuda-generate" "$work/model.bin" "$work/driver.so" $form || fail "generates something else, $form"
    done
fi
# only tokens come back: of the prompt, and of the last step nothing
for how in '' --ignore-eos; do
    rm -f "$work/generated"
    GPTC_TRACE=$work/generated "$build/gptc-run" "$work/model.bin" --tokens 1,2,3 -n 6 $how --decode graph --device "cuda:$work/driver.so" >/dev/null ||
        fail "does not generate $how"
    [ "$(grep -c '^draw <<<3 x 1, 256>>>' "$work/generated")" -ge 4 ] || fail "tokens are not drawn at the end of a graph $how"
    [ "$(grep -c '^download' "$work/generated")" = 1 ] || fail "more comes back than tokens $how: $(grep '^download' "$work/generated")"
done
if [ -f "$from/tokens_batch.pb" ]; then agree _batch --stepwise --decode graph; fi
[ "$level" != -O1 ] && [ -z "$mixed" ] || exit 0

# COUNT token ids as a tensor, whose dimensions and bytes HEADER says, and what the CPU says of them.
from=$work
tokens() { # tokens KIND HEADER COUNT OPTIONS…
    kind=$1 header=$2 count=$3
    shift 3
    {
        printf "$header"
        i=0
        while [ $i -lt "$count" ]; do
            printf "\\$(printf %03o $((i * 37 % 29)))\0\0\0\0\0\0\0"
            i=$((i + 1))
        done
    } >"$work/tokens$kind.pb"
    cpu_says "$kind" "$@"
}
# Two sequences at once, a few steps where the model's own are not taken.
if [ -n "$int8" ]; then
    tokens _few '\010\002\010\006\020\007\112\140' 12
    agree _few --stepwise --decode graph
fi
# Two sequences of 40 tokens, each whole: attention on matrix units.
tokens _long '\010\002\010\050\020\007\112\200\005' 80
export GPTC_TRACE="$work/trace"
agree _long
grep -q '_matrix <<<' "$work/trace" || fail "no attention on matrix units"
[ "$level" = -O2 ] || exit 0
# 70 sequences at once are more rows than a tile, [70, 3]: both kinds of matrix units for products.
tokens _wide '\010\106\010\003\020\007\112\220\015' 210 --stepwise
for arch in 90 80; do
    export GPTC_ARCH=$arch GPTC_TRACE="$work/trace$arch"
    agree _wide --stepwise
done
grep -q '_groups <<<' "$work/trace90" || fail "no matrix units of four warps on sm_90"
grep -q '_tiles <<<' "$work/trace80" || fail "no matrix units on sm_80"
grep -q '_groups <<<' "$work/trace80" && fail "matrix units of four warps on sm_80"
exit 0
