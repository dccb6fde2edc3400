#!/bin/sh
# Every test: the release build, then the fast ones again under ASan + UBSan and the runtime's under TSan,
# the include check and, where clang and clang-format are installed, a clang build and the format check.
# Ends with "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.." || exit 1
jobs=$(nproc)
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

note() { printf '== %s\n' "$*"; }
one() { # one NAME STATUS
    if [ "$2" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: $1"; fi
}
skip() { skipped=$((skipped + 1)); echo "skipped: $1: $2"; }

targets=all
build() { # build DIR OPTIONS…: $targets
    dir=$1; shift
    if ! cmake -S . -B "$dir" -G Ninja -DGPTC_WERROR=ON "$@" >"$log" 2>&1 ||
        ! cmake --build "$dir" -j "$jobs" --target $targets >"$log" 2>&1; then
        tail -40 "$log"
        one "build $dir" 1
        return 1
    fi
    one "build $dir" 0
}
run_tests() { # run_tests DIR CTEST-OPTIONS…
    dir=$1; shift
    (cd "$dir" && ctest --output-on-failure --timeout 900 "$@") >"$log" 2>&1
    status=$?
    grep -E 'Failed|\*\*\*|^skipped|FAIL' "$log" | head -60
    p=$(grep -cE '^ *[0-9]+/[0-9]+ Test .* Passed ' "$log")
    s=$(grep -cE '^ *[0-9]+/[0-9]+ Test .*\*\*\*Skipped' "$log")
    t=$(grep -cE '^ *[0-9]+/[0-9]+ Test ' "$log")
    passed=$((passed + p)); skipped=$((skipped + s)); failed=$((failed + t - p - s))
    if [ "$status" != 0 ] && [ "$t" = $((p + s)) ]; then one "ctest in $dir" "$status"; fi
    [ "$t" -gt 0 ] || one "ctest in $dir found no test" 1
    echo "$p of $t passed, $s skipped"
}

note "includes"
sh tests/check_includes.sh; one "include directions" $?

note "release build and all tests"
build build -DCMAKE_BUILD_TYPE=Release && run_tests build -j "$jobs"

note "AddressSanitizer and UBSan"
build build-asan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGPTC_SANITIZE=address,undefined &&
    run_tests build-asan -j "$jobs" -LE slow

note "ThreadSanitizer"
targets="test_threads test_kernels test_kernels_attention test_runtime test_function_workers"
build build-tsan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGPTC_SANITIZE=thread &&
    run_tests build-tsan -R "^($(echo $targets | tr ' ' '|'))\$"
targets=all

note "clang"
if command -v clang >/dev/null 2>&1; then
    build build-clang -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=clang
else
    skip "clang build" "clang is not installed"
fi

note "format"
if command -v clang-format >/dev/null 2>&1 && command -v git >/dev/null 2>&1; then
    git ls-files '*.c' '*.h' '*.inc' | xargs clang-format --dry-run -Werror >"$log" 2>&1
    status=$?
    [ "$status" = 0 ] || grep -m 10 error "$log"
    one "clang-format" "$status"
else
    skip "format" "clang-format or git is not installed"
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
