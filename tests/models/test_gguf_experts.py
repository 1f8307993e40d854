"""GGUF files of mixtures of experts: the same numbers as folders of the same weights, and experts that stay blocks."""

from __future__ import annotations

import numpy as np
import pytest
from blocks import random_blocks
from decoder_cases import inputs
from gguf_experts import in_gguf, settings_of, tensors_of, write_experts, write_folder

from transformer_fast import functional as F
from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source

gguf = pytest.importorskip("gguf")
pytest.importorskip("safetensors")

CASES = ["mixtral", "qwen3_moe", "gpt_oss"]
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


def size(x) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def both(tmp_path, case, compute_type="auto", changes=None, **further):
    """The model of a folder, and of a file."""
    settings = settings_of(case, **(changes or {}))
    arrays = tensors_of(settings)
    folder = write_folder(tmp_path / "a", settings, arrays)
    path = write_experts(tmp_path / "a.gguf", settings, in_gguf(settings, arrays), **further)
    return [load_model(place, compute_type=compute_type) for place in (folder, path)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("compute_type", ["auto", "bfloat16", "int8"])
def test_same_bits_as_a_folder(tmp_path, case, compute_type):
    folder, model = both(tmp_path, case, compute_type)
    ids = inputs(40)[0]
    assert type(model) is type(folder)
    # int8: the means of columns of gpt-oss' matrices, which are transposed in a folder, are summed in another order.
    atol = 1e-6 if (case, compute_type) == ("gpt_oss", "int8") else 0
    np.testing.assert_allclose(model(ids).logits, folder(ids).logits, rtol=0, atol=atol)
    options = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 1}
    assert model.generate(ids, **options).tolist() == folder.generate(ids, **options).tolist()


@pytest.mark.parametrize(
    ("case", "changes", "further"),
    [
        ("mixtral", {"sliding_window": None}, {}),
        ("mixtral", {"num_experts_per_tok": 1}, {}),
        ("qwen3_moe", {"num_experts_per_tok": 4}, {}),
        ("qwen3_moe", {"moe_intermediate_size": 10}, {"expert_feed_forward_length": None}),
        ("gpt_oss", {"layer_types": ["full_attention", "sliding_attention"]}, {"pattern": [False, True]}),
        ("gpt_oss", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, {}),
        ("gpt_oss", {"rope_parameters": {"beta_fast": 4.0, "beta_slow": 0.5}}, {}),
    ],
)
def test_settings(tmp_path, case, changes, further):
    """Each of them changes the logits: a file that says it is a folder that says it."""
    changes, further = (
        dict(changes),
        {key.replace("pattern", "attention.sliding_window_pattern"): v for key, v in further.items()},
    )
    if "rope_parameters" in changes:
        given = changes["rope_parameters"]
        changes["rope_parameters"] = given if "rope_type" in given else settings_of(case)["rope_parameters"] | given
    folder, model = both(tmp_path, case, changes=changes, **further)
    ids = inputs(40)[0]
    got = model(ids).logits
    np.testing.assert_array_equal(got, folder(ids).logits)
    (tmp_path / "b").mkdir()
    assert not np.array_equal(got, both(tmp_path / "b", case)[1](ids).logits)


FORMATS = {
    "mixtral": {"ffn_gate_exps": "Q4_K", "ffn_up_exps": "Q5_K", "ffn_down_exps": "Q6_K"},
    "qwen3_moe": {"ffn_gate_exps": "Q8_0", "ffn_up_exps": "Q8_0", "ffn_down_exps": "Q4_0", "attn_q": "Q8_0"},
    "gpt_oss": {"ffn_gate_exps": "MXFP4", "ffn_up_exps": "MXFP4", "ffn_down_exps": "MXFP4", "attn_v": "Q8_0"},
}


def in_blocks(found: dict, formats: dict) -> tuple[dict, dict]:
    """The tensors with blocks for weights that formats name; and the values that the package gguf takes them for."""
    stored, values = dict(found), dict(found)
    for i, (name, array) in enumerate(found.items()):
        format = formats.get(name.split(".")[-2])
        if format and name.endswith(".weight"):
            blocks = random_blocks(format, array.size // array.shape[-1], array.shape[-1], seed=i).blocks
            blocks = blocks.reshape(*array.shape[:-1], -1)
            stored[name] = format, blocks
            values[name] = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[format])
    return stored, values


@pytest.mark.parametrize("case", CASES)
def test_experts_stay_blocks(tmp_path, case):
    """Their values are the package gguf's to the bit, and products keep the blocks."""
    settings = settings_of(case, **WIDE, **({"moe_intermediate_size": 256} if case == "qwen3_moe" else {}))
    stored, values = in_blocks(in_gguf(settings, tensors_of(settings)), FORMATS[case])
    model = load_model(write_experts(tmp_path / "a.gguf", settings, stored))
    floats = load_model(write_experts(tmp_path / "b.gguf", settings, values))
    kept = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
    for expert in model.model.layers[1].experts.experts:
        for part, name in kept.items():
            linear = getattr(expert, part)
            assert isinstance(linear.weight, F.BlockWeight)
            assert linear.packed().format == FORMATS[case][name]
    assert model.model.layers[1].experts.router._packed_weight.get(model.model.layers[1].experts.router).format == (
        "float32"
    )
    theirs = floats.state_dict()
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(np.asarray(parameter), theirs[name])
    ids = inputs(40)[0]
    exact = floats(ids).logits
    assert size(model(ids).logits - exact) < 1e-3 * size(exact)
    wide = load_model(tmp_path / "a.gguf", compute_type="float32")
    np.testing.assert_array_equal(wide(ids).logits, exact)
    parts = load_model(tmp_path / "a.gguf", compute_type={"": "auto", "blk.0.ffn_up_exps": "int8"})
    first, second = (layer.experts.experts[2] for layer in parts.model.layers[:2])
    assert first.up_proj.packed().format == "int8"
    assert first.down_proj.packed().format == FORMATS[case]["ffn_down_exps"]
    assert second.up_proj.packed().format == FORMATS[case]["ffn_up_exps"]


def test_mxfp4_of_a_folder_and_of_a_file(tmp_path):
    """The same numbers in two orders: a folder's pairs of neighbours, a file's first and second halves of 32."""
    settings = settings_of("gpt_oss", hidden_size=64, intermediate_size=96)
    arrays, rng = tensors_of(settings), np.random.default_rng(0)
    stored = in_gguf(settings, arrays)
    for i in range(settings["num_hidden_layers"]):
        for part, inner in (("gate_up_proj", 64), ("down_proj", 96)):
            name = f"model.layers.{i}.mlp.experts.{part}"
            E, _, N = arrays.pop(name).shape
            codes = rng.integers(0, 16, (E, N, inner // 32, 32), np.uint8)
            scales = rng.integers(118, 124, (E, N, inner // 32), np.uint8)
            arrays[f"{name}_blocks"] = codes[..., ::2] | codes[..., 1::2] << 4
            arrays[f"{name}_scales"] = scales
            halves = codes[..., :16] | codes[..., 16:] << 4
            blocks = np.concatenate([scales[..., None], halves], axis=-1).reshape(E, N, -1)
            if part == "down_proj":
                stored[f"blk.{i}.ffn_down_exps.weight"] = "MXFP4", blocks
            else:
                stored[f"blk.{i}.ffn_gate_exps.weight"] = "MXFP4", blocks[:, ::2]
                stored[f"blk.{i}.ffn_up_exps.weight"] = "MXFP4", blocks[:, 1::2]
    quantised = settings | {"quantization_config": {"quant_method": "mxfp4"}}
    write_folder(tmp_path / "a", quantised, arrays)
    write_experts(tmp_path / "a.gguf", settings, stored)
    for compute_type in ("float32", "auto"):
        folder = load_model(tmp_path / "a", compute_type=compute_type)
        model = load_model(tmp_path / "a.gguf", compute_type=compute_type)
        for name, parameter in model.named_parameters():
            np.testing.assert_array_equal(
                np.asarray(parameter, np.float32), np.asarray(folder.state_dict()[name], np.float32)
            )
        ids = inputs(40)[0]
        np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)


@pytest.mark.parametrize("case", CASES)
def test_saved_as_transformers_reads_it(tmp_path, case):
    """What is written has the names of the folder, or experts by number, where transformers reads those, too."""
    folder, model = both(tmp_path, case)
    model.save_pretrained(tmp_path / "b")
    ids = inputs(40)[0]
    np.testing.assert_array_equal(load_model(tmp_path / "b")(ids).logits, folder(ids).logits)
    names = open_source(tmp_path / "b").tensors().keys()
    if case == "gpt_oss":
        assert names == open_source(tmp_path / "a").tensors().keys()
    else:
        part = {"mixtral": "block_sparse_moe.experts.3.w2", "qwen3_moe": "mlp.experts.3.down_proj"}[case]
        assert f"model.layers.1.{part}.weight" in names


DOWN = "blk.1.ffn_down_exps.weight"


@pytest.mark.parametrize(
    ("case", "further", "replaced", "said"),
    [
        ("mixtral", {"expert_count": 3}, {}, "expert_count is 3, and tensors of experts hold 4"),
        ("mixtral", {"expert_used_count": None}, {}, "no metadata 'llama.expert_used_count'"),
        ("mixtral", {"expert_used_count": 5}, {}, "num_experts_per_tok is 5"),
        ("mixtral", {"expert_count": None}, {}, "'llama.expert_used_count' is 2; needed: 0"),
        ("mixtral", {"expert_weights_scale": 2.0}, {}, "llama.expert_weights_scale"),
        ("qwen3_moe", {"expert_count": None}, {}, "no metadata 'qwen3moe.expert_count'"),
        ("qwen3_moe", {"expert_shared_count": 1}, {}, "qwen3moe.expert_shared_count"),
        ("qwen3_moe", {}, {DOWN: None}, "down_proj"),
        ("qwen3_moe", {}, {DOWN: np.zeros(4, np.float32)}, r"has shape \(4,\); needed: one matrix or vector"),
        (
            "qwen3_moe",
            {},
            {DOWN: np.zeros((4, 2, 12), np.float32)},
            r"'blk.1.ffn_down_exps.weight' has shape \(2, 12\)",
        ),
        ("gpt_oss", {"attention.sliding_window": None}, {}, "no metadata 'gpt-oss.attention.sliding_window'"),
        ("gpt_oss", {"attention.sliding_window_pattern": 3}, {}, "sliding_window_pattern' is 3; needed: 2"),
        ("gpt_oss", {"rope.freq_base_swa": 1e4}, {}, "rope.freq_base_swa' is 10000.0; needed: 150000.0"),
        ("gpt_oss", {"rope.scaling.yarn_ext_factor": 0.5}, {}, "yarn_ext_factor' is 0.5; needed: 1"),
        ("gpt_oss", {"rope.scaling.yarn_attn_factor": 0.5}, {}, "gpt-oss.rope.scaling.yarn_attn_factor"),
        ("gpt_oss", {"feed_forward_length": 21}, {}, "feed_forward_length' is 21; needed: 20"),
        ("gpt_oss", {}, {"blk.0.ffn_up_exps.bias": None}, "up_proj.bias"),
        ("gpt_oss", {}, {"blk.0.attn_sinks.bias": np.zeros(4, np.float32)}, "blk.0.attn_sinks.bias"),
    ],
)
def test_refusals(tmp_path, case, further, replaced, said):
    settings = settings_of(case)
    with pytest.raises(CheckpointError, match=said):
        load_model(
            write_experts(tmp_path / "a.gguf", settings, in_gguf(settings, tensors_of(settings)) | replaced, **further)
        )
