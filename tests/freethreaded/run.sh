#!/usr/bin/env bash
# The package on a free-threaded Python: built for it, imported without the GIL coming back, its tests in threads.
#
#     tests/freethreaded/run.sh PYTHON [arguments of pytest]      `make freethreaded PYTHON=...` is the short way
#
# PYTHON is an interpreter without the GIL (python3.13t, python3.14t; docs/threading.md says how to get one). What is
# built and installed stays in build/freethreaded:
#
#     venv      what builds and tests the package, as far as there are wheels for this Python
#     lib       the package
#
# Every test that may runs in four threads at once (pytest-run-parallel), which all begin together. The package stays
# without the GIL to the end: pytest-run-parallel ends the run where an import brings it back.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$1
shift

work=$PWD/build/freethreaded
needed=("setuptools>=77" wheel "cython>=3.1" "numpy>=2" "pytest>=8.2" "pytest-run-parallel>=0.10" hypothesis)
# Tests of what these are for are skipped where one has no wheel for this Python.
wanted=(scipy ml_dtypes safetensors tokenizers huggingface_hub tqdm jinja2 sentencepiece protobuf pillow soundfile soxr
    gguf threadpoolctl matplotlib)

if ! "$python" -c 'import sys; sys.exit(getattr(sys, "_is_gil_enabled", lambda: True)())'; then
    echo "$python has the GIL: $("$python" -VV); needed: make freethreaded PYTHON=python3.14t, or another" \
        "interpreter that was built with --disable-gil (and no PYTHON_GIL=1)" >&2
    exit 1
fi
if [[ "$(cat "$work/.installed" 2>/dev/null)" != "$("$python" -VV) ${needed[*]} ${wanted[*]}" ]]; then
    rm -rf "$work/venv"
    "$python" -m venv "$work/venv"
    install=("$work/venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --only-binary=:all:)
    "${install[@]}" "${needed[@]}"
    for name in "${wanted[@]}"; do
        "${install[@]}" "$name" 2>/dev/null || echo "no wheel of $name for this Python: tests that need it are skipped"
    done
    echo "$("$python" -VV) ${needed[*]} ${wanted[*]}" >"$work/.installed"
fi
python=$work/venv/bin/python

"$python" setup.py --quiet build --build-base "$work/build" --build-lib "$work/lib"

# -P: the checkout, which has no module for this Python, must not come before lib. -W error: a module that brings the
# GIL back warns.
export PYTHONPATH=$work/lib
"$python" -P -W error - <<'EOF'
import sys

import transformer_fast
from transformer_fast import _core, functional, masks, nn, util

assert not sys._is_gil_enabled(), "import transformer_fast has brought the GIL back"
print(f"{_core.__file__}: without the GIL, {functional.get_num_threads()} threads, level {functional.get_isa()}")
EOF

exec "$python" -P -m pytest -p no:cacheprovider --parallel-threads=4 "$@"
