"""Folders whose weights are 8-bit integers: written, read, refused; and the command that makes them."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from decoder_cases import inputs, write
from model_folders import bert_tensors, write_bert, write_json, write_sentence_model
from support import assert_same_bits

from transformer_fast import SentenceEncoder, functional, load_model, nn, reference
from transformer_fast.cli import main
from transformer_fast.files.errors import CheckpointError

pytest.importorskip("safetensors")
IDS = np.array([[2, 5, 9, 3, 11, 7]])
GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
    "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {"group_0": GROUP},
    "ignore": [],
}
BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False, "llm_int8_threshold": 6.0}


def matrices(tensors: dict) -> list[str]:
    return [name for name, array in tensors.items() if array.ndim == 2 and "embed" not in name]


def compressed(tensors: dict, scale_shape=lambda n: (n, 1)) -> dict:
    """Each matrix as integers that no bound holds, as other programs make them."""
    found = dict(tensors)
    for name in matrices(tensors):
        integers, scale = reference.weight_integers(tensors[name], "int8_a16")
        found[name], found[f"{name}_scale"] = integers, scale.reshape(scale_shape(len(scale)))
    return found


def folder_of(path: Path, tensors: dict, settings: dict) -> Path:
    from safetensors.numpy import save_file

    folder = write_bert(path)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"quantization_config": settings})
    return folder


def changed(settings: dict, path: str, value) -> dict:
    settings = copy.deepcopy(settings)
    *parts, last = path.split(".")
    where = settings
    for part in parts:
        where = where[part]
    where[last] = value
    return settings


def formats(model) -> set[str]:
    return {module.packed().format for _, module in model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize("scale_shape", [lambda n: (n, 1), lambda n: (n,)], ids=["column", "vector"])
def test_compressed_tensors(tmp_path, scale_shape, isa):
    """The integers as they are; as floats the values that they stand for; in 16 bits nearly the same."""
    tensors = compressed(bert_tensors(), scale_shape)
    folder = folder_of(tmp_path / "a", tensors, COMPRESSED)
    values = {
        name: tensors[name] * tensors[f"{name}_scale"].reshape(-1, 1) if f"{name}_scale" in tensors else tensors[name]
        for name in bert_tensors()
    }
    expected = load_model(write_bert(tmp_path / "b", tensors=values))(IDS).last_hidden_state
    assert_same_bits(load_model(folder, compute_type="float32")(IDS).last_hidden_state, expected)
    model = load_model(folder)
    assert formats(model) == {"int8"}
    query = model.layers[0].attention.in_proj
    assert_same_bits(query.packed().unpack(), query.weight.dequantised())
    fine = load_model(folder, compute_type="int8_a16")(IDS).last_hidden_state
    np.testing.assert_allclose(fine, expected, rtol=0, atol=1e-3)
    assert np.abs(model(IDS).last_hidden_state - expected).mean() < 0.03
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_bits(same(IDS).last_hidden_state, model(IDS).last_hidden_state)


def test_what_the_activations_are(tmp_path):
    tensors = compressed(bert_tensors())
    weights_alone = changed(COMPRESSED, "config_groups.group_0.input_activations", None)
    weights_alone["sparsity_config"] = {"format": "dense", "global_sparsity": 0.1}
    weights_alone["config_groups"]["group_0"]["weights"] |= {"group_size": -1, "strategy": None}
    assert formats(load_model(folder_of(tmp_path / "a", tensors, weights_alone))) == {"int8_a16"}
    some = {name: array for name, array in tensors.items() if "layer.1." not in name}
    some |= {name: array for name, array in bert_tensors().items() if "layer.1." in name}
    model = load_model(folder_of(tmp_path / "b", some, COMPRESSED))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            assert module.packed().format == ("float32" if "layers.1." in name else "int8"), name


def test_bitsandbytes(tmp_path):
    tensors = dict(bert_tensors())
    for name in matrices(tensors):
        integers, scale = reference.weight_integers(tensors[name], "int8_a16")
        layer = name.removesuffix(".weight")
        tensors |= {name: integers, f"{layer}.SCB": scale * 127, f"{layer}.weight_format": np.array(0, np.uint8)}
    model = load_model(folder_of(tmp_path / "a", tensors, BITSANDBYTES))
    assert formats(model) == {"int8_a16"}
    expected = load_model(write_bert(tmp_path / "b"))(IDS).last_hidden_state
    assert np.abs(model(IDS).last_hidden_state - expected).mean() < 0.02
    tensors[next(name for name in tensors if name.endswith("weight_format"))] = np.array(2, np.uint8)
    with pytest.raises(CheckpointError, match="weight_format' is 2; needed: 0"):
        load_model(folder_of(tmp_path / "c", tensors, BITSANDBYTES))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            changed(COMPRESSED, "format", "float-quantized"),
            "quantization_config.format is 'float-quantized'; supported",
        ),
        (changed(COMPRESSED, "surprise", 1), "quantization_config has the field 'surprise', which is not known"),
        (changed(COMPRESSED, "config_groups", {}), "config_groups is {}; needed: groups"),
        (changed(COMPRESSED, "kv_cache_scheme", {"num_bits": 8}), "kv_cache_scheme is {'num_bits': 8}"),
        (changed(COMPRESSED, "sparsity_config", {"format": "sparse-24"}), "sparsity_config is .*; supported: format"),
        ({key: value for key, value in COMPRESSED.items() if key != "format"}, "has no field 'format'"),
        ({**COMPRESSED, "config_groups": {"g": GROUP | {"weights": {"num_bits": 8}}}}, "has no field 'type'"),
        (changed(COMPRESSED, "config_groups.group_0.weights.num_bits", 4), "weights.num_bits is 4; supported: 8"),
        (changed(COMPRESSED, "config_groups.group_0.weights.symmetric", False), "weights.symmetric is False"),
        (changed(COMPRESSED, "config_groups.group_0.weights.strategy", "group"), "weights.strategy is 'group'"),
        (changed(COMPRESSED, "config_groups.group_0.weights.type", "float"), "weights.type is 'float'"),
        (changed(COMPRESSED, "config_groups.group_0.input_activations.dynamic", False), "input_activations.dynamic is"),
        (changed(COMPRESSED, "config_groups.group_0.output_activations", {}), "output_activations is {}"),
        (changed(COMPRESSED, "config_groups.g", GROUP | {"input_activations": None}), "with and without input_activat"),
        (changed(BITSANDBYTES, "load_in_4bit", True), "load_in_4bit is True; supported: False"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            r"bitsandbytes with load_in_8bit None and load_in_4bit True \(nf4\); supported: load_in_8bit",
        ),
        ({"quant_method": "fp8"}, "quantization_config"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_are_refused(tmp_path, settings, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(folder_of(tmp_path, compressed(bert_tensors()), settings))


def test_tensors_that_are_refused(tmp_path):
    good = compressed(bert_tensors())
    name = matrices(bert_tensors())[0]
    rows = len(good[name])
    cases = [
        ({f"{name}_scale": np.ones((rows + 1, 1), np.float32)}, "has shape"),
        ({f"{name}_scale": np.full((rows, 1), np.nan, np.float32)}, "no scale"),
        ({f"{name}_scale": np.full((rows, 1), -1, np.float32)}, "no scale"),
        ({f"{name}_scale": np.ones((rows, 1), np.int32)}, "has type I32"),
        ({f"{name}_zero_point": np.ones((rows, 1), np.int8)}, "is not 0; needed: symmetric weights"),
        ({name: good[name].astype(np.float32)}, "is F32 of shape .*; needed: I8"),
        ({"stray.weight_zero_point": np.zeros((1, 1), np.int8)}, "is there without '.weight_scale'"),
        ({"stray.weight_scale": np.ones((1, 1), np.float32)}, "tensor 'stray.weight' is missing"),
    ]
    for i, (change, message) in enumerate(cases):
        with pytest.raises(CheckpointError, match=message):
            load_model(folder_of(tmp_path / str(i), good | change, COMPRESSED))
    without = {key: array for key, array in good.items() if key != f"{name}_scale"}
    with pytest.raises(CheckpointError, match="has type I8; needed"):
        load_model(folder_of(tmp_path / "without", without, COMPRESSED))


@pytest.mark.parametrize("compute_type", ["int8", "int8_a16"])
@pytest.mark.parametrize("case", ["llama", "gemma2", "bert"])
def test_saved_and_loaded(tmp_path, case, compute_type):
    """The integers of pack_weight without smoothing; written again they are the same; as floats, too."""
    folder = write_bert(tmp_path / "a") if case == "bert" else write(tmp_path / "a", case)
    ids = IDS if case == "bert" else inputs(40)[0]
    model = load_model(folder)
    model.save_pretrained(tmp_path / "b", compute_type=compute_type)
    config = json.loads((tmp_path / "b" / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    group = config["config_groups"]["group_0"]
    assert (group["input_activations"] is None) == (compute_type == "int8_a16")
    again = load_model(tmp_path / "b")
    for (name, one), (_, other) in zip(model.named_modules(), again.named_modules(), strict=True):
        if isinstance(one, nn.Linear) and other.packed().format != "float32":
            packed = functional.pack_weight(one.weight, format=compute_type)
            assert_same_bits(other.packed().unpack(), packed.unpack())
            assert other.packed().format == compute_type, name
    assert compute_type in formats(again)
    again.save_pretrained(tmp_path / "c", compute_type=compute_type)
    assert (tmp_path / "c" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    again.save_pretrained(tmp_path / "d")
    floats = load_model(tmp_path / "d")
    assert formats(floats) == {"float32"}
    found = [model(ids)[0] for model in (floats, load_model(tmp_path / "b", compute_type="float32"))]
    assert_same_bits(*found)


def test_tied_layers_and_kept_parts_stay_floats(tmp_path):
    model = load_model(write(tmp_path / "a", "gemma2"))
    assert model.config.tie_word_embeddings
    model.save_pretrained(tmp_path / "b", compute_type={"": "int8", "layers.1": "float32"})
    again = load_model(tmp_path / "b")
    assert again.lm_head.packed().format == "float32"
    assert {module.packed().format for module in (again.model.layers[1].up_proj, again.model.layers[0].up_proj)} == {
        "float32",
        "int8",
    }
    ignored = json.loads((tmp_path / "b" / "config.json").read_text(encoding="utf-8"))["quantization_config"]["ignore"]
    assert "model.layers.1.mlp.up_proj" in ignored and "model.layers.0.mlp.up_proj" not in ignored
    with pytest.raises(ValueError, match="compute_type asks for int8 and int8_a16 in one file"):
        model.save_pretrained(tmp_path / "c", compute_type={"": "int8", "layers.1": "int8_a16"})
    with pytest.raises(ValueError, match="compute_type is 'bfloat16'; needed: float32 or int8 or int8_a16"):
        model.save_pretrained(tmp_path / "c", compute_type="bfloat16")


def test_what_cannot_be_written(tmp_path):
    model = load_model(write(tmp_path / "a", "gpt2"))
    with pytest.raises(ValueError, match="compute_type is 'int8', but h.0.attn.c_attn.weight is stored transposed"):
        model.save_pretrained(tmp_path / "b", compute_type="int8")
    bert = load_model(write_bert(tmp_path / "c"))
    with pytest.raises(ValueError, match="there is no weight that would be written so"):
        bert.save_pretrained(tmp_path / "b", compute_type={"": "int8", "layers": "float32", "pooler": "float32"})
    assert not (tmp_path / "b").exists()


def test_integers_as_an_array():
    weight = functional.IntegerWeight(np.array([[1, -2], [3, 4]], np.int8), np.array([0.5, 2]))
    assert_same_bits(np.asarray(weight), np.array([[0.5, -1], [6, 8]], np.float32))
    assert np.asarray(weight, np.float64).dtype == np.float64 and (weight[1:].dequantised() == [[6, 8]]).all()
    table = nn.Embedding(2, 2)
    table.weight = weight
    assert_same_bits(table(np.array([1])), np.array([[6, 8]], np.float32))
    for integers, scale in ((np.ones((2, 2)), [1, 1]), (np.ones((2, 2), np.int8), [1]), (np.ones(2, np.int8), [1, 1])):
        with pytest.raises(ValueError, match="needed: int8"):
            functional.IntegerWeight(integers, scale)


def test_written_files_may_be_read_by_others(tmp_path):
    load_model(write_bert(tmp_path / "a")).save_pretrained(tmp_path / "b")
    modes = {path.stat().st_mode for path in (tmp_path / "b").iterdir()}
    assert len(modes) == 1


def test_the_command_and_a_model_in_a_folder_of_its_own(tmp_path, capsys):
    source = tmp_path / "a"
    write_sentence_model(source)
    (source / "0_Transformer").mkdir()
    for path in [*source.glob("*.safetensors"), *source.glob("tokenizer*.json"), source / "config.json"]:
        path.rename(source / "0_Transformer" / path.name)
    modules = json.loads((source / "modules.json").read_text(encoding="utf-8"))
    modules[0]["path"] = "0_Transformer"
    write_json(source / "modules.json", modules)
    assert main(["quantize", str(source), str(tmp_path / "new" / "b")]) == 0
    found = [{str(p.relative_to(f)) for p in f.rglob("*")} for f in (source, tmp_path / "new" / "b")]
    assert found[0] == found[1] and [path.name for path in (tmp_path / "new").iterdir()] == ["b"]
    assert SentenceEncoder.from_pretrained(tmp_path / "new" / "b").encode(["a b"]).shape[0] == 1
    assert main(["quantize", str(source), str(source / "b")]) == 2
    assert "lies in" in capsys.readouterr().err


def test_the_command(tmp_path, capsys):
    source = tmp_path / "a"
    write_sentence_model(source)
    assert main(["quantize", str(source), str(tmp_path / "b"), "--keep", "layers.1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes_after"] < told["bytes_before"]
    names = {path.name for path in source.iterdir()}
    assert names == {path.name for path in (tmp_path / "b").iterdir()}
    texts = ["a b c", "b"]
    before, after = (SentenceEncoder.from_pretrained(folder).encode(texts) for folder in (source, tmp_path / "b"))
    assert not np.array_equal(before, after) and np.abs(before - after).max() < 0.2 * np.abs(before).max()
    assert main(["quantize", str(source), str(tmp_path / "b")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["quantize", str(source), str(tmp_path / "c"), "--keep", "nothing"]) == 1
    assert "compute_type names 'nothing'" in capsys.readouterr().err
    assert main(["quantize", str(tmp_path / "none"), str(tmp_path / "d")]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}, "nothing is left half done"
