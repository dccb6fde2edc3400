#!/bin/sh
# Who may include whom: ir/base <- ir <- {frontend, passes <- codegen} <- tools; the runtime stands alone;
# codegen may also use the runtime's public, artifact and probe headers; gptc-run and gptc-bench see gptc.h alone.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
check() { # check FILES-GLOB ALLOWED-REGEX
    for f in $1; do
        [ -f "$f" ] || continue
        hits=$(grep -nE '^ *# *include "' "$f" | grep -vE "\"($2)" || true)
        if [ -n "$hits" ]; then
            echo "$f may not include:"
            echo "$hits"
            bad=1
        fi
    done
}
check 'ir/base/*.[ch]' 'ir/base/'
check 'ir/*.[ch]' 'ir/'
check 'frontend/*.[ch]' 'ir/|frontend/|runtime/tokenizer_format.h|onnx.pb-c.h'
check 'passes/*.[ch] passes/*/*.[ch]' 'ir/|passes/'
check 'codegen/*.[ch] codegen/*/*.[ch]' 'ir/|passes/pass.h|passes/lossy/lossy.h|codegen/|runtime/artifact.h|runtime/gptc.h|runtime/probe.h'
check 'runtime/*.[ch] runtime/*/*.[ch] runtime/*/*.inc' 'runtime/'
check 'tools/gptc-run.c tools/gptc-bench.c' 'runtime/gptc.h|tools/(cli|memory_rate).h'
check 'examples/*.c' 'gptc.h|runtime/gptc.h'
exit $bad
