"""Constants of a level that do not fit together: the compiler must refuse them and say which.

Each case changes one constant in a copy of csrc and compiles one level as a test build does, with the baseline's flags.
A new coupling of constants: a _Static_assert next to them, and a case here that breaks it.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sysconfig

import pytest
from subprocesses import ROOT

LEVELS = {
    "portable": "isa/portable.c",
    "neon": "isa/emulated/neon.c",
    "neondot": "isa/emulated/neondot.c",
    "avx2": "isa/emulated/avx2.c",
    "avxvnni": "isa/emulated/avxvnni.c",
    "avx512": "isa/emulated/avx512.c",
    "avx512bf16": "isa/emulated/avx512bf16.c",
    "amx": "isa/emulated/amx.c",
}
# (level, file, constant, wrong value, what the compiler says)
WRONG = [
    ("avx2", "isa/avx2.c", "TILE_ROWS", "6", "TILES makes tiles"),
    ("avx512", "isa/avx512.c", "TILE_ROWS", "12", "TILES makes tiles"),
    ("avx2", "isa/avx2.c", "TILE_VECTORS", "4", "tiles\\[\\] has two or three vectors"),
    ("avx2", "isa/avx2.c", "TILE_ROWS", "8", "fit in the registers"),
    ("neon", "simd/neon.h", "V_REGISTERS", "16", "fit in the registers"),
    ("neondot", "kernels/gemm/int8_rows.h", "INT8_X_LESS", "0", "run of products must fit in 16 bits"),
    ("portable", "isa/portable.c", "V_LANES", "2", "4, 8 and 16 lanes"),
    ("portable", "isa/portable.c", "DECODE_ROWS", "8", "must not exceed V_LANES"),
    ("avx2", "isa/avx2.c", "DECODE_ROWS", "6", "DECODE_ROWS must be 4 or 8"),
    ("avx512", "isa/avx512.c", "DECODE_ROWS", "16", "DECODE_ROWS must be 4 or 8"),
    ("avx512", "kernels/gemm/small_m.h", "SMALL_M", "3", "SMALL_M must be one of them"),
    ("avx512", "kernels/gemm/small_m.h", "SMALL_M", "8", "SMALL_M must be one of them"),
    ("avx2", "kernels/gemm/panel.h", "MAX_K_BLOCK", "190", "the longest block of k"),
    ("avx2", "kernels/gemm/half_pack.h", "HALF_PAIR", "3", "packing takes whole pairs"),
    ("avx2", "kernels/gemm/half_pack.h", "BF16_K_GROUP", "6", "must not end inside a vector"),
    ("avx2", "kernels/gemm/panel.h", "K_UNIT", "3", "must not split a pair"),
    ("amx", "kernels/gemm/panel.h", "MAX_K_BLOCK", "64", "fit in the scratch of half.h"),
    ("avx512bf16", "kernels/gemm/bf16_pairs.h", "MAX_PAIRS_K_BLOCK", "380", "must be whole pairs"),
    ("avx512bf16", "kernels/gemm/half_pack.h", "HALF_PAIR", "4", "as long as a float"),
    ("amx", "isa/amx/amx.c", "BF16_K_GROUP", "16", "rows of two tiles"),
    ("amx", "isa/amx/amx.c", "BF16_ROW_UNIT", "8", "must be whole tiles"),
    ("amx", "isa/amx/gemm_bf16.h", "MAX_BF16_STEPS", "16", "fit in L1"),
    ("neon", "kernels/attention/work.h", "VALUE_GROUP", "4", "whole vectors and whole tiles"),
    ("avx2", "kernels/attention/panel.h", "KEY_BLOCK", "100", "squares of V_LANES"),
    ("avx2", "kernels/attention/panel.h", "MIN_TAIL_ROWS", "(2 * V_LANES)", "more rows than it gives"),
    ("avx512", "kernels/attention/decode.h", "DECODE_KEY_BLOCK", "520", "whole vectors"),
    ("avx512", "kernels/attention/decode.h", "VALUE_KEYS", "24", "whole groups of values"),
    ("avx512", "kernels/attention/decode.h", "DECODE_ACCUMULATORS", "4", "needs an accumulator"),
    ("amx", "isa/amx/amx.c", "TILE_VECTORS", "3", "columns of two tiles"),
    ("amx", "isa/amx/tile.h", "T_ROWS", "8", "a row of a tile of floats"),
    ("amx", "isa/amx/tile.h", "T_K", "64", "32 bfloat16 or 16 floats"),
    ("amx", "isa/amx/gemm.h", "PARTS", "2", "three parts"),
    ("amx", "isa/amx/gemm.h", "MAX_STEPS", "6", "fit in L1"),
    ("amx", "kernels/attention/panel.h", "KEY_BLOCK", "144", "whole steps of the matrix engine"),
    ("avx2", "base/int8.h", "INT8_RUN_LIMIT", "161", "run of products must fit in 16 bits"),
    ("avx2", "base/int8.h", "INT8_X_MAX", "256", "fit in 16 bits|fit in its 8 or 16 bits"),
    ("avx2", "base/int8.h", "INT8_MAX_K", "82432", "a sum over all of K"),
    ("avxvnni", "isa/avxvnni.c", "TILE_ROWS", "8", "ones and a product must fit"),
    ("avx2", "kernels/gemm/int8.h", "INT16_WIDE_ROWS", "3", "the wide tile must fit"),
    ("avx2", "base/int8.h", "INT8_A16_X_MAX", "300000", "the sum of a group must fit"),
    ("avx2", "kernels/gemm/blocks_layout.h", "BLOCK_SUB", "16", "whole groups and whole vectors"),
    ("avx2", "kernels/gemm/blocks.h", "BLOCK_MOST_AT_ONCE", "8", "kernels for 1, 2 and 4 rows"),
    ("avx2", "kernels/gemm/blocks.h", "BLOCK_WIDE_ROWS", "4", "sums and totals of all vectors"),
    ("avx2", "kernels/gemm/blocks_rows.h", "BLOCK_A8_X_MAX", "32767", "must stay in 16 bits"),
    ("amx", "isa/amx/amx.c", "INT8_ROW_UNIT", "8", "columns of two tiles"),
    ("amx", "isa/amx/gemm_int8.h", "INT8_TILE_K", "32", "one group of k"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"the compiler {compiler[0]} is not installed")
    folder = tmp_path_factory.mktemp("constants") / "csrc"
    shutil.copytree(ROOT / "csrc", folder)
    return compiler, folder


def errors(sources, level):
    compiler, folder = sources
    command = [*compiler, "-std=gnu11", "-w", "-fsyntax-only", f"-I{folder}", str(folder / LEVELS[level])]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("level", LEVELS)
def test_constants_of_a_level_compile(level, sources):
    assert errors(sources, level) == ""


@pytest.mark.parametrize(("level", "file", "constant", "value", "said"), WRONG)
def test_wrong_constant_is_refused(level, file, constant, value, said, sources):
    path = sources[1] / file
    right = path.read_text(encoding="utf-8")
    definition = re.compile(rf"(?m)(^#define {constant} +|^enum {{(?:.*,)? {constant} = )[^,}}\n]+?(?= }}|,|$)")
    wrong, found = definition.subn(lambda match: match.group(1) + value, right)
    assert found == 1, f"{file} does not define {constant}"
    try:
        path.write_text(wrong, encoding="utf-8")
        assert re.search(said, errors(sources, level))
    finally:
        path.write_text(right, encoding="utf-8")
