#!/usr/bin/env bash
# The kernels on arm64, without such a machine: a cross build, and its tests under qemu's emulation of a process.
#
#     tests/arm64/run.sh PYTHON [arguments of pytest]        `make arm64` is the short way
#
# PYTHON has the package installed and what builds it. The rest comes from Debian, whose packages are installed where
# they are missing (as root), and from wheels for arm64; it is kept in build/arm64:
#
#     debian    Debian's Python 3.11 for arm64, unpacked and nothing more (no chroot, no binfmt_misc)
#     site      wheels of what the tests import
#     lib       the package
#     python    runs that Python under qemu
#
# What qemu proves is that results are right. It says nothing about speed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/debian.sh
python=$1
shift

suite=bookworm version=3.11 tag=aarch64-linux-gnu
work=$PWD/build/arm64
wheels=(numpy scipy pytest pytest-xdist hypothesis ml_dtypes safetensors gguf threadpoolctl)
mkdir -p "$work"

need_packages aarch64-linux-gnu-gcc="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" qemu-aarch64-static=qemu-user-static \
    mmdebstrap=mmdebstrap

if [[ ! -e $work/.debian ]]; then
    rm -rf "$work/debian"
    mmdebstrap --quiet --variant=extract --architectures=arm64 \
        --include="python$version,libpython$version-dev,libstdc++6,libgomp1" "$suite" "$work/debian"
    mkdir -p "$work/sysconfig"
    cp "$work/debian/usr/lib/python$version/_sysconfigdata__$tag.py" "$work/sysconfig"
    touch "$work/.debian"
fi
if [[ "$(cat "$work/.site" 2>/dev/null)" != "${wheels[*]}" ]]; then
    rm -rf "$work/site"
    "$python" -m pip --disable-pip-version-check --no-input install --quiet --target "$work/site" \
        --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 --implementation cp \
        --python-version "$version" --only-binary=:all: "${wheels[@]}"
    echo "${wheels[*]}" >"$work/.site"
fi

# The names are what CPython's own cross builds use: flags, compiler and the module's ending are that Python's.
PYTHONPATH="$work/sysconfig" _PYTHON_SYSCONFIGDATA_NAME="_sysconfigdata__$tag" _PYTHON_HOST_PLATFORM=linux-aarch64 \
    CPPFLAGS="-I$work/debian/usr/include/python$version -idirafter $work/debian/usr/include" \
    "$python" setup.py --quiet build --build-base "$work/build" --build-lib "$work/lib"

# -P: the checkout, which has no module for arm64, must not come before lib. Helpers that spin take processors from tests.
cat >"$work/python" <<EOF
#!/bin/sh
export PYTHONPATH="$work/lib:$work/site" OMP_WAIT_POLICY=passive
exec qemu-aarch64-static -cpu "\${QEMU_CPU_MODEL:-max}" -L "$work/debian" "$work/debian/usr/bin/python$version" -P "\$@"
EOF
chmod +x "$work/python"

# Each level where its instructions are, and not where they are not; integers have the bits of the machine at hand.
expected=$("$python" -P tests/arm64/same_bits.py any)
check() { # the model of the processor, its levels
    QEMU_CPU_MODEL=$1 "$work/python" tests/arm64/same_bits.py "$2" "$expected" >/dev/null
}
check cortex-a53 portable,neon
check neoverse-n1 portable,neon,neondot
check max portable,neon,neondot,neoni8mm

exec "$work/python" -m pytest -p no:cacheprovider --tx "2*popen//python=$work/python" --dist loadfile "$@"
