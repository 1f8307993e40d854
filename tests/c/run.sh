#!/usr/bin/env bash
# The C core and its tests as one program, built by another compiler or for another system, and run where this machine
# can run it.
#
#     tests/c/run.sh PYTHON TARGET [flags of the compiler]        `make musl`, `make windows`, `make macos`: the short ways
#
#     native     cc, or CC
#     musl       gcc with musl, statically linked
#     windows    gcc of mingw-w64 (posix flavour); runs under wine
#     macos      clang and linker of the wheel ziglang, for arm64 and for x86-64; is not run
#
# PYTHON has what builds the package: setup.py says which files there are, and with which flags they are compiled. As
# root the script installs what is missing from Debian; ziglang comes from PyPI. All is kept in build/c, and a second
# run compiles what has changed. To add a target: its function here, its line in the Makefile and docs/portability.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/debian.sh
python=$1 target=$2
shift 2
work=$PWD/build/c

build() { # program, compiler, and what build.py takes
    "$python" tests/c/build.py "$work/$1" --cc "$2" "${@:3}"
}

native() {
    build native/core_tests "${CC:-cc}" "$@"
    "$work/native/core_tests"
}

# gcc's libgomp is one for glibc: the build has threads of its own alone. Static, since no program loader of musl's is
# needed then.
musl() {
    need_packages musl-gcc=musl-tools
    TRANSFORMER_FAST_OPENMP=0 build musl/core_tests musl-gcc -static "$@"
    "$work/musl/core_tests"
}

# Static, so that libwinpthread and libgcc are in the program; setup.py says what gcc needs on Windows.
windows() {
    need_packages x86_64-w64-mingw32-gcc-posix=gcc-mingw-w64-x86-64-posix /usr/lib/wine/wine64=wine64
    TRANSFORMER_FAST_OPENMP=0 build windows/core_tests.exe x86_64-w64-mingw32-gcc-posix --platform win-amd64 -static "$@"
    WINEPREFIX=$work/wine WINEDEBUG=-all /usr/lib/wine/wine64 "$work/windows/core_tests.exe"
}

# `zig clang` is clang itself, which takes the flags as they are; `zig cc` has Apple's libraries to link with.
macos() {
    [[ -d $work/zig ]] ||
        "$python" -m pip --disable-pip-version-check --no-input install --quiet --target "$work/zig" ziglang
    local zig=$work/zig/ziglang machine
    for machine in arm64:aarch64 x86_64:x86_64; do
        build "macos-${machine%:*}/core_tests" \
            "$zig/zig clang -target ${machine%:*}-apple-macos11 -isystem $zig/lib/include -isystem $zig/lib/libc/include/any-darwin-any" \
            --ld "$zig/zig cc -target ${machine#*:}-macos" --platform "macosx-11.0-${machine%:*}" "$@"
        file "$work/macos-${machine%:*}/core_tests"
    done
    echo "compiled and linked, not run"
}

case $target in
native | musl | windows | macos) "$target" "$@" ;;
*)
    echo "the target is $target; needed: native, musl, windows or macos" >&2
    exit 2
    ;;
esac
