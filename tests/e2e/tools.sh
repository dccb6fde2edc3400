#!/bin/sh
# The command line: what each tool refuses, in one line and with its exit status; what it prints stays valid
# JSON; a failed write is an error; a file that is read is never written over.
# usage: tools.sh BUILD_DIR SOURCE_DIR
set -u
build=$1 example=$2/examples/shakespeare
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
fail() { echo "FAIL: $*"; status=1; }
expect() { # expect STATUS REGEX COMMAND…
    want=$1 regex=$2
    shift 2
    "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    [ "$got" = "$want" ] || { fail "$*: exit $got, expected $want"; cat "$work/err"; }
    grep -qE -e "$regex" "$work/err" || { fail "$*: no /$regex/ in:"; cat "$work/err"; }
    [ "$(grep -c "^$(basename "$1"): " "$work/err")" = 1 ] || { fail "$*: not one line:"; cat "$work/err"; }
}
full() { # full COMMAND…: standard output has no room
    "$@" >/dev/full 2>"$work/err" </dev/null
    got=$?
    [ "$got" = 1 ] || fail "$* >/dev/full: exit $got, expected 1"
    grep -q 'standard output' "$work/err" || fail "$* >/dev/full: does not say so"
}
json() { # json COMMAND…: one object, no inf or nan in it
    "$@" >"$work/out" 2>"$work/err" || { fail "$*"; cat "$work/err"; }
    grep -qE '^\{.*\}$' "$work/out" || fail "$*: no JSON object"
    if grep -qE ': *-?(inf|nan)' "$work/out"; then fail "$*: inf or nan is no JSON"; fi
}
unchanged() { cmp -s "$1" "$2" || fail "$3"; }

cp "$example/model.onnx" "$work/model.onnx"
cp "$example/tokenizer.json" "$work/tokenizer.json"
head -c 3000 "$example/tokenizer.json" >"$work/text"
mkdir "$work/bare"
cp "$example/model.onnx" "$work/bare/model.onnx"
cd "$work" || exit 1
"$build/gptc" -q model.onnx -o m.bin || exit 1
"$build/gptc" -q bare/model.onnx -o bare/m.bin || exit 1

# nothing that is read is written
ln model.onnx link.onnx
ln -s model.onnx soft.onnx
for out in model.onnx ./model.onnx link.onnx soft.onnx; do
    expect 1 'is read by this compile' "$build/gptc" -q model.onnx -o "$out"
    expect 1 'is read by this compile' "$build/gptc" -q model.onnx --emit=ir -o "$out"
done
expect 1 'is read by this compile' "$build/gptc" -q model.onnx --tokenizer tokenizer.json -o tokenizer.json
unchanged model.onnx "$example/model.onnx" "the model was written over"
unchanged tokenizer.json "$example/tokenizer.json" "the tokenizer was written over"

# outputs that cannot be
expect 1 'no regular file' "$build/gptc" -q model.onnx -o /dev/null
expect 1 'is a directory' "$build/gptc" -q model.onnx -o bare
expect 1 'name a file' "$build/gptc" -q model.onnx -o -
"$build/gptc" model.onnx --emit=ir -o - | grep -q '^gir 1' || fail "--emit=ir -o -"
expect 1 'none/m.bin: cannot create' "$build/gptc" -q model.onnx -o none/m.bin
expect 1 'none/d: cannot make the folder' "$build/gptc" -q model.onnx --dump-dir none/d
full "$build/gptc" model.onnx --emit=ir
full "$build/gptc" model.onnx --dry-run
full "$build/gptc" --help
full "$build/gptc-inspect" m.bin
full "$build/gptc-run" m.bin -q -n 2 -p x
full "$build/gptc-eval" m.bin --text text --window 64
full "$build/gptc-opt" model.onnx --passes fold
full "$build/gptc-bench" m.bin -p 2 -n 2 -r 1

# values
for bad in --ctx=-1 --ctx=99999999999 --eos=-2 --ctx=x; do
    expect 2 'range|no number' "$build/gptc" -q "$bad" model.onnx -o x.bin
done
expect 1 'vocabulary' "$build/gptc" -q --eos 4096 model.onnx -o x.bin
expect 1 'after:PASS' "$build/gptc" -q --dump-ir=after:nothing model.onnx -o x.bin
expect 1 'no pass "nothing"' "$build/gptc" -q --disable nothing model.onnx -o x.bin
expect 1 'is a directory' "$build/gptc" -q . -o x.bin
printf '{"eos_token_id": 4096, "bos_token_id": 5000}' >bare/generation_config.json
expect 0 'stop token 4096' "$build/gptc" -q bare/model.onnx -o x.bin
rm -f x.bin bare/generation_config.json
"$build/gptc" -q model.onnx --dump-ir=before:fold -o x.bin | grep -q 'before-fold' || fail "--dump-ir=before:fold"

# tokenizers that are not byte-level BPE, by name
printf '{"model": {"type": "WordPiece", "vocab": {"a": 0}}}' >bad.json
expect 1 'bad.json: .*WordPiece' "$build/gptc" -q model.onnx --tokenizer bad.json -o x.bin
printf '{"model": {"type": "Unigram", "vocab": [["a", 0]]}}' >bad.json
expect 1 'bad.json: .*Unigram' "$build/gptc" -q model.onnx --tokenizer bad.json -o x.bin

# gptc-run
expect 1 '--tokens' "$build/gptc-run" bare/m.bin -p hello -n 1
expect 2 'no tokens' "$build/gptc-run" m.bin -p ''
expect 1 'id 99999, the vocabulary has 1024' "$build/gptc-run" m.bin --tokens 1,99999
expect 1 'the context is 2' "$build/gptc-run" m.bin --tokens 1,2,3 --ctx 2
expect 1 'model allows' "$build/gptc-run" m.bin --tokens 1 --ctx 100000
expect 1 'none: cannot read' "$build/gptc-run" m.bin -f none
expect 1 'Is a directory' "$build/gptc-run" m.bin -f .
expect 2 'list of token ids' "$build/gptc-run" m.bin --tokens 1,x
expect 2 'only' "$build/gptc-run" m.bin --tokens 1 -p x
for bad in --temp=nan --temp=-1 --top-p=0 --top-p=1.5 --min-p=2 --top-k=-1 --threads=-1 -n-1; do
    expect 2 'out of range' "$build/gptc-run" m.bin -p x "$bad"
done
"$build/gptc-run" m.bin -q -p 'KING:' -n 8 >a || fail "-p"
printf 'KING:' >prompt
"$build/gptc-run" m.bin -q -f prompt -n 8 >b || fail "-f FILE"
"$build/gptc-run" m.bin -q -f - -n 8 <prompt >c || fail "-f -"
unchanged a b "-f FILE differs from -p"
unchanged a c "-f - differs from -p"
# a session keeps what was said: two lines are one sequence
printf '1 2 3\nwrong\n99999\n4\n' | "$build/gptc-run" bare/m.bin -q -i -n 2 >d 2>"$work/err" || fail "-i"
[ "$(wc -l <d)" = 2 ] || fail "-i: $(wc -l <d) answers to 2 good lines"
grep -q 'not a list' "$work/err" && grep -q 'id 99999' "$work/err" || fail "-i: does not say what was wrong"
first=$(sed -n 1p d)
"$build/gptc-run" bare/m.bin -q --tokens "1 2 3 ${first}4" -n 2 >e || fail "--tokens"
[ "1 2 3 $first""4 $(sed -n 2p d)" = "$(cat e)" ] || fail "-i forgets what was said"
"$build/gptc" -q bare/model.onnx --chat-template '{{ messages }}' -o chat.bin || fail "--chat-template"
echo | "$build/gptc-run" chat.bin -i 2>&1 | grep -q 'chat template, which is not applied' || fail "-i: a chat template"
if echo | "$build/gptc-run" m.bin -i 2>&1 | grep -q 'chat template'; then fail "-i: a chat template that is not there"; fi
"$build/gptc-inspect" chat.bin | grep -q 'chat_template  *{{ messages }}' || fail "gptc-inspect: no chat template"
# a reader that leaves ends the writer
"$build/gptc-run" m.bin -q -p x -n 400 --ignore-eos | head -c 1 >/dev/null || fail "a closed pipe"

# gptc-eval
expect 1 'error: text: is text, and the model has no tokenizer' "$build/gptc-eval" bare/m.bin --text text
expect 2 'nothing to score' "$build/gptc-eval" m.bin --text text --window 1
expect 1 'fewer than one window' "$build/gptc-eval" m.bin --text prompt
expect 2 'go with --tokens' "$build/gptc-eval" m.bin --text prompt --stepwise
expect 2 'go with --text' "$build/gptc-eval" m.bin --tokens t.pb --window 4
expect 1 'is a directory' "$build/gptc-eval" m.bin --text .
expect 2 'also read' "$build/gptc-eval" m.bin --tokens prompt --dump-logits m.bin
json "$build/gptc-eval" m.bin --text text --window 64 --against bare/m.bin --json
grep -q '"same_top": 1,' out || fail "a model does not agree with itself"
json "$build/gptc-eval" m.bin --text text --window 64 --score=second-half --json
# token ids need no tokenizer
awk 'BEGIN { for (i = 0; i < 256; i++) print i * 37 % 1000 }' >t.ids
json "$build/gptc-eval" bare/m.bin --text t.ids --window 64 --against m.bin --json
grep -q '"tokens_scored": 252, "windows": 4,' out && grep -q '"mean_kl": 0, "mean_kl_error": 0' out || fail "t.ids"
echo '1 2 x' >bad.ids
expect 1 'bad.ids: byte 4: token ids are whole numbers' "$build/gptc-eval" m.bin --text bad.ids
json "$build/gptc-bench" m.bin -p 2 -n 2 -r 1 --json
json "$build/gptc-bench" m.bin -p 0 -n 0 -r 1 --json

# gptc-inspect
expect 2 'compile it first' "$build/gptc-inspect" model.onnx --plan
expect 2 'compiled model' "$build/gptc-inspect" m.bin --dot
expect 1 'embed-ir' "$build/gptc-inspect" m.bin --ir
expect 1 'none.bin' "$build/gptc-inspect" none.bin
for option in '' --plan --tensors; do
    # shellcheck disable=SC2086
    "$build/gptc-inspect" m.bin $option >out 2>&1 && [ -s out ] || fail "gptc-inspect $option"
    # shellcheck disable=SC2086
    json "$build/gptc-inspect" m.bin $option --json
done
"$build/gptc-inspect" model.onnx --dot >out || fail "--dot"
grep -q 'subgraph cluster_3 ' out && [ "$(grep -c '{$' out)" = "$(grep -c '^  *}$\|^}$' out)" ] || fail "--dot: regions"
expect 2 'write over: model.onnx' "$build/gptc-inspect" model.onnx --html ./model.onnx
expect 1 'none/p.html' "$build/gptc-inspect" model.onnx --html none/p.html
page() { # page FILE REGEX…: whole, and it asks for nothing from elsewhere
    "$build/gptc-inspect" "$1" --html page.html >out 2>&1 || { fail "--html of $1"; cat out; }
    if grep -nE '(src|href)=|https?:|@import|url\(' page.html; then fail "--html of $1: needs another file"; fi
    shift
    for regex; do grep -q -e "$regex" page.html || fail "--html: no /$regex/"; done
}
page m.bin '^<h1>m.bin' 'tensors by bytes' '<td>attention</td>' '^</body></html>$'
page model.onnx '<dt>head size</dt><dd>32</dd>' '>layer 0, [0-9]* nodes<' '>layer 1, like layer 0<' '>head, ' \
    'constants by bytes' 'prefers-color-scheme:dark'

# gptc-opt --diff: the stages of a compile agree; a fault in the middle of one is named by its place
"$build/gptc" -q model.onnx --dump-dir stages -o x.bin || fail "--dump-dir"
last=$(ls stages/*-memplan.gir)
"$build/gptc-opt" --diff stages/00-imported.gir "$last" --weights . >out 2>&1 || { fail "--diff of stages"; cat out; }
grep -q '^outputs agree; ' out || fail "--diff does not say that outputs agree"
"$build/gptc-opt" --diff "$last" stages/00-imported.gir --weights . >out 2>&1 || { fail "--diff, turned"; cat out; }
planted() { # planted SED_SCRIPT REGEX: of layer 3's lines
    sed "/onnx:2[1-9][0-9] /{$1}" "$last" >fault.gir
    if cmp -s fault.gir "$last"; then fail "planted $1: nothing changed"; fi
    expect 1 "first difference: the second file's $2" \
        "$build/gptc-opt" --diff stages/00-imported.gir fault.gir --weights .
}
planted 's/scale=0.1767767/scale=0.2/' 'attention #258 .*in the first it is matmul #258'
planted 's/gelu(\(%[0-9]*\)) {tanh=true}/relu(\1)/' 'relu #[0-9]* .*in the first it is mul'
planted 's/norm\(.*\)eps=1e-05/norm\1eps=0.1/' 'norm #2[0-9]* '
# indices are made up for the smallest table
cat >small.gir <<'END'
gir 1 stage=imported
symbol batch
symbol seq
symbol past
input %1 "ids" : i64[batch, seq] role=tokens
const %2 : f32[3, 4] = seed(1)
%3 : i32[batch, seq] = cast(%1)
%4 : f32[batch, seq, 4] = gather(%2, %3)
output %4 "y"
END
"$build/gptc-opt" --eval small.gir | grep -q '^y : f32\[2, 5, 4\]' || fail "--eval with a table of 3 rows"

# every tool answers --help and --version, and says no to what it does not know
for tool in gptc gptc-run gptc-eval gptc-bench gptc-inspect gptc-opt; do
    "$build/$tool" --help | grep -q '^exit status:' || fail "$tool --help"
    "$build/$tool" --version | grep -q "^$tool [0-9]" || fail "$tool --version"
    expect 2 'no such option: --frobnicate' "$build/$tool" --frobnicate
    expect 2 'see .*--help' "$build/$tool"
done
if ls ./*.tmp-* >/dev/null 2>&1; then fail "a temporary was left"; fi
exit $status
