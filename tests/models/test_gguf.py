"""Language models from GGUF files: the same numbers as from a folder of the same weights, and refusals by name."""

from __future__ import annotations

import copy
import math
import pickle

import ml_dtypes
import numpy as np
import pytest
from blocks import random_blocks
from decoder_cases import LLAMA, config, inputs, tensors, write
from gguf_files import metadata_of, tensors_in_gguf, tensors_of_llama, write_gguf
from model_folders import write_json

from transformer_fast import functional as F
from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source

gguf = pytest.importorskip("gguf")
save_file = pytest.importorskip("safetensors.numpy").save_file

# Wide enough for blocks of 256 values.
WIDE = {**LLAMA, "hidden_size": 256, "intermediate_size": 512}


def case_file(path, case, metadata=None, replaced=None):
    settings = config(case)
    found = tensors_in_gguf(settings, tensors(case)) | (replaced or {})
    return write_gguf(path, settings["model_type"], metadata_of(settings) | (metadata or {}), found)


@pytest.mark.parametrize("case", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("compute_type", ["auto", "bfloat16", "int8"])
def test_same_bits_as_a_folder(tmp_path, case, compute_type):
    folder = load_model(write(tmp_path / "a", case), compute_type=compute_type)
    model = load_model(case_file(tmp_path / "a.gguf", case), compute_type=compute_type)
    ids = inputs(40)[0]
    assert type(model) is type(folder)
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)
    options = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 1}
    assert model.generate(ids, **options).tolist() == folder.generate(ids, **options).tolist()


@pytest.mark.parametrize("code", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "Q2_K", "IQ4_NL"])
def test_blocks(tmp_path, code):
    """Matrices in blocks: the values are those that the package gguf takes them for; products keep the blocks."""
    kind, found = gguf.GGMLQuantizationType[code], tensors_in_gguf(WIDE, tensors_of_llama(WIDE))
    rng, (values, nbytes) = np.random.default_rng(0), gguf.GGML_QUANT_SIZES[kind]
    stored, expanded = dict(found), dict(found)
    for name, array in found.items():
        if array.ndim == 2 and name != "token_embd.weight":
            blocks = rng.integers(0, 256, (array.size // values, nbytes), np.uint8)
            halves = {"Q6_K": (208,), "Q2_K": (80, 82)}.get(code, (0, 2) if code.endswith(("_1", "_K")) else (0,))
            for at in halves:
                blocks[:, at : at + 2] = rng.uniform(-2e-3, 2e-3, (len(blocks), 1)).astype(np.float16).view(np.uint8)
            rows = blocks.reshape(array.shape[0], -1)
            stored[name], expanded[name] = (code, rows), gguf.quants.dequantize(rows, kind)
    paths = [
        write_gguf(tmp_path / f"{i}.gguf", "llama", metadata_of(WIDE), each)
        for i, each in enumerate((stored, expanded))
    ]
    ids = inputs(40)[0]
    exact = load_model(paths[1])(ids).logits
    for compute_type in ("float32", "int8_a16"):
        models = [load_model(path, compute_type=compute_type) for path in paths]
        np.testing.assert_array_equal(models[0](ids).logits, models[1](ids).logits)
    model = load_model(paths[0])
    kept = "float32" if code == "Q2_K" else code
    assert model.model.layers[0].down_proj.packed().format == model.lm_head.packed().format == kept
    # x in 16 bits: a hundredth of the error of int8
    assert size(model(ids).logits - exact) < 1e-3 * size(exact)
    if kept == code:
        coarse = load_model(paths[0], compute_type="auto_a8")
        assert coarse.model.layers[0].down_proj.packed().format == coarse.lm_head.packed().format == f"{code}_a8"
        # 8 bits less a power of two in place of a scale: 256 to 512 times the error, and what a model makes of it
        error = size(coarse(ids).logits - exact) / size(model(ids).logits - exact)
        assert 50 < error < 1000
    assert size(load_model(paths[0], compute_type="int8")(ids).logits - exact) > 1e-2 * size(exact)


def size(x) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def in_blocks(found: dict, formats: dict) -> tuple[dict, dict]:
    """Tensors of a GGUF file with blocks for those whose names end with a key of formats; and their values."""
    stored, values = dict(found), dict(found)
    for i, name in enumerate(found):
        format = next((format for end, format in formats.items() if name.removesuffix(".weight").endswith(end)), None)
        if format:
            weight = random_blocks(format, *found[name].shape, seed=i)
            stored[name], values[name] = (format, weight.blocks), np.asarray(weight)
    return stored, values


MIXED = {"attn_q": "Q4_K", "attn_k": "Q4_K", "attn_v": "Q6_K", "attn_output": "Q4_K", "token_embd": "Q6_K"}
MIXED |= {"ffn_gate": "Q4_K", "ffn_up": "Q5_K", "ffn_down": "Q6_K", "output": "Q8_0"}


def test_formats_that_differ_in_a_layer(tmp_path):
    """Query, key and value of several formats are products of their own; turned rows lose nothing."""
    stored, values = in_blocks(tensors_in_gguf(WIDE, tensors_of_llama(WIDE)), MIXED)
    model = load_model(write_gguf(tmp_path / "a.gguf", "llama", metadata_of(WIDE), stored))
    floats = load_model(write_gguf(tmp_path / "b.gguf", "llama", metadata_of(WIDE), values))
    packed, _ = model.model.layers[1].qkv_proj.packed()
    assert packed.format == "Q4_K+Q6_K"
    np.testing.assert_array_equal(packed.unpack(), floats.model.layers[1].qkv_proj.packed()[0].unpack())
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(np.asarray(parameter), floats.state_dict()[name])
        assert isinstance(parameter, F.BlockWeight) == (parameter.ndim == 2)
    ids = inputs(40)[0]
    assert size(model(ids).logits - floats(ids).logits) < 1e-3 * size(floats(ids).logits)
    parts = load_model(tmp_path / "a.gguf", compute_type={"": "auto", "lm_head": "float32", "layers.1": "int8"})
    assert parts.lm_head.packed().format == "float32" and parts.model.layers[1].qkv_proj.packed()[0].format == "int8"
    assert parts.model.layers[0].up_proj.packed().format == "Q5_K"
    parts = load_model(tmp_path / "a.gguf", compute_type={"": "auto_a8", "lm_head": "auto"})
    assert parts.lm_head.packed().format == "Q8_0" and parts.model.layers[0].up_proj.packed().format == "Q5_K_a8"
    assert parts.model.layers[1].qkv_proj.packed()[0].format == "Q4_K_a8+Q6_K_a8"
    with pytest.raises(ValueError, match="compute_type is 'auto_a8', which is for weights in blocks"):
        load_model(tmp_path / "b.gguf", compute_type="auto_a8")


def test_blocks_beside_floats(tmp_path):
    """A projection of blocks and of half-precision numbers, in either order."""
    found = tensors_in_gguf(WIDE, tensors_of_llama(WIDE))
    for here, there in (("attn_q", "attn_v"), ("attn_v", "attn_q")):
        stored, values = in_blocks(found, {here: "Q4_K"})
        for tensors_of in (stored, values):
            tensors_of |= {name: found[name].astype(np.float16) for name in found if there in name}
        model = load_model(write_gguf(tmp_path / "a.gguf", "llama", metadata_of(WIDE), stored))
        floats = load_model(write_gguf(tmp_path / "b.gguf", "llama", metadata_of(WIDE), values))
        packed, _ = model.model.layers[0].qkv_proj.packed()
        assert packed.format == ("Q4_K+float32+float16" if here == "attn_q" else "float16+float32+Q4_K")
        np.testing.assert_array_equal(packed.unpack(), floats.model.layers[0].qkv_proj.packed()[0].unpack())
        ids = inputs(40)[0]
        assert size(model(ids).logits - floats(ids).logits) < 1e-3 * size(floats(ids).logits)


def mapped(path):
    """The model whose packed weights are written to a file, and the one that finds them there."""
    return [load_model(path, packed_cache=path.parent / "cache") for _ in range(2)]


def test_a_model_of_blocks_is_copied_pickled_mapped_and_saved(tmp_path):
    stored, _ = in_blocks(tensors_in_gguf(WIDE, tensors_of_llama(WIDE)), MIXED)
    model = load_model(write_gguf(tmp_path / "a.gguf", "llama", metadata_of(WIDE), stored))
    ids = inputs(40)[0]
    expected = model(ids).logits
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), *mapped(tmp_path / "a.gguf")):
        np.testing.assert_array_equal(other(ids).logits, expected)
    model.save_pretrained(tmp_path / "folder")
    wide = load_model(tmp_path / "a.gguf", compute_type="float32")
    np.testing.assert_array_equal(load_model(tmp_path / "folder")(ids).logits, wide(ids).logits)
    with pytest.raises(ValueError, match="compute_type is 'int4'; needed: float32 or int8 or int8_a16"):
        model.save_pretrained(tmp_path / "other", compute_type="int4")


def test_tied_head_in_blocks(tmp_path):
    """One table for both: rows are looked up in the file's blocks, the head multiplies by them."""
    found = tensors_in_gguf(WIDE, tensors_of_llama(WIDE))
    stored, values = in_blocks(found, {"token_embd": "Q6_K"})
    for each in (stored, values):
        del each["output.weight"]
    model = load_model(write_gguf(tmp_path / "a.gguf", "llama", metadata_of(WIDE), stored))
    floats = load_model(write_gguf(tmp_path / "b.gguf", "llama", metadata_of(WIDE), values))
    assert model.lm_head.packed().format == "Q6_K"
    ids = inputs(40)[0]
    np.testing.assert_array_equal(model.model.embed_tokens(ids), floats.model.embed_tokens(ids))
    assert size(model(ids).logits - floats(ids).logits) < 1e-3 * size(floats(ids).logits)


@pytest.mark.parametrize(("dtype", "format"), [(np.float16, "float16"), (ml_dtypes.bfloat16, "bfloat16_a32")])
def test_half_types(tmp_path, dtype, format):
    """Kept in 16 bits, with the bits of the same values in float32."""
    halves = {n: a.astype(dtype) if a.ndim == 2 else a for n, a in tensors("llama").items()}
    folder = load_model(write(tmp_path / "a", "llama", replaced=halves))
    stored = tensors_in_gguf(config("llama"), halves)
    if format != "float16":
        stored = {n: ("BF16", a.view(np.uint8)) if a.dtype == dtype else a for n, a in stored.items()}
    model = load_model(case_file(tmp_path / "a.gguf", "llama", replaced=stored))
    wide = load_model(tmp_path / "a.gguf", compute_type="float32")
    assert model.lm_head.packed().format == model.model.layers[1].qkv_proj.packed()[0].format == format
    assert wide.lm_head.packed().format == "float32"
    ids = inputs(40)[0]
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)
    np.testing.assert_array_equal(model(ids).logits, wide(ids).logits)


def test_tied_embeddings(tmp_path):
    folder = load_model(write(tmp_path / "a", "qwen2", {"tie_word_embeddings": True}, {"lm_head.weight": None}))
    model = load_model(case_file(tmp_path / "a.gguf", "qwen2", replaced={"output.weight": None}))
    ids = inputs(40)[0]
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({"type": "linear", "factor": 3.0}, {"rope_type": "linear", "factor": 3.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 16},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        ),
        ({"type": "none"}, None),
    ],
)
def test_scaled_positions(tmp_path, metadata, scaling):
    changed = {"rope_scaling": scaling} if scaling else {}
    folder = load_model(write(tmp_path / "a", "qwen2", {"rope_parameters": ..., "rope_theta": 10000.0, **changed}))
    keys = {f"qwen2.rope.scaling.{key}": value for key, value in metadata.items()}
    model = load_model(case_file(tmp_path / "a.gguf", "qwen2", keys))
    ids = np.random.default_rng(0).integers(0, 40, (2, 40))
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)


def test_factors_of_frequencies(tmp_path):
    """Llama 3.1's scaling, which a file has as a factor for each frequency."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 16}
    theta, width = 500000.0, LLAMA["hidden_size"] // LLAMA["num_attention_heads"]
    wavelengths = 2 * math.pi * theta ** (np.arange(0, width, 2) / width)
    smooth = np.clip((16 / wavelengths - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / 8 + smooth)).astype(np.float32)
    assert len(set(factors.tolist())) > 1
    folder = load_model(
        write(tmp_path / "a", "llama", {"rope_parameters": ..., "rope_theta": theta, "rope_scaling": rope})
    )
    path = case_file(tmp_path / "a.gguf", "llama", {"llama.rope.freq_base": theta}, {"rope_freqs.weight": factors})
    ids = np.random.default_rng(0).integers(0, 40, (2, 60))
    np.testing.assert_allclose(load_model(path)(ids).logits, folder(ids).logits, rtol=0, atol=1e-5)


def test_ends_of_generation(tmp_path):
    """All tokens that end an answer, and the first one."""
    keys = {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 7}
    source = open_source(case_file(tmp_path / "a.gguf", "llama", keys))
    assert source.json("generation_config.json") == {"bos_token_id": 0, "eos_token_id": [2, 7]}
    kinds = [3 if i in (0, 2, 9, 11, 12) else 1 for i in range(40)]
    tokens = [{9: "<end_of_turn>", 10: "<|im_end|>", 11: "<|eot_id|>", 12: "<bos>"}.get(i, str(i)) for i in range(40)]
    told = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    found = open_source(case_file(tmp_path / "b.gguf", "llama", keys | told)).json("generation_config.json")
    assert found["eos_token_id"] == [2, 7, 9, 11]  # control tokens that end a turn, too
    model = load_model(source)
    free = model.generate(inputs(40)[0], max_new_tokens=6, eos_token_id=None, pad_token_id=1)
    assert free.shape == (3, 14)
    said_nothing = load_model(case_file(tmp_path / "c.gguf", "llama")).generation_config
    assert said_nothing.get("bos_token_id") is said_nothing.get("eos_token_id") is None  # and not those of LlamaConfig


REFUSED = [
    ({"llama.expert_group_count": 8}, {}, r"llama\.expert_group_count"),
    ({"llama.pooling_type": 4}, {}, r"pooling_type is 4; supported: 0, 1, 2, 3"),
    ({"llama.block_count": None}, {}, r"no metadata 'llama\.block_count'; needed"),
    ({"llama.attention.head_count": "four"}, {}, r"'llama\.attention\.head_count' is 'four'; needed: one number"),
    (
        {"llama.feed_forward_length": [20, 24]},
        {},
        r"'llama\.feed_forward_length' is 'an array of 2 values'; needed: one",
    ),
    ({"llama.attention.value_length": 8}, {}, r"'llama\.attention\.value_length' is 8; needed: 4"),
    ({"llama.rope.dimension_count": 2}, {}, r"'llama\.rope\.dimension_count' is 2; needed: 4"),
    ({"llama.vocab_size": 41}, {}, r"'llama\.vocab_size' is 41; needed: 40"),
    ({"llama.rope.scaling.type": "su"}, {}, r"rope\.scaling\.type is 'su'; supported: none, linear, yarn"),
    ({"llama.rope.scaling.attn_factor": 0.5}, {}, r"'llama\.rope\.scaling\.attn_factor' is 0\.5; needed: 1"),
    ({"split.count": 3}, {}, r"is one of 3 files; needed: one file"),
    ({}, {"token_embd.weight": None}, r"no tensor 'token_embd\.weight' with two axes"),
    ({}, {"blk.0.attn_k.weight": None}, r"missing tensors: 'layers\.0\.self_attn\.k_proj\.weight'"),
    ({}, {"blk.0.ffn_gate_inp.weight": np.ones((2, 16), np.float32)}, r"does not use: 'blk\.0\.ffn_gate_inp\.weight'"),
    ({}, {"blk.0.attn_q.weight": np.ones((12, 16), np.float32)}, r"'blk\.0\.attn_q\.weight' has shape \(12, 16\)"),
    ({}, {"rope_freqs.weight": np.ones(3, np.float32)}, r"'rope_freqs\.weight' has shape \(3,\); needed: \(2,\)"),
]


@pytest.mark.parametrize(("metadata", "replaced", "said"), REFUSED, ids=[said[:40] for *_, said in REFUSED])
def test_refusals(tmp_path, metadata, replaced, said):
    path = case_file(tmp_path / "a.gguf", "llama", metadata, replaced)
    with pytest.raises(CheckpointError, match=said) as error:
        load_model(path)
    assert str(tmp_path / "a.gguf") in str(error.value)


def test_an_unknown_field_may_be_ignored(tmp_path):
    path = case_file(tmp_path / "a.gguf", "llama", {"llama.expert_group_count": 8})
    load_model(path, ignore_fields=["llama.expert_group_count"])


def test_unknown_architecture(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", "mamba", {}, {})
    with pytest.raises(CheckpointError, match="general.architecture is 'mamba'; supported: llama, qwen2, qwen3"):
        load_model(path)


def test_saved_as_a_folder(tmp_path):
    model = load_model(case_file(tmp_path / "a.gguf", "llama"))
    model.save_pretrained(tmp_path / "b")
    ids = inputs(40)[0]
    np.testing.assert_array_equal(load_model(tmp_path / "b")(ids).logits, model(ids).logits)


def test_a_folder_may_end_in_gguf(tmp_path):
    (tmp_path / "a.gguf").mkdir()
    write_json(tmp_path / "a.gguf" / "config.json", config("llama"))
    save_file(tensors("llama"), tmp_path / "a.gguf" / "model.safetensors")
    load_model(tmp_path / "a.gguf")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        load_model(tmp_path / "none.gguf")
