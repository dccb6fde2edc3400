#!/bin/sh
# Sessions on a GPU against a driver that runs nothing: order and arguments of the launches, memory, and what is
# said when something is missing. usage: cuda_null.sh BUILD_DIR SOURCE_DIR
set -u
build=$1 source=$2 model=$2/examples/shakespeare/model.onnx
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
null=$build/tests/libcuda-null.so stand_in=$build/tests/libnvrtc-stand-in.so
status=0
bad() { echo "FAIL: $*"; status=1; }
"$build/gptc" -q "$model" --target cpu,cuda:sm_90,cuda:compute_90 --nvrtc "$stand_in" --nvrtc-cache "$work/cache" -o "$work/m.bin" || bad "does not compile"
[ "$(ls "$work/cache" | wc -l)" = 2 ] || bad "the cache has not two entries"
"$build/gptc" "$model" --target cuda:sm_90 --nvrtc "$stand_in" --nvrtc-cache "$work/cache" -o "$work/again.bin" 2>&1 | grep -q '1 from the cache' || bad "not from the cache"
"$build/gptc" -v "$model" --target cuda:sm_80,cuda:sm_90 --nvrtc "$stand_in" --nvrtc-cache '' -o "$work/again.bin" 2>&1 | grep -Ec '^  sm_(80|90a) +[0-9.]+ s$' | grep -q '^2$' || bad "does not say which architectures are compiled"
"$build/gptc" -q "$model" -o "$work/cpu.bin" || bad "does not compile for the CPU"

# what the kernels are, from the file
"$build/gptc-inspect" "$work/m.bin" --kernels >"$work/kernels" || bad "does not show kernels"
grep -Eq 'linear_.*_rows1 .*256 threads.*us.*memory|linear_.*_rows1 .*256 threads.*us.*latency' "$work/kernels" || bad "shows no product: $(cat "$work/kernels")"
grep -q 'compute_90' "$work/kernels" || bad "does not show the images"
grep -q '^ *draw .* x 1$' "$work/kernels" || bad "the draw is not among the launches: $(grep draw "$work/kernels")"
"$build/gptc-inspect" "$work/m.bin" --kernels --json | grep -q '"registers": [0-9]' || bad "shows no kernels as JSON"

# a model that the persistent kernel cannot run says why: when it is compiled, in the file, and when the kernel is asked for
why='no persistent kernel.* for a copy into a part of a row'
joint=$source/tests/models/joint/model.onnx
"$build/gptc" "$joint" --target cpu,cuda:sm_90 --nvrtc "$stand_in" --nvrtc-cache '' -o "$work/joint.bin" 2>&1 | grep -q "$why" || bad "gptc does not say why there is no persistent kernel"
"$build/gptc" "$joint" --dry-run | grep -q "$why" || bad "--dry-run does not say why there is no persistent kernel"
"$build/gptc-inspect" "$work/joint.bin" --kernels | grep -q "$why" || bad "the file does not say why there is no persistent kernel"
"$build/gptc-run" "$work/joint.bin" --tokens 1 -n 1 --decode persistent --device "cuda:$null" 2>&1 | grep -q "$why" || bad "the runtime does not say why there is no persistent kernel"
"$build/gptc-run" "$work/joint.bin" --tokens 1 -n 1 --device "cuda:$null" >/dev/null 2>&1 || bad "the graph does not run in its place"
grep -q 'persistent kernel, predicted to be faster' "$work/kernels" || bad "does not show the persistent kernel"

# a step is one graph, with the draw of its token behind it: the same launches every time, each kernel's arguments inside the
# allocation, and no logits come back
GPTC_TRACE=$work/trace "$build/gptc-bench" "$work/m.bin" -p 3 -n 3 -r 1 --decode graph --device "cuda:$null" >/dev/null 2>"$work/err" || bad "does not run: $(cat "$work/err")"
[ "$(grep -c '^draw <<<3 x 1, 256>>>' "$work/trace")" -ge 3 ] || bad "the tokens of steps are not drawn"
awk '/^draw/ { drawn = 1 } /^download/ && drawn { exit 1 } /^gather_token/ { drawn = 0 }' "$work/trace" || bad "logits come back of a step that draws"
grep -v '^draw\|^download' "$work/trace" >"$work/launches"
awk '/^gather_token/ { n++; one[n] = / 1 x 1,|<<<1 x 1/ } { step[n] = step[n] $0 "\n" }
     END { for (i = 1; i <= n; i++) if (one[i]) { seen++; if (first && step[i] != first) exit 2; first = step[i] } exit seen < 3 }' "$work/launches" ||
    bad "steps of one row differ, or are too few"
grep -q '_many <<<\|rows4 <<<' "$work/trace" || bad "the prompt did not run as several rows"
awk '/^gather_token/ { one = /<<<1 x 1/ } one' "$work/trace" | grep -q '_many\|rows4\|rows8' && bad "a step of one row runs kernels for several"
head -1 "$work/trace" | grep -q '^gather_token' || bad "the first launch is not the embedding"

# or one kernel, of a block for every SM; by itself what is predicted to be faster
for form in auto persistent; do
    GPTC_SMS=7 GPTC_TRACE=$work/$form "$build/gptc-bench" "$work/m.bin" -p 3 -n 3 -r 1 --decode $form --device "cuda:$null" >/dev/null 2>"$work/err" || bad "--decode $form does not run: $(cat "$work/err")"
    [ "$(grep -c '^decode <<<7 x 1, 288>>>' "$work/$form")" -ge 3 ] || bad "--decode $form: steps are not one kernel of 7 blocks"
done

said() { # said PATTERN COMMAND…
    pattern=$1
    shift
    "$@" >"$work/out" 2>&1 && bad "$*: succeeded"
    grep -Eq "$pattern" "$work/out" || bad "$*: no /$pattern/ in: $(cat "$work/out")"
    [ "$(wc -l <"$work/out")" -le 2 ] || bad "$*: more than a line"
}
said 'no NVIDIA driver' "$build/gptc-run" "$work/m.bin" --tokens 1 -n 1 --device cuda:/nowhere.so
said 'no persistent kernel on .*cannot run its blocks together' env GPTC_SMS=0 "$build/gptc-run" "$work/m.bin" --tokens 1 -n 1 --decode persistent --device "cuda:$null"
said 'takes auto, graph or persistent' "$build/gptc-run" "$work/m.bin" --tokens 1 -n 1 --decode quick --device "cuda:$null"
said 'no CUDA kernels; compile it with --target' "$build/gptc-inspect" "$work/cpu.bin" --kernels
said 'no CUDA kernels; compile it with --target' "$build/gptc-run" "$work/cpu.bin" --tokens 1 -n 1 --device "cuda:$null"
said 'has no cuInit|too old' "$build/gptc-run" "$work/m.bin" --tokens 1 -n 1 --device "cuda:$stand_in"
said 'weights need .* MB' env GPTC_MEMORY_MB=1 "$build/gptc-run" "$work/m.bin" --tokens 1 -n 1 --device "cuda:$null"
said 'session needs .* MB on the GPU' env GPTC_MEMORY_MB=12 "$build/gptc-run" "$work/m.bin" --tokens 1 -n 1 --device "cuda:$null"
said 'NVRTC, which compiles' "$build/gptc" "$model" -q --target cuda:sm_90 --nvrtc /nowhere.so -o "$work/x.bin"
[ ! -e "$work/x.bin" ] || bad "a file was left behind"
said 'target .*takes cpu, cuda' "$build/gptc" "$model" -q --target cuda:sm_9x -o "$work/x.bin"
exit $status
