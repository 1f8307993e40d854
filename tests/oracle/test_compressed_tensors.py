"""Folders of integers next to transformers with compressed-tensors, which decompresses what we have written."""

from __future__ import annotations

import decoder_cases
import group_files
import numpy as np
import pytest
from gguf_files import tensors_of_llama
from model_folders import write_bert, write_json

from transformer_fast import load_model
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.models.common.quantised import read_integers

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore:You passed `quantization_config`")]


@pytest.fixture(scope="module")
def transformers():
    for package in ("torch", "compressed_tensors", "accelerate"):
        pytest.importorskip(package)
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("case", ["bert", "llama", "qwen3"])
@pytest.mark.parametrize("compute_type", ["int8", "int8_a16"])
def test_what_we_write(transformers, tmp_path, case, compute_type):
    """Their parameters after decompression are the values that we read."""
    from safetensors.numpy import load_file

    source = tmp_path / "a"
    model = load_model(write_bert(source) if case == "bert" else decoder_cases.write(source, case))
    model.save_pretrained(tmp_path / "b", compute_type=compute_type)
    config = transformers.CompressedTensorsConfig(dequantize=True)
    theirs = getattr(transformers, type(model).__name__).from_pretrained(tmp_path / "b", quantization_config=config)
    found = {name: tensor.detach().float().numpy() for name, tensor in theirs.state_dict().items()}
    load_model(tmp_path / "b", compute_type="float32").save_pretrained(tmp_path / "c")
    values = load_file(tmp_path / "c" / "model.safetensors")
    stored = load_file(tmp_path / "b" / "model.safetensors")
    integers = [name for name, array in stored.items() if array.dtype == np.int8]
    assert len(integers) >= 12
    for name in integers:
        own = next(array for other, array in found.items() if other.endswith(name) or name.endswith(other))
        np.testing.assert_array_equal(own, values[name], err_msg=name)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups(transformers, tmp_path, bits, symmetric):
    """Weights packed in groups, as our tests write them: their values after decompression are ours to the bit."""
    from safetensors.numpy import save_file

    config = {**decoder_cases.LLAMA, "hidden_size": 32, "intermediate_size": 64, "architectures": ["LlamaForCausalLM"]}
    config["quantization_config"] = group_files.compressed_settings(bits, symmetric=symmetric)
    tensors, rng = tensors_of_llama(config), np.random.default_rng(0)
    for name in [name for name in tensors if "_proj" in name]:
        integers, zeros, scales, groups = group_files.layer(rng, tensors.pop(name).shape, bits, 8, symmetric=symmetric)
        parts = (integers, zeros, scales.astype(np.float32), groups)
        tensors |= group_files.compressed(name.removesuffix(".weight"), *parts, bits=bits, symmetric=symmetric)
    write_json(tmp_path / "config.json", config)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    dequantize = transformers.CompressedTensorsConfig(dequantize=True)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=dequantize)
    found = {name: tensor.detach().float().numpy() for name, tensor in theirs.state_dict().items()}
    checkpoint, _ = read_integers(Checkpoint.open(tmp_path))
    names = [name for name in checkpoint.tensors if "_proj" in name]
    assert len(names) == 14
    for name in names:
        np.testing.assert_array_equal(checkpoint.tensors[name].floating(), found[name], err_msg=name)
