"""Long contexts: the memory of a call does not grow with the lengths, and pieces of a context combine to the whole.

For csrc/ops/attention.c and csrc/runtime/workspace.c.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from subprocesses import ROOT, run_python

from transformer_fast import _core, functional

MEGABYTE = 1 << 20

# 65,536 queries x 65,536 keys: the matrix of scores alone would be 16 GB.
_PEAK = """
import resource
import numpy as np
from transformer_fast import functional

functional.set_num_threads({threads})
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((1, 1, {length}, 64), dtype=np.float32) for _ in range(3))
out = np.zeros_like(q)
warm = q[:, :, :64]
functional.scaled_dot_product_attention(warm, warm, warm)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
functional.scaled_dot_product_attention(q, k, v, is_causal=True, out=out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("team", [1, 2])
def test_memory_of_a_long_causal_call(team):
    kilobytes = float(run_python(code=_PEAK.format(length=65536, threads=team)).stdout)
    assert kilobytes * 1024 <= 16 * MEGABYTE * team


def test_workspace_is_reused_and_given_back():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 4, 300, 64), dtype=np.float32) for _ in range(3))
    functional.scaled_dot_product_attention(q, k, v)
    held = functional.explain_attention(q, k, v)["workspace_bytes"]
    for _ in range(3):
        functional.scaled_dot_product_attention(q, k, v)
    assert functional.release_workspace() >= held
    assert functional.release_workspace() == 0


def test_explained_workspace_does_not_depend_on_the_length():
    short, long = (np.broadcast_to(np.float32(0), (1, 1, length, 64)) for length in (4096, 1 << 20))
    sizes = [functional.explain_attention(x, x, x, is_causal=True)["workspace_bytes"] for x in (short, long)]
    assert sizes[0] == sizes[1] <= 16 * MEGABYTE * functional.get_num_threads()


def test_explanation_names_kernel_and_skipped_part():
    q = np.zeros((1, 8, 1, 64), np.float32)
    x = np.zeros((1, 8, 512, 64), np.float32)
    assert functional.explain_attention(q, x, x)["kernel"] == "decode"
    assert functional.explain_attention(x[:, :, :100], x[:, :, :100], x[:, :, :100])["kernel"] == "full-row"
    causal = functional.explain_attention(x, x, x, is_causal=True)
    assert causal["kernel"] == "online"
    assert causal["skipped_fraction"] == pytest.approx(511 / 1024)
    assert causal["score_flops"] == pytest.approx(4 * 64 * 8 * 512 * 513 / 2)


def constant(path: str, name: str) -> int:
    """A number that csrc/<path> defines, as a macro or in an enum."""
    source = (ROOT / "csrc" / path).read_text(encoding="utf-8")
    return int(re.search(rf"(?:# *define +{name}|\b{name} =) +([0-9]+)", source).group(1))


@pytest.mark.parametrize("Lq", [1, 2, 3])
def test_explanation_has_the_constants_of_decode(Lq, isa):
    x = np.zeros((1, 2, 4096, 64), np.float32)
    (kind,) = functional.explain_attention(x[:, :, :Lq], x, x)["kinds"]
    assert kind["kernel"] == "decode" and not kind["copies_kv"] and not kind["matrix_engine"]
    assert kind["key_block"] == constant("kernels/attention/decode.h", "DECODE_KEY_BLOCK")
    assert kind["query_panel"] == {1: 1, 2: 2, 3: 4}[Lq]


def test_explanation_has_the_constants_of_many_rows(isa):
    x = np.zeros((1, 2, 300, 64), np.float32)
    plan = functional.explain_attention(x, x, x)
    (kind,) = plan["kinds"]
    assert kind["kernel"] == plan["kernel"] == "online" and kind["isa"] == isa and kind["pieces"] == plan["pieces"]
    assert kind["key_block"] == constant("kernels/attention/panel.h", "KEY_BLOCK")
    assert kind["matrix_engine"] == (isa == "amx")
    if (ROOT / f"csrc/isa/{isa}.c").exists() and isa != "amx":
        lanes = constant(f"isa/{isa}.c" if isa == "portable" else f"simd/{isa}.h", "V_LANES")
        assert kind["query_panel"] == constant(f"isa/{isa}.c", "TILE_VECTORS") * lanes


def test_explanation_tells_of_copies(isa):
    x = np.zeros((1, 2, 300, 64), np.float32)
    half = x.astype(np.float16)
    _core.set_tuning("zen5")  # copies nothing
    try:
        assert not functional.explain_attention(x, x, x)["copies_kv"]
        assert functional.explain_attention(x, half, half)["copies_kv"]
        assert functional.explain_attention(half, half, half)["copies_kv"]
        _core.set_tuning("intel")
        plan = functional.explain_attention(x, x, x)
        assert plan["copies_kv"] == (plan["rows_per_piece"] > 3 * plan["query_panel"] and not plan["matrix_engine"])
        assert not functional.explain_attention(x[:, :, :1], half, half)["copies_kv"]
    finally:
        _core.set_tuning(None)


def test_explanation_lists_every_kind_of_piece(isa):
    """Sequences of one batch whose keys fit in one step, and others."""
    x = np.zeros((3, 2, 300, 64), np.float32)
    plan = functional.explain_attention(x, x, x, kv_lengths=np.array([300, 300, 20]))
    # Pieces of one kernel may be of several kinds: the last rows of a head are fewer, and copy keys or not.
    assert list(dict.fromkeys(kind["kernel"] for kind in plan["kinds"])) == ["online", "full-row"]
    assert sum(kind["pieces"] for kind in plan["kinds"]) == plan["pieces"]
    assert {name: plan[name] for name in ("kernel", "isa", "key_block")} == {
        name: plan["kinds"][0][name] for name in ("kernel", "isa", "key_block")
    }


@pytest.mark.parametrize("cuts", [(0, 300), (0, 128, 300), (0, 1, 77, 200, 300)])
def test_merged_parts_are_the_whole(cuts, isa):
    rng = np.random.default_rng(1)
    q = rng.standard_normal((2, 3, 40, 32), dtype=np.float32)
    k, v = (rng.standard_normal((2, 3, 300, 32), dtype=np.float32) for _ in range(2))
    parts = [
        functional.scaled_dot_product_attention(q, k[:, :, a:b], v[:, :, a:b], return_lse=True)
        for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    ]
    out, lse = functional.merge_attention([o for o, _ in parts], [x for _, x in parts])
    whole, whole_lse = functional.scaled_dot_product_attention(q, k, v, return_lse=True)
    np.testing.assert_allclose(out, whole, atol=2e-6)
    np.testing.assert_allclose(lse, whole_lse, atol=2e-6)
