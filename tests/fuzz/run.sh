#!/bin/sh
# libFuzzer with ASan and UBSan on every target, FUZZ_SECONDS each (300), seeded from tests/corpus and, when it
# is there, from a folder of exported models. Prints the coverage of import, shapes, parser and loader at the end.
# usage: run.sh [TARGET…]
set -eu
cd "$(dirname "$0")/../.."
seconds=${FUZZ_SECONDS:-300}
build=build-fuzz
cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=clang -DGPTC_FUZZ=ON \
    -DGPTC_SANITIZE=address,undefined -DGPTC_COVERAGE=ON >/dev/null
targets=${*:-fuzz_onnx fuzz_gir fuzz_artifact fuzz_plan fuzz_tokenizer}
cmake --build $build -j "$(nproc)" --target $targets >/dev/null
status=0
for t in $targets; do
    kind=${t#fuzz_}
    mkdir -p $build/corpus/$kind
    seeds=tests/corpus/$kind
    case $kind in
    onnx) for m in "${GPTC_MODELS:-../shared/models}"/zoo/*/model.onnx; do
              [ -f "$m" ] && cp "$m" "$build/corpus/$kind/$(basename "$(dirname "$m")")" || true
          done ;;
    gir) seeds="$seeds tests/passes" ;;
    tokenizer) seeds="$seeds tests/tokenizer" ;;
    esac
    have=""
    for s in $seeds; do [ -d "$s" ] && have="$have $s"; done
    echo "== $t, $seconds s"
    LLVM_PROFILE_FILE=$build/$t.profraw $build/tests/$t -max_total_time="$seconds" -max_len=1048576 -timeout=20 \
        -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix=$build/$t- $build/corpus/$kind $have 2>$build/$t.log || status=1
    grep -E 'cov:|ERROR|SUMMARY|stat::number_of_executed' $build/$t.log | tail -3
    if command -v llvm-profdata >/dev/null 2>&1 && [ -f $build/$t.profraw ]; then
        llvm-profdata merge -o $build/$t.profdata $build/$t.profraw
        llvm-cov report $build/tests/$t -instr-profile=$build/$t.profdata 2>/dev/null |
            awk '/frontend\/|ir\/parse|ir\/lex|runtime\/load|runtime\/plan|runtime\/token|shapes|TOTAL/ { print $1, "lines", $10 }'
    fi
done
exit $status
