#!/bin/sh
# The CPU kernels on processors that this machine is not: Bochs emulates one with AVX-512, boots Debian's kernel with
# nothing but tests and a compiled model in memory, and keeps what they print on a serial line.
#
# By hand, not by `make test`: it downloads 40 MB of Debian's packages, which it unpacks into a folder of its own and
# throws away after, and emulates some 50 million instructions a second: ten minutes a processor. Needs no root, but
# Debian 12 with apt-get and its lists (apt-get update), script(1), and a build with tests. Ends with "N passed, N failed".
# usage: emulated.sh BUILD_DIR [CPU=LEVEL…]; CPU as `bochs -help cpu` names it, LEVEL the last it must run
set -u
build=$(cd "${1:?usage: emulated.sh BUILD_DIR [CPU=LEVEL…]}" && pwd) || exit 2
example=$(cd "$(dirname "$0")/../examples/shakespeare" && pwd) || exit 2
shift
[ $# -gt 0 ] || set -- corei7_skylake_x=avx512 corei7_icelake_u=avx512-vnni
tests="test_groups test_kernels test_kernels_attention test_routed test_runtime"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
passed=0 failed=0
die() { echo "FAIL: $*"; exit 1; }

# ---- the emulator, a boot loader, a kernel and a shell ----
packages() {
    echo bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso busybox-static
    apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p'
    # what these need and this machine lacks
    apt-get -s --no-install-recommends install bochs bochs-term xorriso | sed -n 's/^Inst \([^ ]*\).*/\1/p'
}
mkdir "$work/debs" "$work/iso" "$work/image" || exit 1
(cd "$work/debs" && apt-get -q download $(packages | tr ' ' '\n' | sort -u) >log 2>&1) ||
    { cat "$work/debs/log"; die "the packages cannot be downloaded"; }
root=$work/root
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$root" || die "$deb cannot be unpacked"; done
libraries=$root/usr/lib/x86_64-linux-gnu
with_root() { LD_LIBRARY_PATH=$libraries LTDL_LIBRARY_PATH=$libraries/bochs/plugins BXSHARE=$root/usr/share/bochs "$@"; }

# ---- what the emulated machine holds: the programs as they are here, with their libraries ----
image=$work/image
mkdir -p "$image/bin" "$image/proc" "$image/tmp" "$image/tests"
cp "$root/bin/busybox" "$image/bin/busybox" && ln -s busybox "$image/bin/sh"
"$build/gptc" -q "$example/model.onnx" -O1 -o "$image/tests/model.bin" --tokenizer "$example/tokenizer.json" ||
    die "the example does not compile"
sed -n 's/.*"greedy_text": "\(.*\)".*/\1/p' "$example/reference.json" | sed 's/\\n/\
/g' >"$image/tests/want"
for name in $tests; do cp "$build/tests/$name" "$image/tests/" || die "build $name first"; done
cp "$build/gptc-run" "$image/tests/" || die "build gptc-run first"
for library in $(ldd "$image"/tests/test_* "$image/tests/gptc-run" | grep -o '/[^ ]*\.so[^ ]*' | sort -u); do
    mkdir -p "$image/$(dirname "$library")" && cp -L "$library" "$image/$library"
done
cat >"$image/init" <<INIT
#!/bin/sh
cd /tests
/bin/busybox mount -t proc proc /proc
/bin/busybox grep -m1 'model name' /proc/cpuinfo
for name in $tests; do
    GPTC_FIRST_LEVEL=3 ./\$name
    echo "== \$name: \$?"
done
./gptc-run model.bin -p KING: -n 64 --temp 0 --ignore-eos >out
printf '%s' "\$(/bin/busybox cat out)" >a
printf '%s' "\$(/bin/busybox cat want)" >b
/bin/busybox cmp a b
echo "== the example's text: \$?"
/bin/busybox sleep 2
/bin/busybox poweroff -f
INIT
chmod +x "$image/init"
(cd "$image" && find . | "$root/bin/busybox" cpio -o -H newc 2>/dev/null) | gzip -1 >"$work/iso/init.gz"

# ---- the disk it boots from ----
cp "$root"/boot/vmlinuz-* "$work/iso/linux"
cp "$root/usr/lib/ISOLINUX/isolinux.bin" "$root/usr/lib/syslinux/modules/bios/ldlinux.c32" "$work/iso/"
# Kept from the kernel, not from programs: Bochs 2.7 says another size of the state that xsaves saves than Linux adds up,
# and leaves out that of pku; with the rest of what its Ice Lake has beyond its Skylake, Linux does not boot.
hidden=xsavec,xsaves,pku,monitor,fsrm,umip,sha_ni,gfni,vaes,rdpid,la57,smap,smep,invpcid,pcid
cat >"$work/iso/isolinux.cfg" <<CONFIG
default linux
label linux
 kernel linux
 append initrd=init.gz rdinit=/init console=ttyS0 loglevel=1 mitigations=off nokaslr tsc=reliable clearcpuid=$hidden lapic=notscdeadline no5lvl
CONFIG
with_root "$root/usr/bin/xorriso" -as mkisofs -quiet -o "$work/boot.iso" -b isolinux.bin -c boot.cat -no-emul-boot \
    -boot-load-size 4 -boot-info-table "$work/iso" 2>"$work/log" || { cat "$work/log"; die "no image"; }

# ---- one processor ----
echo c >"$work/go" # Debian's Bochs waits in its debugger
emulate() { # emulate CPU
    cat >"$work/bochsrc" <<CONFIG
romimage: file=$root/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=$root/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=$1, count=1, ips=100000000
memory: guest=512, host=512
ata0-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
display_library: term
clock: sync=none
log: $work/bochs.log
panic: action=fatal
CONFIG
    rm -f "$work/serial"
    TERM=vt100 with_root timeout -k 10 "${EMULATED_SECONDS:-3600}" \
        script -qec "$root/usr/bin/bochs-bin -q -f $work/bochsrc -rc $work/go" /dev/null >"$work/screen" 2>&1 </dev/null
}
one() { # one NAME STATUS
    if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "passed: $1"; else failed=$((failed + 1)); echo "FAILED: $1"; fi
}
for pair in "$@"; do
    cpu=${pair%%=*} level=${pair#*=}
    echo "== $cpu"
    emulate "$cpu"
    tr -d '\r' <"$work/serial" >"$work/said" 2>/dev/null || : >"$work/said"
    grep -aE 'model name|levels:|asserts' "$work/said"
    grep -aq "levels:.* $level\$" "$work/said"
    one "$cpu has the level $level" $?
    for name in $tests "the example's text"; do
        status=$(sed -n "s/.*== $name: \([0-9]*\)\$/\1/p" "$work/said")
        one "$cpu: $name" "${status:-did not end}"
    done
    if [ "$failed" != 0 ]; then tail -40 "$work/said"; fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
