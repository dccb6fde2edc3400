#!/bin/sh
# A window of 4096 in a context of 8192, its mask written with primitives, compiles in less than 1 GB: masks are
# never held as a square of the context.
# usage: memory.sh BUILD_DIR
set -u
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/window.gir" <<'GIR'
gir 1 stage=imported
symbol batch
symbol seq
symbol past
input %1 "ids" : i64[batch, seq] role=tokens
const %2 : f32[64, 24] = seed(1)
const %3 : f32[] = {0.7}
const %4 : f32[] = {0}
const %5 : f32[] = {-3.4028235e38}
const %6 : i64[] = {4096}
%20 : i64[seq] = iota()
%21 : i64[seq, 1] = reshape(%20)
%22 : bool[seq, seq] = le(%20, %21)
%23 : i64[seq, 1] = sub(%21, %6)
%24 : bool[seq, seq] = lt(%23, %20)
%25 : bool[seq, seq] = and(%22, %24)
%26 : bool[1, 1, seq, seq] = reshape(%25)
%27 : f32[1, 1, seq, seq] = where(%26, %4, %5)
%30 : f32[batch, seq, 24] = gather(%2, %1)
%31 : f32[batch, seq, 8] = slice(%30)
%32 : f32[batch, seq, 8] = slice(%30) {starts=[0, 0, 8]}
%33 : f32[batch, seq, 8] = slice(%30) {starts=[0, 0, 16]}
%34 : f32[batch, seq, 2, 4] = reshape(%31)
%35 : f32[batch, seq, 2, 4] = reshape(%32)
%36 : f32[batch, seq, 2, 4] = reshape(%33)
%37 : f32[batch, 2, seq, 4] = transpose(%34) {perm=[0, 2, 1, 3]}
%38 : f32[batch, 2, 4, seq] = transpose(%35) {perm=[0, 2, 3, 1]}
%39 : f32[batch, 2, seq, 4] = transpose(%36) {perm=[0, 2, 1, 3]}
%40 : f32[batch, 2, seq, seq] = matmul(%37, %38)
%41 : f32[batch, 2, seq, seq] = mul(%40, %3)
%42 : f32[batch, 2, seq, seq] = add(%41, %27)
%43 : f32[batch, 2, seq, seq] = softmax(%42) {axis=3}
%44 : f32[batch, 2, seq, 4] = matmul(%43, %39)
%45 : f32[batch, seq, 2, 4] = transpose(%44) {perm=[0, 2, 1, 3]}
%46 : f32[batch, seq, 8] = reshape(%45)
const %7 : f32[8, 64] = seed(2)
%47 : f32[batch, seq, 64] = matmul(%46, %7)
output %47 "logits" role=logits
GIR
# sanitizers reserve address space; the limit means nothing there
"$build/gptc" --dry-run -q "$work/window.gir" >/dev/null 2>&1 || { echo "FAIL: does not compile at all"; exit 1; }
(
    ulimit -v 1000000 || exit 77
    "$build/gptc" -q --version >/dev/null 2>&1 || exit 77
    "$build/gptc" -q --ctx 8192 --embed-ir "$work/window.gir" -o "$work/window.bin"
)
status=$?
[ "$status" != 77 ] || { echo "skipped: no limit on memory can be set here"; exit 77; }
[ "$status" = 0 ] || { echo "FAIL: does not compile within 1 GB"; exit 1; }
"$build/gptc-inspect" "$work/window.bin" --ir >"$work/ir" || { echo "FAIL: cannot be inspected"; exit 1; }
grep -q 'window=4096' "$work/ir" || { echo "FAIL: the window was not found"; exit 1; }
