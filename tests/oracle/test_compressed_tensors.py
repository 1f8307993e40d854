"""Folders of integers next to transformers with compressed-tensors, which decompresses what we have written."""

from __future__ import annotations

import decoder_cases
import numpy as np
import pytest
from model_folders import write_bert

from transformer_fast import load_model

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
