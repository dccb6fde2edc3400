#!/bin/sh
# One exported model through the CUDA backend without a GPU: the emitted text is compiled for the CPU by
# codegen/cuda/kernels/prelude_host.h, a driver of the tests runs it (tests/cuda/driver.cpp), and the logits agree
# with ONNX Runtime's stored ones, whole, in chunks, stepwise and two sequences at once. Emission is repeatable.
# usage: cuda.sh BUILD_DIR SOURCE_DIR MODEL_DIR [TOLERANCE_NAME] (CUDA_SANITIZE: flags for the host build)
set -u
build=$1 source=$2 model=$3
[ -f "$model/model.onnx" ] || { echo "skipped: $model is not here"; exit 77; }
command -v "${CXX:-c++}" >/dev/null || { echo "skipped: no C++ compiler"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tolerance=$(awk -v name="${4:-TOL_LOGITS_F32}" '$2 == name { print $3 }' "$source/ir/tolerance.h")
[ -n "$tolerance" ] || { echo "FAIL: no tolerance ${4:-}"; exit 1; }
fail() { echo "FAIL: $*"; exit 1; }

"$build/gptc" -q "$model/model.onnx" --emit=cuda -o "$work/model.cu" || fail "does not emit"
"$build/gptc" -q "$model/model.onnx" --emit=cuda -o "$work/again.cu" && cmp "$work/model.cu" "$work/again.cu" || fail "emits other text the second time"
[ "$(wc -l <"$work/model.cu")" -lt 3000 ] || fail "more than 3,000 lines"
sed -n 's/^KERNEL([0-9, ]*) \([a-z0-9_]*\)(.*/HOST_KERNEL(\1)/p' "$work/model.cu" >"$work/table"
"${CXX:-c++}" -std=c++17 -O1 -g -fPIC -shared ${CUDA_SANITIZE:-} -I"$source" -DGPTC_EMITTED="\"$work/model.cu\"" \
    -DGPTC_TABLE="\"$work/table\"" "$source/tests/cuda/driver.cpp" -o "$work/driver.so" || fail "the emitted text does not compile"
"$build/gptc" -q "$model/model.onnx" --target cuda:sm_90 --nvrtc "$build/tests/libnvrtc-stand-in.so" --nvrtc-cache '' -o "$work/model.bin" ||
    fail "does not compile for CUDA"

field() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" "$work/json"; }
agree() { # agree KIND OPTIONS…
    kind=$1
    shift
    "$build/gptc-eval" "$work/model.bin" --tokens "$model/tokens$kind.pb" --expect "$model/logits$kind.pb" --json \
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
    for sms in 2 3; do GPTC_SMS=$sms agree '' --stepwise --decode persistent; done
    GPTC_SMS=2 "$build/tests/cuda-generate" "$work/model.bin" "$work/driver.so" || fail "generates something else"
else
    echo "no persistent kernel"
fi
if [ -f "$model/tokens_batch.pb" ]; then agree _batch --stepwise --decode graph; fi
exit 0
