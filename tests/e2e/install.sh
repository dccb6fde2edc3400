#!/bin/sh
# What is installed is enough to embed: the header is C99 and C++, the library needs libm and pthread alone,
# and the example generates what gptc-run generates.
# usage: install.sh BUILD_DIR SOURCE_DIR
set -u
build=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }
cc=$(cache CMAKE_C_COMPILER)
flags=$(cache GPTC_SANITIZE)
flags=${flags:+-fsanitize=$flags}
[ "$(cache GPTC_COVERAGE)" = ON ] && flags="$flags -fprofile-instr-generate"
cmake --install "$build" --prefix "$work/usr" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
lib=$(dirname "$(find "$work/usr" -name libgptc.a)")
status=0
fail() { echo "FAIL: $*"; status=1; }

cat >"$work/min.c" <<'EOF'
#include <gptc.h>
#include <stdio.h>
int main(void) {
    gptc_model *m;
    gptc_detail why;
    gptc_status st = gptc_open("/nonexistent", NULL, &m, &why);
    printf("%s %d\n", gptc_version(), (int)st);
    return st != GPTC_E_IO;
}
EOF
# shellcheck disable=SC2086
"$cc" -std=c99 -pedantic -Wall -Wextra -Werror "$work/min.c" -I"$work/usr/include" $flags -L"$lib" -lgptc -lm \
    -lpthread -o "$work/min" && "$work/min" || fail "a C99 program"
if command -v c++ >/dev/null 2>&1; then
    c++ -x c++ -std=c++11 -pedantic -Wall -Wextra -Werror -I"$work/usr/include" -fsyntax-only "$work/min.c" ||
        fail "a C++ program"
fi
# shellcheck disable=SC2086
"$cc" -std=c99 -pedantic -Wall -Wextra -Werror "$source/examples/embed.c" -I"$source" $flags -L"$lib" -lgptc -lm \
    -lpthread -o "$work/embed" || fail "examples/embed.c"
if command -v pkg-config >/dev/null 2>&1; then
    # shellcheck disable=SC2046,SC2086
    PKG_CONFIG_PATH=$lib/pkgconfig && export PKG_CONFIG_PATH &&
        "$cc" "$work/min.c" $flags $(pkg-config --cflags --libs gptc) -o "$work/min2" && "$work/min2" >/dev/null ||
        fail "by pkg-config"
fi
for tool in gptc gptc-run gptc-eval gptc-bench gptc-inspect gptc-opt; do
    "$work/usr/bin/$tool" --version >/dev/null || fail "$tool is not installed"
done
"$work/usr/bin/gptc" -q "$source/examples/shakespeare/model.onnx" -o "$work/model.bin" || fail "gptc"
"$work/embed" "$work/model.bin" "KING:" >"$work/a" || fail "embed"
"$work/usr/bin/gptc-run" -q "$work/model.bin" -p "KING:" -n 64 --temp 0.8 --top-p 0.95 --seed 1 >"$work/b" ||
    fail "gptc-run"
[ "KING:$(cat "$work/a")" = "$(cat "$work/b")" ] || { fail "embed and gptc-run differ"; cat "$work/a" "$work/b"; }
exit $status
