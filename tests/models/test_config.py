"""models/common/config.py through BERT's Config: defaults, types, ranges, and options that are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from model_folders import TINY_BERT

from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.bert import BertConfig, BertModel
from transformer_fast.models.common.config import Index, Number, check_fields, read_config

SOURCE = Path("model/config.json")


def read(**changes):
    return read_config(BertConfig, {**TINY_BERT, **changes}, SOURCE, BertModel.neutral)


def test_fields_and_defaults():
    assert read().hidden_size == 24 and read(layer_norm_eps=0).layer_norm_eps == 0
    short = {k: v for k, v in TINY_BERT.items() if k not in ("type_vocab_size", "hidden_act", "layer_norm_eps")}
    config = read_config(BertConfig, short, SOURCE, BertModel.neutral)
    assert (config.type_vocab_size, config.hidden_act, config.layer_norm_eps) == (2, "gelu", 1e-12)
    assert (
        read(use_cache=True, chunk_size_feed_forward=2, hidden_dropout_prob=0.1, is_decoder=False, pruned_heads={})
        == read()
    )


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
        {"tie_word_embeddings": None},
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


@dataclasses.dataclass(frozen=True)
class Every:
    """A field of every kind."""

    size: int = 1
    number: Index = 0
    epsilon: float = 0.0
    offset: Number = 0.0
    flag: bool = False
    name: str = ""
    table: dict = dataclasses.field(default_factory=dict)
    maybe: int | None = None
    ends: Index | list[Index] | None = None
    kinds: list[str] | None = None
    inner: BertConfig | None = None

    def __post_init__(self) -> None:
        check_fields(self)


GOOD = [
    {"number": 0, "offset": -1.5, "flag": True, "name": "x", "table": {"a": 1}},
    {"maybe": 3, "ends": [0, 2], "kinds": ["a"], "inner": BertConfig(10, 8, 1, 2, 16, 12), "offset": 1},
    {"ends": 7, "kinds": [], "maybe": None},
]


@pytest.mark.parametrize("fields", GOOD, ids=str)
def test_fields_of_every_kind(fields):
    config = read_config(Every, {**fields, "unknown": 1}, SOURCE, {})
    assert all(getattr(config, name) == value for name, value in fields.items())


@pytest.mark.parametrize(
    "field, value, needed",
    [
        ("size", 0, "an integer from 1"),
        ("number", -1, "an integer from 0"),
        ("number", True, "an integer from 0"),
        ("epsilon", -0.1, "a number >= 0"),
        ("offset", float("nan"), "a number"),
        ("offset", "1", "a number"),
        ("flag", 1, "true or false"),
        ("flag", None, "true or false"),
        ("name", None, "a string"),
        ("table", [], "an object"),
        ("maybe", 0, "an integer from 1 to 536870912 or null"),
        ("ends", [0, -1], "an integer from 0 to 536870912 or a list, each of it an integer from 0 .* or null"),
        ("ends", "0", ".* or a list"),
        ("kinds", ["a", 1], "a list, each of it a string or null"),
        ("kinds", "a", "a list"),
    ],
)
def test_fields_that_do_not_fit(field, value, needed):
    with pytest.raises(CheckpointError, match=rf"{field} is .*; needed: {needed}"):
        read_config(Every, {field: value}, SOURCE, {})


def test_labels():
    assert read().labels == ("LABEL_0", "LABEL_1") and read(num_labels=3).label_count == 3
    assert read(id2label={"1": "b", "0": "a", "2": "c"}, num_labels=2).labels == ("a", "b", "c")
