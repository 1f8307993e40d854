"""docs/howto/models.md: of each model that it says loads, a folder with that config, those modules and tensors does.

The weights are random and the sizes small: what a model answers is compared with transformers and sentence-transformers
in tests/oracle; here is held that the files are read, and as what.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from model_folders import WORDS
from published_folders import DENSE, WIDTH, write_folder
from published_models import MODELS, VOCABULARY

from transformer_fast import load_model
from transformer_fast.pipelines import CrossEncoder, SentenceEncoder

pytest.importorskip("safetensors")
pytest.importorskip("ml_dtypes")
pytest.importorskip("tokenizers")

DOCS = Path(__file__).parents[2] / "docs" / "howto" / "models.md"


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_the_model_runs(tmp_path, name):
    published = MODELS[name]
    assert len(WORDS) <= VOCABULARY
    folder = write_folder(tmp_path / "model", name)
    expected = published.model or published.fields["architectures"][0]
    loaded = load_model(folder, head=published.pipeline == "predict")
    assert type(loaded).__name__ in (expected, expected.replace("New", "Gte"))
    if published.pipeline == "predict":
        scores = CrossEncoder.from_pretrained(folder).predict([("the cat", "sat on the mat"), ("dog", "the mat")])
        assert scores.shape == (2,) and np.isfinite(scores).all()
        return
    encoder = SentenceEncoder.from_pretrained(folder)
    for task in (None, *published.adapters):
        found = encoder.encode(["the cat sat on the mat", "dog"], task=task)
        assert found.shape == (2, DENSE if "Dense" in published.modules else WIDTH) and np.isfinite(found).all()
        if "Normalize" in published.modules:
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def table():
    """model -> whether it loads, by the table of the docs."""
    rows = re.findall(r"^\| (\S+/\S+) \|.*\| (yes|no)[^|]*\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(rows)


def test_the_table_of_the_docs():
    rows = table()
    assert {name for name, loads in rows.items() if loads == "yes"} == set(MODELS)
    assert sum(loads == "yes" for loads in rows.values()) >= 0.9 * len(rows) - 1
