"""models/qwen2.py and models/qwen3.py against transformers' own numbers; their windows and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import check_golden, inputs, write

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.qwen2 import Qwen2Config

pytest.importorskip("safetensors")


@pytest.mark.parametrize("case", ["qwen2", "qwen2_windows", "qwen3"])
def test_golden_numbers_of_transformers(isa, tmp_path, case):
    check_golden(tmp_path, case)


def test_which_layers_have_a_window():
    small = {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}

    def windows(**fields):
        config = Qwen2Config(**small, **fields)
        return [config.block(i).window for i in range(3)]

    assert windows(sliding_window=5) == [None] * 3
    assert windows(sliding_window=5, use_sliding_window=True) == [None] * 3  # max_window_layers is 28
    assert windows(sliding_window=5, use_sliding_window=True, max_window_layers=0) == [5] * 3
    types = ["full_attention", "sliding_attention", "full_attention"]
    assert windows(sliding_window=5, use_sliding_window=True, layer_types=types) == [None, 5, None]


def test_biases_belong_to_query_key_and_value(tmp_path):
    ids = inputs(40)[0]
    model = load_model(write(tmp_path / "a", "qwen2"))
    sizes = {"q": 16, "k": 8, "v": 8}
    zero = {f"model.layers.0.self_attn.{part}_proj.bias": np.zeros(n, np.float32) for part, n in sizes.items()}
    without = load_model(write(tmp_path / "b", "qwen2", replaced=zero))
    assert np.abs(model(ids).logits - without(ids).logits).max() > 1e-3


@pytest.mark.parametrize(
    "case, changes, text",
    [
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types is"),
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types is"),
        ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window is 'yes'"),
        ("qwen2", {"max_window_layers": -1}, "max_window_layers is -1"),
        ("qwen2", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("qwen3", {"attention_bias": True}, r"missing tensors: 'layers\.0\.self_attn\.q_proj\.bias'"),
        ("qwen3", {"head_dim": 7}, "head_dim is 7; needed: an even number"),
        ("qwen3", {"model_type": "qwen3_next"}, "model_type is 'qwen3_next'; supported"),
    ],
    ids=str,
)
def test_refusals(tmp_path, case, changes, text):
    with pytest.raises(CheckpointError, match=text):
        load_model(write(tmp_path, case, changes))
