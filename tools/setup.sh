#!/bin/sh
# Installs what building needs, from Debian's packages; does nothing when all of it is there.
# usage: setup.sh [fuzz]
set -eu

packages="gcc g++ libc6-dev cmake ninja-build pkg-config protobuf-c-compiler libprotobuf-c-dev libonnx-dev \
libcjson-dev libutf8proc-dev libcunit1-dev"
if [ "${1:-}" = fuzz ]; then
    packages="$packages clang llvm libclang-rt-14-dev"
fi

command -v dpkg-query >/dev/null 2>&1 || {
    echo "setup: this is no Debian system; install by hand what stands for: $packages" >&2
    exit 0
}
missing=""
for p in $packages; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "setup: missing:$missing; install them as root: apt-get install$missing" >&2
        exit 3
    }
    sudo=sudo
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
