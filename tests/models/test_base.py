"""models/common/base.py and load_model: parameters made of tensors and back, what is refused, which class is chosen."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from encoder_checks import GOLDEN
from model_folders import TINY_BERT, write_bert, write_json

from transformer_fast import load_model, models, nn
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.bert import BertModel
from transformer_fast.models.common.base import Part, PretrainedModel, Source, WrittenTensors, under
from transformer_fast.models.common.config import check_fields

ml_dtypes = pytest.importorskip("ml_dtypes")
save_file = pytest.importorskip("safetensors.numpy").save_file


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    width: int
    layers: int = 2
    tie_word_embeddings: bool = True

    without_effect = ("extra",)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.width % 3 == 0:
            raise ValueError(f"width is {self.width}; needed: no multiple of 3")


class Toy(PretrainedModel):
    """One parameter of every kind of source."""

    config_class = ToyConfig
    model_types = ("toy",)
    ignored = ("old.",)
    stacks = {"h.": "layers"}
    base_prefix = "toy."

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        w = config.width
        if w == 7:
            raise ValueError("width is 7; needed: another")
        self.words = nn.Embedding(5, w)
        self.blocks = nn.ModuleList([nn.Linear(w, w + 2 * (w // 2)) for _ in range(config.layers)])
        self.turned = nn.Linear(w, 3, bias=False)
        self.patches = nn.Linear(3 * 2 * 2, w)
        self.out = nn.Linear(w, 5)
        self.out.weight = self.words.weight

    @classmethod
    def sources(cls, config, names):
        w = config.width
        sources = {"words.weight": Source("words"), "turned.weight": Source("turned", transpose=True)}
        sources |= under("patches", {"weight": Source("conv.w", shape=(w, 3, 2, 2)), "bias": Source("conv.b")})
        for i in range(config.layers):
            for kind in ("weight", "bias"):
                sizes = {"q": w, "k": w // 2, "v": w // 2}
                parts = (Part(f"h.{i}.{part}.{kind}", of=rows) for part, rows in sizes.items())
                sources[f"blocks.{i}.{kind}"] = Source(*parts)
        sources["out.weight"] = Source("lm" if "lm" in names and not config.tie_word_embeddings else "words")
        sources["out.bias"] = Source("bias", copies=("old.bias",))
        return sources


def toy_tensors(w=4, layers=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"words": (5, w), "turned": (w, 3), "conv.w": (w, 3, 2, 2), "conv.b": (w,), "bias": (5,)}
    for i in range(layers):
        for part, rows in zip("qkv", (w, w // 2, w // 2), strict=True):
            shapes |= {f"h.{i}.{part}.weight": (rows, w), f"h.{i}.{part}.bias": (rows,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_toy(folder: Path, tensors: dict, **fields) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"model_type": "toy", "width": 4, "extra": [1], **fields})
    save_file(tensors, folder / "model.safetensors")
    return folder


def read_all(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.array(tensor.array()) for name, tensor in Checkpoint.open(folder).tensors.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Sources


def test_parameters_are_made_of_tensors(tmp_path):
    t = toy_tensors()
    model = Toy.from_pretrained(write_toy(tmp_path, {f"toy.{name}": array for name, array in t.items()}))
    assert np.array_equal(model.turned.weight, t["turned"].T)
    assert np.array_equal(model.patches.weight, t["conv.w"].reshape(4, 12))
    expected = np.concatenate([t[f"h.1.{part}.weight"] for part in "qkv"])
    assert np.array_equal(model.blocks[1].weight, expected)
    assert np.shares_memory(model.out.weight, model.words.weight)
    assert not any(array.flags.writeable for array in model.parameters())


def test_saved_as_it_was(tmp_path):
    tensors = toy_tensors()
    model = Toy.from_pretrained(write_toy(tmp_path / "a", tensors))
    model.save_pretrained(tmp_path / "b" / "c")
    saved = read_all(tmp_path / "b" / "c")
    assert saved.keys() == tensors.keys() | {"old.bias"}
    assert all(np.array_equal(saved[name], array) for name, array in tensors.items())
    assert np.array_equal(saved["old.bias"], tensors["bias"])
    again = Toy.from_pretrained(tmp_path / "b" / "c")
    assert all(np.array_equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    config = Checkpoint.open(tmp_path / "b" / "c").config
    fields = {"model_type": "toy", "width": 4, "extra": [1], "architectures": ["Toy"], "dtype": "float32"}
    assert config == fields
    assert {path.name for path in (tmp_path / "b" / "c").iterdir()} == {"config.json", "model.safetensors"}


def test_saved_over_its_own_file(tmp_path):
    """The model's parameters are views of the file that is replaced."""
    model = Toy.from_pretrained(write_toy(tmp_path, toy_tensors()))
    before = {name: array.copy() for name, array in model.state_dict().items()}
    model.words.weight = model.words.weight + 1
    model.out.weight = model.words.weight
    model.save_pretrained(tmp_path)
    after = Toy.from_pretrained(tmp_path).state_dict()
    for name, array in before.items():
        assert np.array_equal(after[name], array + 1 if name in ("words.weight", "out.weight") else array)
        assert np.array_equal(model.state_dict()[name], after[name])


def test_a_fresh_model_is_saved(tmp_path):
    model = Toy(ToyConfig(4))
    model.save_pretrained(tmp_path)
    assert "lm" not in read_all(tmp_path), "tied weights are written once"
    again = Toy.from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(np.array_equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_tied_parameters_that_differ(tmp_path):
    model = Toy.from_pretrained(write_toy(tmp_path, toy_tensors()))
    model.out.weight = model.out.weight + 1
    with pytest.raises(ValueError, match="out.weight differs from the parameter that it is tied to; both are 'words'"):
        model.save_pretrained(tmp_path / "other")


@pytest.mark.parametrize(
    "arguments, options",
    [
        ((), {}),
        (("a", "b"), {"shape": (1,)}),
        (("a", "b"), {"copies": ("c",)}),
        ((Part("a", of=4, rows=slice(0, 2)),), {"shape": (1,)}),
        ((Part("a", order=np.array([1, 0])),), {"copies": ("c",)}),
    ],
)
def test_bad_sources(arguments, options):
    with pytest.raises(ValueError, match="needed:"):
        Source(*arguments, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"rows": slice(0, 2)},
        {"of": 3, "rows": slice(2, 4)},
        {"of": 3, "rows": slice(2, 1)},
        {"of": 3, "rows": slice(-2, 3)},
        {"of": 4, "rows": slice(0, 4, -2)},
        {"order": np.array([0, 0])},
        {"order": np.array([1, 2])},
        {"of": 3, "order": np.array([1, 0])},
        {"of": 3, "rows": slice(0, 1), "order": np.array([1, 0])},
    ],
    ids=str,
)
def test_bad_parts(options):
    with pytest.raises(ValueError, match="needed:"):
        Part("a", **options)


class Fused(PretrainedModel):
    """Parameters that are parts of fused tensors, as those of Phi-3 and GPT-NeoX are."""

    config_class = ToyConfig
    model_types = ("toy",)

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        w = config.width
        self.q, self.kv = nn.Linear(w, w), nn.Linear(w, w)  # (q, k, v) in the file: 2 w rows
        self.up_gate = nn.Linear(w, 6, bias=False)  # gate before up in the file
        self.qkv = nn.Linear(w, 12)  # q, k and v of 2 heads; in the file head by head
        self.turned = nn.Linear(w, 2, bias=False)  # columns 1 and 2 of (w, 3)
        self.rest = nn.Linear(w, 1, bias=False)

    @classmethod
    def sources(cls, config, names):
        w, sources = config.width, {}
        order = np.arange(12).reshape(2, 3, 2).swapaxes(0, 1).reshape(-1)
        for kind in ("weight", "bias"):
            sources[f"q.{kind}"] = Source(Part(f"fused.{kind}", of=2 * w, rows=slice(0, w)))
            sources[f"kv.{kind}"] = Source(Part(f"fused.{kind}", of=2 * w, rows=slice(w, 2 * w)))
            sources[f"qkv.{kind}"] = Source(Part(f"heads.{kind}", order=order))
        halves = [Part("gate_up", of=6, rows=slice(first, first + 3)) for first in (3, 0)]
        sources["up_gate.weight"] = Source(*halves)
        reverse = Part("conv", of=3, rows=slice(1, 3), order=np.array([1, 0]))
        sources["turned.weight"] = Source(reverse, transpose=True)
        sources["rest.weight"] = Source(Part("conv", of=3, rows=slice(0, 1)), transpose=True)
        return sources


def fused_tensors(w=4):
    rng = np.random.default_rng(1)
    shapes = {"fused.weight": (2 * w, w), "fused.bias": (2 * w,), "heads.weight": (12, w), "heads.bias": (12,)}
    shapes |= {"gate_up": (6, w), "conv": (w, 3)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_parts_of_fused_tensors(tmp_path):
    t = fused_tensors()
    model = Fused.from_pretrained(write_toy(tmp_path / "a", t))
    assert np.array_equal(np.concatenate([model.q.weight, model.kv.weight]), t["fused.weight"])
    assert np.array_equal(model.kv.bias, t["fused.bias"][4:])
    assert np.array_equal(model.up_gate.weight, np.concatenate([t["gate_up"][3:], t["gate_up"][:3]]))
    heads = [t["heads.weight"][6 * head + 2 * part :][:2] for part in range(3) for head in range(2)]
    assert np.array_equal(model.qkv.weight, np.concatenate(heads))
    assert np.array_equal(model.turned.weight, t["conv"].T[[2, 1]])
    model.save_pretrained(tmp_path / "b")
    saved = read_all(tmp_path / "b")
    assert saved.keys() == t.keys() and all(np.array_equal(saved[name], array) for name, array in t.items())


def test_parts_that_do_not_fit(tmp_path):
    folder = write_toy(tmp_path / "a", fused_tensors() | {"fused.weight": np.zeros((9, 4), np.float32)})
    with pytest.raises(CheckpointError, match=r"'fused.weight' has shape \(9, 4\); .* \(8, 4\)"):
        Fused.from_pretrained(folder)


def test_parts_of_written_tensors():
    """Rows that are written twice must be the same; rows that are not written at all are named."""
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    tensors = WrittenTensors()
    tensors.put("a", rows[:2], slice(0, 2), 4)
    tensors.put("a", rows[1:], slice(1, 3), 4)
    with pytest.raises(ValueError, match="'a' has 1 rows that no parameter holds"):
        tensors.finished()
    with pytest.raises(ValueError, match="differs from the parameter that it is tied to; both are 'a'"):
        tensors.put("a", rows[:2], slice(1, 3), 4)
    whole = np.concatenate([rows, rows[:1]])
    with pytest.raises(ValueError, match="differs"):
        tensors.put("a", whole + 1, slice(0, 4), 4)
    tensors.put("a", whole, slice(0, 4), 4)
    tensors.put("b", whole, slice(0, 4), 4)
    tensors.put("b", rows[:1], slice(0, 1), 4)
    assert all(np.array_equal(array, whole) for array in tensors.finished().values())


# ----------------------------------------------------------------------------------------------------------------------
# What does not fit


@pytest.mark.parametrize(
    "changes, fields, text",
    [
        ({"turned": None}, {}, "missing tensors: 'turned'"),
        ({"h.0.q.weight": None, "bias": None}, {}, "missing tensors: 'h.0.q.weight', 'bias'"),
        ({"surprise": np.zeros(3)}, {}, "does not use: 'surprise'"),
        ({"turned": np.zeros((3, 4))}, {}, r"'turned' has shape \(3, 4\); needed by config.json: \(4, 3\)"),
        ({"h.1.k.weight": np.zeros((4, 4))}, {}, r"'h.1.k.weight' has shape \(4, 4\); .* \(2, 4\)"),
        ({"conv.w": np.zeros((4, 12))}, {}, r"'conv.w' has shape \(4, 12\); .* \(4, 3, 2, 2\)"),
        ({"h.2.q.bias": np.zeros(4)}, {}, "layers is 2, but .* holds 3 layers"),
        ({}, {"layers": 2**29}, "layers is 536870912, but .* holds 2 layers"),
        ({}, {"width": 6}, "config.json: width is 6; needed: no multiple of 3"),
        ({}, {"width": 7}, "config.json: width is 7; needed: another"),
        ({}, {"model_type": "bert"}, "config.json: model_type is 'bert'; needed by Toy: toy"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(tmp_path, changes, fields, text):
    tensors = {name: array for name, array in toy_tensors().items() if changes.get(name, True) is not None}
    tensors |= {name: array for name, array in changes.items() if array is not None}
    with pytest.raises(CheckpointError, match=text):
        Toy.from_pretrained(write_toy(tmp_path, tensors, **fields))


def test_ignored_tensors(tmp_path):
    write_toy(tmp_path, toy_tensors() | {"old.anything": np.zeros(2, np.int64)})
    assert isinstance(Toy.from_pretrained(tmp_path), Toy)


# ----------------------------------------------------------------------------------------------------------------------
# load_model


@pytest.mark.parametrize(
    "architectures, options, name",
    [
        (["BertModel"], {}, "BertModel"),
        (["BertForMaskedLM"], {"head": False}, "BertModel"),
        (["BertLMHeadModel"], {}, "BertModel"),
        (None, {}, "BertModel"),
        ([3], {}, "BertModel"),
        ([], {}, "BertModel"),
    ],
)
def test_classes_by_architecture(tmp_path, architectures, options, name):
    folder = write_bert(tmp_path, TINY_BERT | {"architectures": architectures})
    assert type(load_model(folder, **options)).__name__ == name
    assert type(load_model(str(folder), **options)).__name__ == name


def test_a_head_that_the_file_does_not_have(tmp_path):
    folder = write_bert(tmp_path, TINY_BERT | {"architectures": ["BertForMaskedLM"]})
    with pytest.raises(CheckpointError, match=r"missing tensors: .*'cls\.predictions\.bias'"):
        load_model(folder)


def test_every_listed_class_is_there():
    families = [*models._FAMILIES.values(), *models._VARIANTS.values()]
    for file, classes, default in families:
        module = __import__(f"transformer_fast.models.{file}", fromlist=[default])
        for name in [*classes.values(), default]:
            made = getattr(module, name)
            assert issubclass(made, PretrainedModel) and made.__name__ == name
    for _, classes, _ in families:
        for name, other in classes.items():
            assert name == other or classes.get(other) == other  # another name of a class that is listed, too


def test_models_offers_every_class_and_config():
    assert models.BertModel is BertModel
    assert models.CLIPTextConfig.__module__ == "transformer_fast.models.clip"
    assert {"BertForMaskedLM", "load_model"} <= set(dir(models))
    for name in ("NoSuchModel", "NoSuchConfig", "XLMRobertaConfig"):
        with pytest.raises(AttributeError, match=name):
            getattr(models, name)


def test_unknown_families_are_told_what_is_there(tmp_path):
    folder = write_bert(tmp_path, TINY_BERT | {"model_type": "mamba"})
    with pytest.raises(CheckpointError, match="model_type is 'mamba'; supported: " + ".*bert.*, .*mpnet.*roberta"):
        load_model(folder)


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "a\\b", Path("nowhere")], ids=str
)
def test_folders_that_are_not_there(name):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        load_model(name)


def test_names_on_the_hub(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    calls = []

    def download(name, **options):
        calls.append((name, options))
        return str(GOLDEN / "bert")

    monkeypatch.setattr(hub, "snapshot_download", download)
    options = {"revision": "v1", "cache_dir": "c", "token": "t", "local_files_only": True}
    assert type(load_model("org/model", **options)).__name__ == "BertForSequenceClassification"
    assert type(BertModel.from_pretrained("gpt2")) is BertModel
    (name, first), (other, second) = calls
    patterns = first.pop("allow_patterns")
    assert (name, first, other) == ("org/model", options, "gpt2")
    assert set(patterns) == {"*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja"}
    assert second["revision"] is second["cache_dir"] is second["token"] is None and second["local_files_only"] is False


def test_a_folder_wins_over_the_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    write_bert(tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    assert type(load_model("org/model")) is BertModel


def test_neither_folder_nor_hub(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=re.escape("'org/nowhere' is no folder here, and no model that the hub")):
        load_model("org/nowhere", local_files_only=True)
