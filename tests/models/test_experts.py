"""Mixtures of experts: qwen3_moe.py, mixtral.py and gpt_oss.py against transformers' own numbers, the layouts of their
files, experts in 4 bits, and models/common/experts.py by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from decoder_cases import check_golden, inputs, tensors, write
from expert_cases import MXFP4, SIZES, expert_tensors, write_four_bits

from transformer_fast import functional, load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.functional.stored_weight import StoredWeight
from transformer_fast.models.common.base import Part, Source, WrittenTensors
from transformer_fast.models.common.experts import ExpertOptions, Experts
from transformer_fast.models.gpt_oss import GptOssConfig
from transformer_fast.models.mixtral import MixtralForCausalLM
from transformer_fast.models.qwen3_moe import Qwen3MoeConfig, Qwen3MoeForCausalLM

pytest.importorskip("safetensors")

CASES = ["qwen3_moe", "mixtral", "gpt_oss"]


@pytest.mark.parametrize("case", CASES)
def test_golden_numbers_of_transformers(isa, tmp_path, case):
    check_golden(tmp_path, case)


def numbered(case):
    """The tensors of a case -> what replaces the stacked ones in files that number the experts."""
    replaced = {}
    for name, array in tensors(case).items():
        if ".mlp.gate." in name and case == "mixtral":
            replaced |= {name: None, name.replace(".mlp.", ".block_sparse_moe."): array}
        if ".experts." not in name:
            continue
        replaced[name] = None
        layer = name.rpartition(".")[0]
        if case == "mixtral":
            layer = layer.replace(".mlp.", ".block_sparse_moe.")
        gate, up, down = ("w1", "w3", "w2") if case == "mixtral" else ("gate_proj", "up_proj", "down_proj")
        for e, matrix in enumerate(array):
            parts = {down: matrix}
            if name.endswith("gate_up_proj"):
                parts = dict(zip((gate, up), np.split(matrix, 2), strict=True))
            replaced |= {f"{layer}.{e}.{part}.weight": np.ascontiguousarray(rows) for part, rows in parts.items()}
    return replaced


@pytest.mark.parametrize("case", ["qwen3_moe", "mixtral"])
def test_both_layouts_are_one_model(tmp_path, case):
    stacked = load_model(write(tmp_path / "stacked", case))
    single = load_model(write(tmp_path / "single", case, replaced=numbered(case)))
    assert np.array_equal(single(inputs(40)[0]).logits, stacked(inputs(40)[0]).logits)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", ["stacked", "numbered"])
def test_saved_as_it_was_read(tmp_path, case, layout):
    from safetensors.numpy import load_file

    replaced = numbered(case) if layout == "numbered" and case != "gpt_oss" else {}
    load_model(write(tmp_path / "a", case, replaced=replaced)).save_pretrained(tmp_path / "b")
    written, read = (load_file(tmp_path / folder / "model.safetensors") for folder in "ba")
    assert all(np.array_equal(written.pop(name), array) for name, array in read.items()) and not written


@pytest.mark.parametrize("case", CASES)
def test_rows_do_not_depend_on_each_other(isa, tmp_path, case):
    """Experts multiply the tokens of all rows together: the same bits as of each row alone."""
    model = load_model(write(tmp_path, case))
    ids, mask, _ = inputs(40)
    together = model(ids, mask, np.maximum(np.cumsum(mask, axis=1) - 1, 0)).logits
    for b, tokens in enumerate(mask.astype(bool)):
        assert np.array_equal(together[b, tokens], model(ids[b : b + 1, tokens]).logits[0])


@pytest.mark.parametrize("case", CASES)
def test_threads_do_not_change_a_bit(tmp_path, threads, case):
    model = load_model(write(tmp_path, case))
    ids, mask, left = inputs(40)
    logits, tokens = model(ids, mask).logits, model.generate(ids, left, max_new_tokens=5, num_beams=2)
    functional.set_num_threads(1)
    assert np.array_equal(model(ids, mask).logits, logits)
    assert np.array_equal(model.generate(ids, left, max_new_tokens=5, num_beams=2), tokens)


@pytest.mark.parametrize("case", CASES)
def test_narrow_weights_and_a_router_that_stays_exact(tmp_path, case):
    folder = write(tmp_path, case)
    exact, ids = load_model(folder)(inputs(40)[0]).logits, inputs(40)[0]
    narrow = load_model(folder, compute_type="int8_a16")
    block = next(layer for layer in narrow.model.layers if layer.options.experts is not None)
    assert block.experts.router._packed_weight.get(block.experts.router).format == "float32"
    assert block.experts.experts[0].up_proj.packed().format == "int8_a16"
    router = load_model(folder, compute_type={"layers.0.experts.router": "int8"}).model.layers[0].experts.router
    assert router._packed_weight.get(router).format == "int8"
    # Rounding may still send a token elsewhere in a later layer, but not many of 24.
    errors = np.abs(narrow(ids).logits - exact).max(axis=2).reshape(-1)
    assert np.median(errors) < 0.1 * np.abs(exact).max()


def test_experts_as_integers(tmp_path):
    """Numbered experts are written as integers, all but the router; stacked ones cannot be."""
    from safetensors.numpy import load_file

    model = load_model(write(tmp_path / "floats", "qwen3_moe", replaced=numbered("qwen3_moe")))
    model.save_pretrained(tmp_path / "integers", compute_type="int8_a16")
    types = {name: array.dtype for name, array in load_file(tmp_path / "integers" / "model.safetensors").items()}
    assert types["model.layers.0.mlp.experts.3.up_proj.weight"] == np.int8
    assert types["model.layers.0.mlp.gate.weight"] == np.float32
    again = load_model(tmp_path / "integers")
    assert again.model.layers[0].experts.experts[3].up_proj.packed().format == "int8_a16"
    with pytest.raises(ValueError, match=r"mlp\.experts\.gate_up_proj is stored transposed"):
        stacked = load_model(write(tmp_path / "stacked", "qwen3_moe"))
        stacked.save_pretrained(tmp_path / "no", compute_type="int8_a16")


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("swiglu", [None, (1.3, 0.4)])
def test_against_float64(isa, normalised, swiglu):
    """Token by token, in the formulas of the papers."""
    options = ExpertOptions(6, 3, 20, normalised, bias=swiglu is not None, swiglu=swiglu)
    experts, rng = Experts(12, options), np.random.default_rng(0)
    experts.load_state_dict({n: rng.standard_normal(p.shape, np.float32) for n, p in experts.named_parameters()})
    x = rng.standard_normal((17, 12), np.float32)

    def linear(module, rows):
        bias = 0 if module.bias is None else module.bias.astype(np.float64)
        return rows @ module.weight.astype(np.float64).T + bias

    for token, got in zip(x.astype(np.float64), experts(x), strict=True):
        scores = linear(experts.router, token)
        shares, expected = np.exp(scores) / np.exp(scores).sum(), 0
        chosen = np.argsort(-scores)[:3]
        for e in chosen:
            expert = experts.experts[int(e)]
            gate, up = linear(expert.gate_proj, token), linear(expert.up_proj, token)
            if swiglu is None:
                inner = gate / (1 + np.exp(-gate)) * up
            else:
                gate, up = np.minimum(gate, swiglu[1]), np.clip(up, -swiglu[1], swiglu[1])
                inner = gate / (1 + np.exp(-swiglu[0] * gate)) * (up + 1)
            share = shares[e] / shares[chosen].sum() if normalised else shares[e]
            expected = expected + share * linear(expert.down_proj, inner)
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


def test_no_tokens():
    assert Experts(4, ExpertOptions(3, 2, 8, True))(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_which_layers_have_experts():
    def layers(**fields):
        config = Qwen3MoeConfig(num_hidden_layers=4, **fields)
        return [config.block(i).experts is not None for i in range(4)]

    assert layers() == [True] * 4
    assert layers(decoder_sparse_step=2) == [False, True, False, True]
    assert layers(decoder_sparse_step=2, mlp_only_layers=[1]) == [False, False, False, True]
    assert layers(num_local_experts=0) == [False] * 4


def test_names_of_the_number_of_experts():
    """The general name is the one that files of Qwen have; where both are there, transformers takes the other."""
    sizes = {"num_experts_per_tok": 1}
    for content, number in (({"num_experts": 7}, 7), ({"num_experts": 7, "num_local_experts": 5}, 5)):
        assert Qwen3MoeForCausalLM.read_config(content | sizes, Path("config.json")).num_local_experts == number
    both = {"num_experts": 7, "num_local_experts": 5} | sizes
    assert MixtralForCausalLM.read_config(both, Path("config.json")).num_local_experts == 7


def test_windows_of_gpt_oss():
    config = GptOssConfig(num_hidden_layers=3)
    assert [config.block(i).window for i in range(3)] == [128, None, 128]
    types = ["full_attention", "full_attention", "sliding_attention"]
    config = GptOssConfig(num_hidden_layers=3, layer_types=types, sliding_window=7)
    assert [config.block(i).window for i in range(3)] == [None, None, 7]


def test_sinks_take_their_part(tmp_path):
    """A large sink leaves little for the tokens; attention's weights do not sum to 1."""
    large = {f"model.layers.{i}.self_attn.sinks": np.full(4, 3.0, np.float32) for i in range(2)}
    sums = []
    for number, replaced in enumerate(({}, large)):
        model = load_model(write(tmp_path / str(number), "gpt_oss", replaced=replaced))
        sums.append(model(inputs(40)[0], output_attentions=True).attentions[0].sum(axis=3))
    assert (sums[1] < sums[0]).all() and sums[0].max() < 1


# ----------------------------------------------------------------------------------------------------------------------
# Four bits


def test_experts_in_four_bits(tmp_path):
    expected = load_model(write(tmp_path / "floats", "gpt_oss", SIZES, expert_tensors()[0]))
    folder = write_four_bits(tmp_path / "packed")
    ids = inputs(40)[0]
    for compute_type in ("float32", "bfloat16", "int8_a16"):
        got = load_model(folder, compute_type=compute_type)
        other = load_model(tmp_path / "floats", compute_type=compute_type)
        assert np.array_equal(got(ids).logits, other(ids).logits)
    gate = got.model.layers[0].experts.experts[1].gate_proj.weight
    assert isinstance(gate, StoredWeight) and gate.shape == (32, 32)  # the file's blocks, and no copy of their values
    assert np.array_equal(np.asarray(gate, np.float32), other.model.layers[0].experts.experts[1].gate_proj.weight)
    kept = load_model(folder)
    assert kept.model.layers[0].experts.experts[1].gate_proj.packed().format == "MXFP4"
    error = np.abs(kept(ids).logits - expected(ids).logits).max() / np.abs(expected(ids).logits).max()
    assert 0 < error < 1e-4  # activations in 16 bits
    coarse = load_model(folder, compute_type="auto_a8")
    assert coarse.model.layers[0].experts.experts[1].down_proj.packed().format == "MXFP4_a8"
    kept.save_pretrained(tmp_path / "again")
    assert np.array_equal(load_model(tmp_path / "again")(ids).logits, expected(ids).logits)


@pytest.mark.parametrize(
    "settings, replaced, text",
    [
        (MXFP4 | {"group_size": 16}, {}, r"has the fields \['group_size'\], which are not known"),
        (MXFP4, {"down_proj_scales": None}, "down_proj_blocks' is there without its '_scales'"),
        (MXFP4, {"down_proj_blocks": None}, "down_proj_scales' is there without its '_blocks'"),
        (MXFP4, {"down_proj_scales": np.zeros((4, 32, 2), np.uint8)}, r"needed: U8 \(4, 32, 1\)"),
        (MXFP4, {"down_proj_blocks": np.zeros((4, 32, 16), np.uint8)}, r"needed: U8 \(E, N, n, 16\)"),
        (None, {}, r"missing tensors: 'layers\.0\.mlp\.experts\.gate_up_proj'"),
        ({"quant_method": "gptq"}, {}, "quantization_config has no field 'bits'"),
    ],
    ids=str,
)
def test_refusals_of_four_bits(tmp_path, settings, replaced, text):
    changed = {f"model.layers.0.mlp.experts.{name}": array for name, array in replaced.items()}
    with pytest.raises(CheckpointError, match=text):
        load_model(write_four_bits(tmp_path, {"quantization_config": settings}, changed))


# ----------------------------------------------------------------------------------------------------------------------
# Refusals, and parts of stacked tensors


@pytest.mark.parametrize(
    "case, changes, text",
    [
        ("qwen3_moe", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5; needed: at most num_local_experts=4"),
        ("qwen3_moe", {"output_router_logits": True}, "output_router_logits is True"),
        ("qwen3_moe", {"num_local_experts": 3}, r"needed by config\.json: \(3, 16\)"),
        ("qwen3_moe", {"num_local_experts": -1}, "num_local_experts is -1"),
        ("mixtral", {"num_experts": 0}, r"num_local_experts is 0.*is called num_experts there"),
        ("qwen3_moe", {"mlp_only_layers": [0, 1]}, r"missing tensors: 'layers\.0\.mlp\.gate_proj\.weight'"),
        ("qwen3_moe", {"shared_expert_intermediate_size": 8}, "does not know 'shared_expert_intermediate_size'"),
        ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ("mixtral", {"output_router_logits": True}, "output_router_logits is True"),
        ("gpt_oss", {"swiglu_alpha": 0.0}, "swiglu_alpha is 0"),
        ("gpt_oss", {"swiglu_limit": -1.0}, "swiglu_limit is -1"),
        ("gpt_oss", {"sliding_window": None}, "sliding_window is None, but there are layers with a window"),
        ("gpt_oss", {"attention_bias": False}, r"does not use: .*self_attn\..*bias"),
    ],
    ids=str,
)
def test_refusals(tmp_path, case, changes, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, case, changes))


def test_an_expert_too_few(tmp_path):
    replaced = numbered("mixtral") | {"model.layers.1.block_sparse_moe.experts.3.w2.weight": None}
    with pytest.raises(
        CheckpointError, match=r"missing tensors: 'layers\.1\.block_sparse_moe\.experts\.3\.w2\.weight'"
    ):
        load_model(write(tmp_path, "mixtral", replaced=replaced))


def test_parts_of_stacked_tensors():
    stack = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    every_second = Source(Part("t", of=4, rows=slice(1, 4, 2), matrix=1, matrices=2))
    assert every_second.shapes((2, 3)) == [(2, 4, 3)]
    rows = every_second.read({"t": stack}, (2, 3))
    assert np.array_equal(rows, stack[1, 1::2]) and np.shares_memory(rows, stack)
    columns = Source(Part("t", of=3, matrix=0, matrices=2), transpose=True)
    assert columns.shapes((3, 4)) == [(2, 4, 3)]
    assert np.array_equal(columns.read({"t": stack}, (3, 4)), stack[0].T)
    written = WrittenTensors()
    for matrix, first in ((0, 0), (0, 1), (1, 0), (1, 1)):
        source = Source(Part("t", of=4, rows=slice(first, 4, 2), matrix=matrix, matrices=2))
        source.write(source.read({"t": stack}, (2, 3)), written)
    assert np.array_equal(written.finished()["t"], stack)
    with pytest.raises(ValueError, match="matrix is 2 and matrices is 2"):
        Part("t", matrix=2, matrices=2)
    with pytest.raises(ValueError, match="rows is slice"):
        Part("t", of=4, rows=slice(0, 4, -1))
