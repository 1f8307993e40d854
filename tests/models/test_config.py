"""models/config.py through BERT's Config: defaults, types, ranges, and options that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_folders import TINY_BERT

from transformer_fast.checkpoint import CheckpointError
from transformer_fast.models.bert import BertConfig, BertModel
from transformer_fast.models.config import read_config

SOURCE = Path("model/config.json")


def read(**changes):
    return read_config(BertConfig, {**TINY_BERT, **changes}, SOURCE, BertModel.neutral)


def test_fields_and_defaults():
    assert read().hidden_size == 24 and read(layer_norm_eps=0).layer_norm_eps == 0
    short = {k: v for k, v in TINY_BERT.items() if k not in ("type_vocab_size", "hidden_act", "layer_norm_eps")}
    config = read_config(BertConfig, short, SOURCE, BertModel.neutral)
    assert (config.type_vocab_size, config.hidden_act, config.layer_norm_eps) == (2, "gelu", 1e-12)
    assert read(use_cache=True, hidden_dropout_prob=0.1, is_decoder=False, pruned_heads={}) == read()


@pytest.mark.parametrize(
    "changes",
    [
        *({"hidden_size": value} for value in (0, -24, 24.0, "24", True, None, [24], 2**31, 10**30)),
        {"num_hidden_layers": 0},
        {"vocab_size": 10**18},
        *({"layer_norm_eps": value} for value in (-1.0, float("inf"), "1e-5", None)),
        *({"hidden_act": value} for value in ("mish", "", 3, None, ["gelu"])),
        {"position_embedding_type": "relative_key"},
        {"position_embedding_type": "relative_key_query"},
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 8}},
        {"num_attention_heads": 5},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    (name,) = changes
    with pytest.raises(CheckpointError, match=rf"^model/config\.json: .*{name}.*(needed|supported):"):
        read(**changes)


def test_missing_fields():
    with pytest.raises(CheckpointError, match="missing fields: vocab_size, hidden_size"):
        read_config(BertConfig, {"num_hidden_layers": 2}, SOURCE, BertModel.neutral)


def test_a_config_made_by_hand_is_checked_too():
    with pytest.raises(ValueError, match="num_attention_heads is 0"):
        BertConfig(10, 8, 1, 0, 16, 32)
