"""models/common/config.py, mostly through BERT's Config: defaults, types, ranges, and what is refused or ignored."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from model_folders import TINY_BERT, write_bert

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import read_json_object
from transformer_fast.models.bert import BertConfig, BertModel
from transformer_fast.models.clip import CLIPModel
from transformer_fast.models.common.config import Index, Number, check_fields, read_config, without_fields
from transformer_fast.models.common.known_fields import NEUTRAL
from transformer_fast.models.distilbert import DistilBertModel

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


UNKNOWN = {"sliding_windows": 4, "mine": "note"}


def test_unknown_fields_are_refused_by_name_unless_they_are_ignored(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not know 'sliding_windows', 'mine'.*needed.*ignore_fields=\["):
        read(**UNKNOWN)
    folder = write_bert(tmp_path, TINY_BERT | UNKNOWN)
    with pytest.raises(CheckpointError, match=r"does not know 'mine', which .*ignore_fields=\['mine'\]"):
        load_model(folder, ignore_fields=["sliding_windows"])
    for model in (
        load_model(folder, ignore_fields=["sliding_windows", "mine", "not there"]),
        BertModel.from_pretrained(folder, ignore_fields=UNKNOWN),
    ):
        model.save_pretrained(tmp_path / "saved")
        content = read_json_object(tmp_path / "saved" / "config.json")
        assert all(content[name] == value for name, value in UNKNOWN.items())
    write_bert(tmp_path / "nulls", TINY_BERT | dict.fromkeys(UNKNOWN))
    assert load_model(tmp_path / "nulls")  # null asks for nothing
    for ignored in ("mine", 5, [[]]):
        with pytest.raises(TypeError, match="ignore_fields is .*; needed: a list of names"):
            load_model(folder, ignore_fields=ignored)


def test_numbers_beyond_floats_are_refused_by_name():
    with pytest.raises(CheckpointError, match="layer_norm_eps is 1000"):
        read(layer_norm_eps=10**400)


def test_fields_inside_of_a_tower_are_known_too():
    content = {"text_config": {"hidden_size": 8, "mine": 1}, "vision_config": {}, "mine": 2}
    with pytest.raises(CheckpointError, match=r"config.json: text_config: CLIPTextConfig does not know 'mine'"):
        CLIPModel.read_config(content, SOURCE)
    config = CLIPModel.read_config(without_fields(content, ("mine",)), SOURCE)
    assert config.text_config.hidden_size == 8
    second = {"text_config": {"hidden_size": 8, "mine": 1}, "text_config_dict": {"vocab_size": 20}}
    with pytest.raises(CheckpointError, match="text_config: .* does not know 'mine'"):
        CLIPModel.read_config(second, SOURCE)
    del second["text_config"]["mine"]
    config = CLIPModel.read_config(second, SOURCE)
    assert (config.text_config.hidden_size, config.text_config.vocab_size) == (512, 20), "defaults of the second win"


def test_general_names_are_the_familys_own_and_win():
    content = {"vocab_size": 50, "n_layers": 1, "dim": 12, "hidden_dim": 8, "num_attention_heads": 3}
    assert DistilBertModel.read_config(content, SOURCE).n_heads == 3
    assert DistilBertModel.read_config(content | {"n_heads": 2}, SOURCE).n_heads == 3
    with pytest.raises(
        CheckpointError, match=r"n_heads is 5; needed: .*\(n_heads is called num_attention_heads there\)"
    ):
        DistilBertModel.read_config(content | {"num_attention_heads": 5}, SOURCE)


def test_what_the_base_class_knows():
    """Fields that choose something in transformers' base class, with the value that chooses nothing and another."""
    for name, (none, *_) in NEUTRAL.items():
        assert read(**{name: none}) == read()
        with pytest.raises(CheckpointError, match=f"config.json: {name} is .*, which is not supported; needed: "):
            read(**{name: 7})


def test_reports_of_every_call(tmp_path):
    """output_attentions and output_hidden_states are defaults of a call, which may say otherwise."""
    folder = write_bert(tmp_path, TINY_BERT | {"output_hidden_states": True, "output_attentions": False})
    model = load_model(folder)
    output = model([[7, 8]])
    assert len(output.hidden_states) == 3 and output.attentions is None
    assert model([[7, 8]], output_hidden_states=False).hidden_states is None
    assert load_model(folder, ignore_fields=["output_hidden_states"])([[7, 8]]).hidden_states is None
    with pytest.raises(CheckpointError, match="output_attentions is 'yes'; needed: true or false"):
        load_model(write_bert(tmp_path, TINY_BERT | {"output_attentions": "yes"}))


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
    config = read_config(Every, {**fields, "_name_or_path": "x"}, SOURCE, {})
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
