"""A source that is no folder: models, tokenizers and settings are read through `ModelSource` alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from model_folders import TINY_BERT, bert_tensors, write_sentence_model

from transformer_fast import SentenceEncoder, load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import Folder, open_source
from transformer_fast.files.source import ModelSource, Tensor
from transformer_fast.files.tokenizer import Tokenizer

pytest.importorskip("safetensors")


class InMemory(ModelSource):
    """Settings and tensors that are in no file."""

    def __init__(self, settings: dict, arrays: dict) -> None:
        self.settings = settings
        self._tensors = {
            name: Tensor(name, self.weights, "F32", array.shape, array.reshape(-1).view(np.uint8))
            for name, array in arrays.items()
        }

    def __str__(self) -> str:
        return "memory"

    def read(self, name):
        return json.dumps(self.settings[name]).encode() if name in self.settings else None

    def tensors(self):
        return self._tensors

    @property
    def weights(self):
        return Path("memory")

    def place(self, name):
        return Path("memory") / name


def test_a_model_of_another_source():
    arrays = bert_tensors()
    source = InMemory({"config.json": TINY_BERT}, arrays)
    model = load_model(source)
    assert type(model) is type(load_model(source, head=False))
    assert np.isfinite(model([[1, 2, 3]]).last_hidden_state).all()
    missing = arrays.copy()
    del missing["embeddings.LayerNorm.bias"]
    with pytest.raises(CheckpointError, match="^memory: missing tensors: 'embeddings"):
        load_model(InMemory({"config.json": TINY_BERT}, missing))
    with pytest.raises(CheckpointError, match=r"^memory/config\.json: there is no such file"):
        load_model(InMemory({}, arrays))
    assert source.tensor("embeddings.LayerNorm.bias").shape == (TINY_BERT["hidden_size"],)
    with pytest.raises(CheckpointError, match="^memory: there is no tensor 'absent'"):
        source.tensor("absent")


def test_sentences_of_another_source(tmp_path):
    pytest.importorskip("tokenizers")
    folder = Folder(write_sentence_model(tmp_path))
    names = (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "sentence_bert_config.json",
    )
    part = folder.part(folder.json("modules.json")[0]["path"], "modules.json")
    settings = {name: part.json(name) for name in names if part.json(name) is not None}
    arrays = {name: tensor.array() for name, tensor in part.tensors().items()}
    source = InMemory(settings, arrays)
    texts = ["the cat sat", "a cat"]
    mean = InMemory(settings | {"modules.json": [{"type": "a.Transformer", "path": ""}, {"type": "b.Pooling"}]}, arrays)
    found, expected = (SentenceEncoder.from_pretrained(place).encode(texts) for place in (source, part))
    assert np.array_equal(found, expected)
    with pytest.raises(CheckpointError, match=r"modules\.json: names the part None, which memory does not have"):
        SentenceEncoder.from_pretrained(mean)
    assert Tokenizer(source).encode_batch(texts)[0].ids == Tokenizer(part).encode_batch(texts)[0].ids
    assert open_source(source) is source


def test_settings_that_are_no_objects(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "b.json").write_text("null")
    folder = Folder(tmp_path)
    assert folder.json("c.json") is None and folder.object("c.json", required=False) == {}
    assert folder.json("a.json") == [1]
    with pytest.raises(CheckpointError, match=r"a\.json: holds a JSON list; needed: an object"):
        folder.object("a.json")
    with pytest.raises(CheckpointError, match=r"b\.json: holds null"):
        folder.json("b.json")
    with pytest.raises(CheckpointError, match=r"c\.json: there is no such file"):
        folder.object("c.json")
