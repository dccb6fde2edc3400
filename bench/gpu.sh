#!/bin/sh
# A GPU's whole measurement, in stages, the most valuable first: bench/gpu.sh [--out DIR] [STAGE…]
#
#   micro     what the machine can do: read rate, hops, launches                        a minute
#   check     models against stored logits, graph and persistent, prefill and decode    2 minutes
#   speed     tokens/s of GPT-2 124M and Llama 1B, context 128 to 32k, 1 to 64 sequences, with peers beside them
#   products  the products of many rows: right, and their rate                          a minute
#   drawn     text of the example from one seed, greedy and drawn, beside the CPU's      seconds
#   large     Llama 8B                                                                  8 minutes
#   sanitize  compute-sanitizer over a small model
#   profile   ncu of the slowest kernels
#   page      what is there, as a page; always the last
#
# A stage that has its file in DIR (default build/gpu) is not run again, so the script can be cut off anywhere. It needs a
# built tree (BUILD, default build) and few files: weights are made on the machine from seeds. A program that came from
# another machine finds libprotobuf-c in build/lib, where `bench/gpu.sh --pack` puts it.
# --rehearse runs every stage that can run without a GPU, against the null driver of the tests.
set -u
cd "$(dirname "$0")/.." || exit 3
build=${BUILD:-build} out= rehearse= device=cuda arch=${ARCH:-sm_90a} nvrtc=
stages=
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$2; shift ;;
    --rehearse) rehearse=1 ;;
    --pack)
        mkdir -p "$build/lib"
        ldd "$build/gptc" | awk '/protobuf-c/ { print $3 }' | xargs -r -I{} cp {} "$build/lib/"
        exit ;;
    -*) echo "gpu.sh: unknown option $1" >&2; exit 2 ;;
    *) stages="$stages $1" ;;
    esac
    shift
done
out=${out:-$build/gpu}
mkdir -p "$out" || exit 3
case $build in /*) ;; *) build=$PWD/$build ;; esac
LD_LIBRARY_PATH=$build/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
models=${MODELS:-$out/models}
mkdir -p "$models"
python=${PYTHON:-python3}
if [ -n "$rehearse" ]; then
    device=cuda:$build/tests/libcuda-null.so nvrtc="--nvrtc $build/tests/libnvrtc-stand-in.so --nvrtc-cache $out/cache"
    GPTC_SMS=${GPTC_SMS:-132}
    export GPTC_SMS
elif ! command -v nvidia-smi >/dev/null || ! nvidia-smi >/dev/null 2>&1; then
    echo "gpu.sh: no NVIDIA GPU answers here; --rehearse runs what can run without one" >&2
    exit 3
fi
failed=0
say() { echo "== $*"; }

# One line of JSON a measurement: put STAGE KEY JSON
put() { printf '{"what": "%s", "figures": %s}\n' "$2" "$3" >>"$out/$1.part"; }
# Compiled once; an interrupted compile leaves nothing behind.
compile() { # compile MODEL OUT OPTIONS…
    from=$1 to=$2
    shift 2
    [ -f "$to" ] || "$build/gptc" -q "$from" --target "cpu,cuda:$arch" $nvrtc "$@" -o "$to" || { failed=1; return 1; }
}
tool() { # a stage that needs a program: tool NAME
    [ -z "$rehearse" ] && command -v "$1" >/dev/null && return
    echo "   skipped: ${rehearse:+rehearsal, }no $1"
    return 1
}

stage_micro() {
    tool nvcc || return 0
    nvcc -O3 -std=c++17 -arch="$arch" bench/gpu/micro.cu -o "$out/micro.run" && figures=$("$out/micro.run") || { failed=1; return; }
    put micro machine "$(echo "$figures" | tr '\n' ' ')"
}

agree() { # agree NAME FILE TOKENS LOGITS OPTIONS…
    name=$1 file=$2 tokens=$3 logits=$4
    shift 4
    if ! json=$("$build/gptc-eval" "$file" --tokens "$tokens" --expect "$logits" --json --device "$device" "$@" 2>"$out/err"); then
        json="{\"error\": \"$(head -c 300 "$out/err" | tr '"\n' "' ")\"}"
        failed=1
    fi
    put check "$name $*" "$(echo "$json" | tr '\n' ' ')"
}

# Every model at hand, as exported and, at -O2, with matrix units.
stage_check() {
    for dir in tests/models/* ../shared/models/zoo/* "${ZOO:-none}"/*; do
        [ -f "$dir/model.onnx" ] || continue
        for level in -O1 -O2; do
            file=$models/$(basename "$dir")$level.bin
            compile "$dir/model.onnx" "$file" $level 2>"$out/err" || { failed=0; echo "   not for CUDA: $dir: $(head -1 "$out/err")"; break; }
            for kind in '' _batch; do
                [ -f "$dir/tokens$kind.pb" ] || continue
                agree "$(basename "$dir") $level" "$file" "$dir/tokens$kind.pb" "$dir/logits$kind.pb"
                agree "$(basename "$dir") $level" "$file" "$dir/tokens$kind.pb" "$dir/logits$kind.pb" --stepwise --decode graph
                agree "$(basename "$dir") $level" "$file" "$dir/tokens$kind.pb" "$dir/logits$kind.pb" --stepwise --decode auto
            done
            [ -z "$rehearse" ] || return 0
        done
    done
}

measure() { # measure STAGE NAME FILE OPTIONS…
    stage=$1 name=$2 file=$3
    shift 3
    json=$("$build/gptc-bench" "$file" --json --device "$device" "$@" 2>"$out/err") || json="{\"error\": \"$(head -c 300 "$out/err" | tr '"\n' "' ")\"}"
    put "$stage" "$name $*" "$(echo "$json" | tr '\n' ' ')"
}

speeds() { # speeds STAGE NAME FILE: decode at depth, at batch, prefill
    stage=$1 name=$2 file=$3
    for form in graph persistent; do
        measure "$stage" "$name" "$file" -p 16 -n 128 -r 5 --decode $form --depth 1024
    done
    [ -z "$rehearse" ] || return 0
    for depth in 128 8192 32000; do measure "$stage" "$name" "$file" -p 16 -n 64 -r 3 --depth $depth; done
    for batch in 8 64; do measure "$stage" "$name" "$file" -p 16 -n 64 -r 3 --batch $batch --depth 512; done
    for prompt in 128 512 2048 8192; do measure "$stage" "$name" "$file" -p $prompt -n 1 -r 5; done
}

stage_speed() {
    for name in ${SPEED_MODELS:-gpt2-124m llama-1b}; do
        ctx=33000
        [ -z "$rehearse" ] || ctx=2048
        "$python" bench/gpu/model.py "$name" "$models/$name.gir" --context $ctx || { failed=1; continue; }
        compile "$models/$name.gir" "$models/$name.bin" -O2 --ctx $ctx || continue
        speeds speed "$name" "$models/$name.bin"
        [ -n "$rehearse" ] && continue
        "$python" bench/gpu/peers.py "$name" >"$out/peers" 2>"$out/err" && put speed "$name torch" "$(tr '\n' ' ' <"$out/peers")" ||
            put speed "$name torch" "{\"error\": \"$(tail -c 300 "$out/err" | tr '"\n\\' "'  ")\"}"
    done
}

stage_products() {
    tool nvcc || return 0
    nvcc -std=c++17 -O2 -gencode=arch=compute_90a,code=sm_90a -I. bench/gpu/products.cu -lcuda -o "$out/products.run" || { failed=1; return; }
    "$out/products.run" >"$out/products.out" || failed=1
    put products shapes "[$(paste -sd, "$out/products.out")]"
}

# Rounding of logits may part the two texts somewhere; before that they are one.
stage_drawn() {
    compile examples/shakespeare/model.onnx "$models/example.bin" -O2 --tokenizer examples/shakespeare/tokenizer.json || return
    for how in '--temp 0' '--temp 0.8 --top-k 40 --top-p 0.95 --min-p 0.01 --seed 7'; do
        "$build/gptc-run" "$models/example.bin" -q -p KING: -n 200 $how >"$out/text.cpu" || failed=1
        for form in graph persistent; do
            "$build/gptc-run" "$models/example.bin" -p KING: -n 200 $how --device "$device" --decode $form >"$out/text.gpu" 2>"$out/err" || failed=1
            rate=$(sed -n 's/.*decode [0-9]* tokens, \([0-9.]*\) tokens.*/\1/p' "$out/err")
            parts=$(cmp "$out/text.cpu" "$out/text.gpu" 2>&1 | sed -nE 's/.*(byte|char) ([0-9]+).*/\2/p')
            cmp -s "$out/text.cpu" "$out/text.gpu" && alike=true || alike=false
            put drawn "$form $how" "{\"alike\": $alike, \"bytes\": $(wc -c <"$out/text.cpu"), \"parts_at\": ${parts:-0}, \"decode_tps\": ${rate:-0}}"
        done
    done
}

stage_large() {
    [ -z "$rehearse" ] || { echo "   skipped: rehearsal"; return 0; }
    name=llama-8b
    "$python" bench/gpu/model.py $name "$models/$name.gir" --context 9000 && compile "$models/$name.gir" "$models/$name.bin" -O2 --ctx 9000 || return
    for form in graph persistent; do measure large $name "$models/$name.bin" -p 16 -n 64 -r 3 --decode $form --depth 1024; done
    measure large $name "$models/$name.bin" -p 2048 -n 1 -r 3
}

stage_sanitize() {
    tool compute-sanitizer || return 0
    compile examples/shakespeare/model.onnx "$models/example.bin" -O2 || return
    for check in memcheck racecheck synccheck initcheck; do
        for form in graph persistent; do
            timeout 120 compute-sanitizer --tool $check --error-exitcode 9 "$build/gptc-bench" "$models/example.bin" -p 70 -n 4 -r 1 --decode $form \
                --device cuda >"$out/sanitize.$check.$form.log" 2>&1
            put sanitize "$check $form" "{\"exit\": $?, \"summary\": \"$(grep -m1 'SUMMARY' "$out/sanitize.$check.$form.log" | tr -d '"')\"}"
        done
    done
}

stage_profile() {
    tool ncu || return 0
    for form in graph persistent; do
        timeout 200 ncu --clock-control none --set basic --launch-skip 30 --launch-count 24 --csv "$build/gptc-bench" "$models/llama-1b.bin" -p 512 -n 4 -r 1 \
            --decode $form --device cuda >"$out/profile.$form.csv" 2>"$out/err" || failed=1
    done
    put profile ncu '"profile.*.csv"'
}

for stage in ${stages:-micro check speed products drawn large sanitize profile}; do
    case $stage in
    micro | check | speed | products | drawn | large | sanitize | profile) ;;
    *) echo "gpu.sh: no stage $stage" >&2; exit 2 ;;
    esac
    if [ -f "$out/$stage.jsonl" ]; then
        say "$stage: there already"
        continue
    fi
    say "$stage"
    rm -f "$out/$stage.part"
    : >"$out/$stage.part"
    "stage_$stage"
    mv "$out/$stage.part" "$out/$stage.jsonl"
done
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
"$python" bench/gpu/page.py "$out" --commit "$commit" ${rehearse:+--rehearsal} || failed=1
exit $failed
