"""Stand-ins for models, and a cache of its own for each test of the commands."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast.commands import common


class FakeEncoder:
    """Letters of the alphabet, counted: similar words have similar counts. The first calls' options stay in `calls`."""

    similarity_fn_name = "cosine"

    def __init__(self):
        self.calls = []

    def encode(self, sentences, **options):
        self.calls.append(options)
        if isinstance(sentences, str):
            return self.encode([sentences], **options)[0]
        counts = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in sentences], np.float32)
        if options.get("normalize_embeddings"):
            counts /= np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-12)
        return counts

    def encode_query(self, sentences, **options):
        return self.encode(sentences, **{"task": "query", **options})

    def encode_document(self, sentences, **options):
        return self.encode(sentences, **{"task": "document", **options})

    def count_tokens(self, sentences):
        return sum(len(text.split()) for text in sentences)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The folder in which `search` keeps its indexes."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "transformer-fast" / "search"


@pytest.fixture
def encoder(monkeypatch, tmp_path_factory):
    fake, folder = FakeEncoder(), tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text("{}")
    fake.folder = folder
    monkeypatch.setattr(common, "encoder", lambda options: fake)
    monkeypatch.setattr(common, "encoder_source", lambda options: folder)
    return fake
