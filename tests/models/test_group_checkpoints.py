"""Folders of GPTQ, AWQ and compressed-tensors ("pack-quantized"): the values of the formula, and refusals by name."""

from __future__ import annotations

import copy
import functools
import pickle
import tracemalloc

import group_files
import numpy as np
import pytest
from decoder_cases import LLAMA, inputs
from gguf_files import tensors_of_llama
from model_folders import write_json
from support import normal

from transformer_fast import functional as F
from transformer_fast import load_model
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.common import group_weight
from transformer_fast.models.common.quantised import read_integers

save_file = pytest.importorskip("safetensors.numpy").save_file

# The width of words: 32 numbers of 3 bits are 3 words.
CONFIG = {**LLAMA, "hidden_size": 32, "intermediate_size": 64, "architectures": ["LlamaForCausalLM"]}


def write(folder, tensors, settings):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", CONFIG | ({"quantization_config": settings} if settings else {}))
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "model.safetensors")
    return folder


@functools.cache
def made(form):
    """(tensors, values, settings) of a form; to be copied."""
    make, options, settings = FORMS[form]
    return *quantised(make, **options), settings


def quantised(make, bits=4, group_size=8, ordered=False, symmetric=False, **options):
    """(tensors of a folder, the values that they stand for)."""
    rng, stored, expected = np.random.default_rng(0), {}, {}
    for name, array in tensors_of_llama(CONFIG).items():
        stored[name] = expected[name] = array
        if "_proj" in name:
            layer = group_files.layer(rng, array.shape, bits, group_size, ordered, symmetric)
            del stored[name]
            stored |= make(name.removesuffix(".weight"), *layer, bits=bits, **options)
            expected[name] = group_files.values(*layer)
    return stored, expected


GPTQ, AWQ = group_files.GPTQ, group_files.AWQ
FORMS = {
    **{f"gptq_{bits}": (group_files.gptq, {"bits": bits}, GPTQ | {"bits": bits}) for bits in (2, 3, 4, 8)},
    "gptq_rows": (group_files.gptq, {"group_size": None}, GPTQ | {"group_size": -1}),
    "gptq_order": (group_files.gptq, {"ordered": True}, GPTQ | {"desc_act": True}),
    "gptq_v2": (group_files.gptq, {"version": 2}, GPTQ | {"checkpoint_format": "gptq_v2"}),
    "awq": (group_files.awq, {}, AWQ),
    "awq_rows": (group_files.awq, {"group_size": None}, AWQ | {"group_size": -1, "version": "GEMM"}),
    **{
        f"compressed_{bits}": (group_files.compressed, {"bits": bits}, group_files.compressed_settings(bits))
        for bits in (2, 3, 4, 8)
    },
    "compressed_symmetric": (
        lambda *layer, **options: group_files.compressed(*layer, symmetric=True, **options),
        {"symmetric": True},
        group_files.compressed_settings(symmetric=True),
    ),
    "compressed_channel": (
        group_files.compressed,
        {"group_size": None},
        group_files.compressed_settings(group_size=None, strategy="channel"),
    ),
    "compressed_order": (
        lambda *layer, **options: group_files.compressed(*layer, ordered=True, **options),
        {"ordered": True},
        group_files.compressed_settings(actorder="group"),
    ),
    "compressed_uneven": (group_files.compressed, {"group_size": 24}, group_files.compressed_settings(group_size=24)),
}


@pytest.mark.parametrize("form", FORMS)
def test_values(tmp_path, form):
    """Each weight is the formula's to the bit: a product of 11 bits and 9 fits into float32."""
    stored, expected, settings = made(form)
    checkpoint, format = read_integers(Checkpoint.open(write(tmp_path, stored, settings)))
    assert format == "float32" and "quantization_config" not in checkpoint.config
    assert checkpoint.tensors.keys() == expected.keys()
    for name, values in expected.items():
        got = np.asarray(checkpoint.tensors[name].floating())
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("form", ["gptq_order", "awq", "compressed_4"])
@pytest.mark.parametrize("compute_type", ["auto", "int8"])
def test_models(tmp_path, form, compute_type):
    stored, expected, settings = made(form)
    model = load_model(write(tmp_path / "a", stored, settings), compute_type=compute_type)
    floats = {name: array.astype(np.float32) for name, array in expected.items()}
    folder = load_model(write(tmp_path / "b", floats, None), compute_type=compute_type)
    ids = inputs(40)[0]
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)
    model.save_pretrained(tmp_path / "c")
    if compute_type == "auto":
        np.testing.assert_array_equal(load_model(tmp_path / "c")(ids).logits, folder(ids).logits)


def test_one_scale_for_a_matrix(tmp_path):
    stored, _ = quantised(FORMS["compressed_symmetric"][0], symmetric=True, group_size=None)
    name = "model.layers.0.self_attn.q_proj.weight_scale"
    column = stored[name].copy()
    for layer in [n for n in stored if n.endswith("weight_scale")]:
        stored[layer] = stored[layer][:1, 0]
    settings = group_files.compressed_settings(symmetric=True, group_size=None, strategy="tensor")
    checkpoint, _ = read_integers(Checkpoint.open(write(tmp_path, stored, settings)))
    got = checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"].floating()
    other = quantised(FORMS["compressed_symmetric"][0], symmetric=True, group_size=None)[1]
    expected = other["model.layers.0.self_attn.q_proj.weight"] / column.astype(np.float64) * np.float64(column[0, 0])
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-12)


@pytest.mark.parametrize("form", ["gptq_3", "awq", "compressed_3"])
@pytest.mark.parametrize("together", [1, 5 * 32, 1 << 20])
def test_parts_of_a_tensor(tmp_path, monkeypatch, form, together):
    """However few rows are computed at a time: one, 5, all."""
    stored, expected, settings = made(form)
    checkpoint, _ = read_integers(Checkpoint.open(write(tmp_path, stored, settings)))
    monkeypatch.setattr(group_weight, "_TOGETHER", together)
    name = "model.layers.1.self_attn.q_proj.weight"
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors[name].floating()), expected[name])


@pytest.mark.parametrize("form", ["gptq_4", "awq", "compressed_4", "gptq_3"])
@pytest.mark.parametrize("format", ["blocks", "float32", "int8"])
def test_memory(tmp_path, form, format):
    """Packing takes temporaries of some MB beside the packed weight, however large it is; loading takes nothing."""
    make, options, settings = FORMS[form]
    integers, zeros, scales, groups = group_files.layer(
        np.random.default_rng(0), (256, 512), options.get("bits", 4), 128
    )
    many = (np.tile(integers, (32, 4)), np.tile(zeros, (32, 4)), np.tile(scales, (32, 4)))  # groups of 128 columns
    stored = make("a", *many, np.arange(2048, dtype=np.int32) // 128, bits=options.get("bits", 4))
    settings = copy.deepcopy(settings)
    where = settings["config_groups"]["group_0"]["weights"] if "config_groups" in settings else settings
    where["group_size"] = 128
    folder = write(tmp_path, stored, settings)
    tracemalloc.start()
    try:
        checkpoint, _ = read_integers(Checkpoint.open(folder))
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
        weight = checkpoint.tensors["a.weight"].floating()
        packed = F.pack_weight(weight, format=format)
        assert tracemalloc.get_traced_memory()[1] < 24 * group_weight._TOGETHER < 2 * packed.shape[0] * packed.shape[1]
    finally:
        tracemalloc.stop()
    values = group_files.values(*many, np.arange(2048) // 128)
    if format == "int8":
        np.testing.assert_array_equal(packed.unpack(), F.pack_weight(values.astype(np.float32), format=format).unpack())
    else:
        np.testing.assert_array_equal(packed.unpack(), values)
        assert packed.format == ("Q4_Z" if format == "blocks" and "3" not in form else "float32")


# --- kept in 4 bits ---------------------------------------------------------------------------------------------------


def matrix_of(tmp_path, make, settings, size, change=None, shape=(48, 192), **options):
    """(weight, its values) of one layer in groups of `size` columns."""
    layer = list(group_files.layer(np.random.default_rng(1), shape, group_size=size, **options))
    if change:
        change(layer)
    settings = copy.deepcopy(settings)
    where = settings["config_groups"]["group_0"]["weights"] if "config_groups" in settings else settings
    where["group_size"] = -1 if size is None else size
    if size is None and where is not settings:
        where["strategy"] = "channel"
    folder = write(tmp_path, make("a", *layer), settings)
    return read_integers(Checkpoint.open(folder))[0].tensors["a.weight"].floating(), group_files.values(*layer)


def small_scales(layer):
    layer[2] = layer[2].astype(np.float32) * np.float32(2.0**-20)  # beyond float16's steps


def float32_scales(layer):
    layer[2] = layer[2].astype(np.float32)


def groups_backwards(layer):
    layer[3] = layer[3][::-1].copy()


def swapped_columns(layer):
    layer[3][[0, 100]] = layer[3][[100, 0]]


COMPRESSED, SYMMETRIC = (group_files.compressed_settings(symmetric=symmetric) for symmetric in (False, True))
KEPT = {
    "gptq_32": ("Q4_Z", group_files.gptq, GPTQ, 32, None, {}),
    "gptq_64": ("Q4_Z", group_files.gptq, GPTQ, 64, None, {}),
    "gptq_rows": ("Q4_Z", group_files.gptq, GPTQ, None, None, {}),
    "gptq_symmetric": ("Q4_0", group_files.gptq, GPTQ, 32, None, {"symmetric": True}),
    "gptq_sorted": ("Q4_Z", group_files.gptq, GPTQ | {"desc_act": True}, 32, groups_backwards, {}),
    "gptq_order": (None, group_files.gptq, GPTQ | {"desc_act": True}, 32, None, {"ordered": True}),
    "gptq_swapped": (None, group_files.gptq, GPTQ | {"desc_act": True}, 32, swapped_columns, {}),
    "gptq_16": (None, group_files.gptq, GPTQ, 16, None, {}),
    "awq_96": ("Q4_Z", group_files.awq, AWQ, 96, None, {}),
    "compressed_128": ("Q4_Z", group_files.compressed, COMPRESSED, 128, None, {}),
    "compressed_rows": ("Q4_Z", group_files.compressed, COMPRESSED, None, None, {}),
    "compressed_float32": ("Q4_Z", group_files.compressed, COMPRESSED, 64, float32_scales, {}),
    "compressed_small": (None, group_files.compressed, COMPRESSED, 64, small_scales, {}),
    "compressed_symmetric": (
        "Q4_0",
        lambda *layer: group_files.compressed(*layer, symmetric=True),
        SYMMETRIC,
        64,
        None,
        {"symmetric": True},
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_kept(tmp_path, case):
    """Blocks of 32 columns with a scale and a zero have the file's values, to the bit, or there are none."""
    format, *made_of, options = KEPT[case]
    weight, values = matrix_of(tmp_path, *made_of, shape=(96, 192), **options)
    assert weight.format == format and weight.shape == values.shape
    packed = F.pack_weight(weight, format="blocks")
    assert packed.format == (format or "float32")
    assert packed.nbytes * 8 <= values.size * (32 if format is None else 5)
    np.testing.assert_array_equal(packed.unpack(), values)
    if format:
        np.testing.assert_array_equal(F.BlockWeight(format, weight.blocks).dequantised(), values)
    np.testing.assert_array_equal(F.pack_weight(weight, format="float32").unpack(), values)


def test_rows_of_a_weight(tmp_path):
    """Slices, other orders, several weights as one, and copies by pickle."""
    one, values = matrix_of(tmp_path / "a", group_files.awq, AWQ, 32)
    other, more = matrix_of(tmp_path / "b", group_files.gptq, GPTQ, 64, symmetric=True)
    both, all_values = one.joined([other, one[5:7]]), np.concatenate([values, more, values[5:7]])
    assert (both.format, both.shape) == ("Q4_Z", all_values.shape)
    orders = [slice(None), slice(3, 50), slice(40, 60, 3), slice(0, 0), np.array([97, 0, 60, 1, 61]), slice(96, 98)]
    for order in orders:
        for weight, expected in ((both, all_values), (pickle.loads(pickle.dumps(both)), all_values)):
            np.testing.assert_array_equal(weight[order].dequantised(), expected[order])
            if len(expected[order]):
                np.testing.assert_array_equal(F.pack_weight(weight[order], format="blocks").unpack(), expected[order])
    assert one.joined([values]) is None
    parts = F.pack_weight([one, normal(5, 192), other], format="blocks")
    assert parts.format == "Q4_Z+float32+Q4_0"
    np.testing.assert_array_equal(parts.unpack(), np.concatenate([values, normal(5, 192), more]))


@pytest.mark.parametrize("form", ["gptq_4", "awq", "compressed_4", "compressed_symmetric"])
def test_models_in_4_bits(tmp_path, form):
    """ "auto" keeps the codes: products round x to 16 bits, and nothing else differs from the values in float32."""
    make, options, settings = FORMS[form]
    stored, expected = quantised(make, **options | {"group_size": 32})
    settings = copy.deepcopy(settings)
    where = settings["config_groups"]["group_0"]["weights"] if "config_groups" in settings else settings
    where["group_size"] = 32
    model = load_model(write(tmp_path / "a", stored, settings))
    floats = {name: array.astype(np.float32) for name, array in expected.items()}
    folder, ids = load_model(write(tmp_path / "b", floats, None)), inputs(40)[0]
    format = "Q4_0" if "symmetric" in form else "Q4_Z"
    state = model.state_dict()
    kept = [name for name, weight in state.items() if getattr(weight, "format", None) == format]
    assert len(kept) == 2 * 7
    for name in kept:
        np.testing.assert_array_equal(np.asarray(state[name]), folder.state_dict()[name])
    exact, got = folder(ids).logits, model(ids).logits
    assert 0 < np.abs(got - exact).max() < 1e-3 * np.abs(exact).max()
    wide, coarse = (load_model(tmp_path / "a", compute_type=name) for name in ("float32", "auto_a8"))
    np.testing.assert_array_equal(wide(ids).logits, exact)
    assert coarse.model.layers[0].up_proj.packed().format == f"{format}_a8"
    errors = [np.linalg.norm(logits - exact) / np.linalg.norm(exact) for logits in (got, coarse(ids).logits)]
    assert 20 * errors[0] < errors[1] < 0.05
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(same(ids).logits, got)
    model.save_pretrained(tmp_path / "c")
    np.testing.assert_array_equal(load_model(tmp_path / "c")(ids).logits, exact)


def test_8_bit_activations_need_blocks(tmp_path):
    stored, _, settings = made("gptq_8")
    said = "compute_type is 'auto_a8', which is for weights in blocks"
    with pytest.raises(ValueError, match=said):
        load_model(write(tmp_path, stored, settings), compute_type="auto_a8")
    with pytest.raises(ValueError, match=said):
        load_model(tmp_path).save_pretrained(tmp_path / "b", compute_type="auto_a8")


# --- what is refused --------------------------------------------------------------------------------------------------

Q = "model.layers.0.self_attn.q_proj"


def changed(settings, path, value):
    found = copy.deepcopy(settings)
    *parts, last = path.split(".")
    where = found
    for part in parts:
        where = where[part]
    where[last] = value
    return found


SETTINGS = [
    ("gptq_4", GPTQ | {"bits": 5}, "quantization_config.bits is 5; supported: 2, 3, 4, 8"),
    ("gptq_4", GPTQ | {"surprise": 1}, "quantization_config has the field 'surprise', which is not known"),
    ("gptq_4", GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; supported: 'gptq', 'gptq_v2'"),
    ("gptq_4", GPTQ | {"dynamic": {"-:a": {}}}, "dynamic is .*; supported: None, {}"),
    ("gptq_4", GPTQ | {"group_size": 0}, "quantization_config.group_size is 0; needed: an integer >= 1, or -1"),
    ("gptq_4", {k: v for k, v in GPTQ.items() if k != "bits"}, "quantization_config has no field 'bits'"),
    ("awq", AWQ | {"bits": 8}, "quantization_config.bits is 8; supported: 4"),
    ("awq", AWQ | {"version": "gemv"}, "quantization_config.version is 'gemv'; supported: 'gemm', 'GEMM'"),
    ("awq", AWQ | {"zero_point": False}, "quantization_config.zero_point is False; supported: True"),
    ("awq", AWQ | {"backend": "llm-awq"}, "quantization_config.backend is 'llm-awq'; supported"),
    ("awq", {k: v for k, v in AWQ.items() if k != "version"}, "quantization_config has no field 'version'"),
    (
        "awq",
        AWQ | {"modules_to_not_convert": "lm_head"},
        "modules_to_not_convert is 'lm_head'; needed: a list of names",
    ),
    (
        "awq",
        AWQ | {"modules_to_not_convert": ["q_proj"]},
        rf"tensor '{Q}\.qweight', and .* lists '{Q}' among the layers",
    ),
    ("awq", GPTQ, r"_proj\.(scales|qzeros)' (has shape|is I32)"),
    ("compressed_4", changed(COMPRESSED, "ignore", [Q]), rf"'{Q}\.weight_packed', and .* lists '{Q}' among the layers"),
    ("compressed_4", changed(COMPRESSED, "ignore", ["re:.*q_pr"]), rf"lists '{Q}' among the layers that are not"),
    ("compressed_4", changed(COMPRESSED, "ignore", ["re:("]), r"quantization_config.ignore holds 're:\('"),
    ("compressed_4", changed(COMPRESSED, "config_groups.group_0.weights.num_bits", 6), "num_bits is 6; supported"),
    ("compressed_4", changed(COMPRESSED, "config_groups.group_0.weights.type", "float"), "type is 'float'; supported"),
    ("compressed_4", changed(COMPRESSED, "config_groups.group_0.weights.strategy", "block"), "strategy is 'block'"),
    ("compressed_4", changed(COMPRESSED, "config_groups.group_0.weights.group_size", None), "group_size None; needed"),
    ("compressed_4", changed(COMPRESSED, "config_groups.group_0.input_activations", {}), "input_activations is {}"),
    ("compressed_4", changed(COMPRESSED, "config_groups", {}), "config_groups is {}; needed: groups by name"),
    ("compressed_4", changed(COMPRESSED, "config_groups.group_0.weights", 3), "group_0.weights is 3; needed: settings"),
    (
        "compressed_4",
        changed(COMPRESSED, "config_groups.g", group_files.compressed_settings(8)["config_groups"]["group_0"]),
        "config_groups differ in num_bits; needed: the same",
    ),
    (
        "compressed_4",
        changed(COMPRESSED, "quantization_status", "frozen"),
        "quantization_status is 'frozen'; supported",
    ),
    ("compressed_4", group_files.compressed_settings(symmetric=True), r"_proj\.weight_zero_point' is not 0"),
    (
        "compressed_4",
        group_files.compressed_settings(group_size=16),
        r"has shape \(\d+, \d\); needed: \(\d+, \d\), a scale",
    ),
    ("compressed_4", group_files.compressed_settings(actorder="group"), r"there without '.*_proj\.weight_g_idx'"),
    ("compressed_4", GPTQ, r"config.json: quantization_config is given, and no tensor ends in '\.qweight'"),
]


@pytest.mark.parametrize(("form", "settings", "said"), SETTINGS, ids=[s[-1][:44] for s in SETTINGS])
def test_settings_that_are_refused(tmp_path, form, settings, said):
    with pytest.raises(CheckpointError, match=said) as error:
        load_model(write(tmp_path, made(form)[0], settings))
    assert str(tmp_path) in str(error.value)


TENSORS = [
    ("gptq_4", {"qzeros": None}, rf"tensor '{Q}\.qweight' is there without '{Q}\.qzeros'"),
    ("gptq_4", {"qweight": None}, rf"tensor '{Q}\.(qzeros|scales|g_idx)' is there without '{Q}\.qweight'"),
    ("gptq_order", {"g_idx": None}, rf"tensor '{Q}\.qweight' is there without '{Q}\.g_idx'"),
    (
        "gptq_4",
        {"weight": np.ones((32, 32), np.float32)},
        rf"has tensors '{Q}\.qweight' and '{Q}\.weight'; needed: one",
    ),
    ("gptq_4", {"qweight": np.ones((4, 32), np.int64)}, rf"'{Q}\.qweight' is I64 \(4, 32\); needed: I32"),
    ("gptq_4", {"qweight": np.ones(4, np.int32)}, rf"'{Q}\.qweight' is I32 \(4,\); needed: I32 \(K \* bits / 32, N\)"),
    ("gptq_4", {"qweight": np.ones((8, 32), np.int32)}, rf"'{Q}\.scales' has shape \(4, 32\); needed: \(8, 32\)"),
    ("gptq_4", {"qzeros": np.ones((4, 3), np.int32)}, rf"'{Q}\.qzeros' is I32 \(4, 3\); needed: I32 \(4, 4\)"),
    ("gptq_4", {"scales": np.ones((4, 31), np.float16)}, rf"'{Q}\.scales' has shape \(4, 31\); needed: \(4, 32\)"),
    ("gptq_4", {"scales": np.full((4, 32), np.nan, np.float16)}, rf"'{Q}\.scales' holds NaN or infinity"),
    ("gptq_4", {"scales": np.ones((4, 32), np.int8)}, rf"'{Q}\.scales' has type I8; needed: one of F64"),
    ("gptq_4", {"g_idx": np.full(32, 4, np.int32)}, rf"'{Q}\.g_idx' holds 4 to 4; needed: 0 to 3"),
    ("gptq_4", {"g_idx": np.full(32, -1, np.int32)}, rf"'{Q}\.g_idx' holds -1 to -1; needed: 0 to 3"),
    ("gptq_4", {"g_idx": np.zeros(31, np.int32)}, rf"'{Q}\.g_idx' is I32 \(31,\); needed: I32 \(32,\)"),
    ("awq", {"qzeros": np.ones((4, 3), np.int32)}, rf"'{Q}\.qzeros' is I32 \(4, 3\); needed: I32 \(4, 4\)"),
    ("compressed_4", {"weight_shape": np.array([32, 40])}, rf"'{Q}\.weight_shape' is \[32, 40\], and .*; needed"),
    ("compressed_4", {"weight_shape": np.array([32, -1])}, rf"'{Q}\.weight_shape' is \[32, -1\], and"),
    ("compressed_4", {"weight_shape": np.array([32.0, 32])}, rf"'{Q}\.weight_shape' is F64 \(2,\); needed: I64"),
    ("compressed_4", {"weight_zero_point": None}, rf"'{Q}\.weight_packed' is there without '{Q}\.weight_zero_point'"),
    ("compressed_4", {"weight_zero_point": np.ones((4, 5), np.int32)}, r"is I32 \(4, 5\); needed: I32 \(4, 4\)"),
    ("compressed_4", {"weight_scale": np.ones((1, 4), np.float16)}, r"has shape \(1, 4\); needed: \(32, 4\), a scale"),
    (
        "awq",
        {
            "qweight": np.ones((32, 8), np.int32),
            "qzeros": np.ones((4, 8), np.int32),
            "scales": np.ones((4, 64), np.float16),
        },
        rf"'{Q}\.qweight' has shape \(64, 32\); needed by config\.json: \(32, 32\)",
    ),
]


@pytest.mark.parametrize(("form", "replaced", "said"), TENSORS, ids=[t[-1][:50] for t in TENSORS])
def test_tensors_that_are_refused(tmp_path, form, replaced, said):
    tensors, settings = dict(made(form)[0]), made(form)[2]
    for part, array in replaced.items():
        tensors.pop(f"{Q}.{part}", None)
        if array is not None:
            tensors[f"{Q}.{part}"] = array
    with pytest.raises(CheckpointError, match=said) as error:
        load_model(write(tmp_path, tensors, settings))
    assert str(tmp_path / "model.safetensors") in str(error.value)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("form", ["gptq_order", "awq", "compressed_4"])
def test_mutated_tensors(tmp_path, form):
    """Whatever types and shapes a layer's tensors have: an error that names the file, or a model."""
    (tensors, _, settings), rng, refused = made(form), np.random.default_rng(0), 0
    names = [name for name in tensors if name.startswith(f"{Q}.")]
    types = (np.int32, np.int64, np.int8, np.float16, np.float32)
    for _ in range(60):
        some = dict(tensors)
        for name in rng.choice(names, rng.integers(1, 3), replace=False):
            array = some.pop(name)
            choice = rng.integers(4)
            if choice == 0:
                array = array.astype(types[rng.integers(len(types))])
            elif choice == 1:
                array = array[: rng.integers(len(array) + 1)]
            elif choice == 2:
                array = rng.integers(-(2**31), 2**31, array.shape).astype(array.dtype)
            if choice < 3:
                some[name] = array
        try:
            checkpoint, _ = read_integers(Checkpoint.open(write(tmp_path, some, settings)))
            checkpoint.tensors[f"{Q}.weight"].array()
        except KeyError:
            assert not any(name in some for name in names)
        except CheckpointError as error:
            assert str(tmp_path) in str(error)
            refused += 1
    assert 10 < refused < 60
