#!/bin/sh
# An exported model compiles and computes the same when every name in it is another one and everything that has no
# order of its own is shuffled.
# usage: scrambled.sh BUILD_DIR MODEL_DIR [TOLERANCE_NAME]
set -u
build=$1 model=$2
[ -f "$model/model.onnx" ] || { echo "skipped: $model is not here"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
status=0
for seed in 1 2; do
    mkdir "$scratch/$seed"
    ln -s "$(cd "$model" && pwd)"/* "$scratch/$seed"
    rm "$scratch/$seed/model.onnx"
    "$build/tests/scramble" "$seed" "$model/model.onnx" "$scratch/$seed/model.onnx" || { echo "FAIL: seed $seed"; exit 1; }
    sh "$(dirname "$0")/zoo.sh" "$build" "$scratch/$seed" ${3+"$3"} || { echo "FAIL: seed $seed"; status=1; }
done
exit $status
