"""BGEM3Encoder next to a twin of transformers' XLM-R and torch's layers, written from the paper's formulas."""

from __future__ import annotations

import numpy as np
import pytest
from bge_m3_folders import SPECIAL, write_bge_m3

from transformer_fast import BGEM3Encoder

pytestmark = pytest.mark.oracle
TOLERANCE = 1e-5
TEXTS = ["the cat sat on the mat the cat", "", "dog ran far, far away from the mat and the dog and unheard words! 9"]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


class Twin:
    """One text at a time, without padding."""

    def __init__(self, folder, torch):
        from safetensors.torch import load_file
        from transformers import AutoModel, AutoTokenizer

        self.torch, self.model = torch, AutoModel.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.layers = {name: load_file(folder / f"{name}_linear.safetensors") for name in ("sparse", "colbert")}

    def encode(self, text, limit):
        torch = self.torch
        ids = self.tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)["input_ids"]
        with torch.no_grad():
            rows = self.model(ids).last_hidden_state[0]
            weights, vectors = (
                torch.nn.functional.linear(rows, self.layers[name]["weight"], self.layers[name]["bias"])
                for name in ("sparse", "colbert")
            )
        special = {self.tokenizer.convert_tokens_to_ids(SPECIAL[f"{n}_token"]) for n in ("cls", "eos", "pad", "unk")}
        lexical = {}
        for number, weight in zip(ids[0].tolist(), torch.relu(weights[:, 0]).tolist(), strict=True):
            if weight > 0 and number not in special:
                lexical[str(number)] = max(weight, lexical.get(str(number), 0))
        normalize = torch.nn.functional.normalize
        return normalize(rows[0], dim=-1).numpy(), lexical, normalize(vectors[1:], dim=-1).numpy()


@pytest.fixture
def models(torch, tmp_path):
    folder = write_bge_m3(tmp_path / "m")
    return BGEM3Encoder.from_pretrained(folder), Twin(folder, torch)


@pytest.mark.parametrize("limit", [32, 7])
def test_representations(models, limit):
    ours, twin = models
    found = ours.encode(TEXTS, max_length=limit, **ALL)
    for i, text in enumerate(TEXTS):
        dense, lexical, vectors = twin.encode(text, limit)
        np.testing.assert_allclose(found["dense_vecs"][i], dense, atol=TOLERANCE)
        np.testing.assert_allclose(found["colbert_vecs"][i], vectors, atol=TOLERANCE)
        assert found["lexical_weights"][i] == pytest.approx(lexical, abs=TOLERANCE)


def test_scores(models):
    ours, twin = models
    pairs = [(TEXTS[0], TEXTS[2]), (TEXTS[2], "the dog"), ("", TEXTS[0])]
    weights = [0.4, 0.2, 0.4]
    expected = {name: [] for name in ("colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense")}
    for query, passage in pairs:
        (q, q_lexical, q_vectors), (p, p_lexical, p_vectors) = (twin.encode(text, 32) for text in (query, passage))
        dense, colbert = q @ p, (q_vectors @ p_vectors.T).max(1).mean()
        sparse = sum(weight * p_lexical.get(token, 0) for token, weight in q_lexical.items())
        expected["dense"].append(dense)
        expected["sparse"].append(sparse)
        expected["colbert"].append(colbert)
        expected["sparse+dense"].append((0.4 * dense + 0.2 * sparse) / 0.6)
        expected["colbert+sparse+dense"].append(0.4 * dense + 0.2 * sparse + 0.4 * colbert)
    found = ours.compute_score(pairs, weights_for_different_modes=weights)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=TOLERANCE)
    single = ours.compute_score(pairs[1], weights_for_different_modes=weights)
    assert single == pytest.approx({name: values[1] for name, values in expected.items()}, rel=1e-5, abs=TOLERANCE)


def test_pieces_of_the_tokenizer(models):
    ours, twin = models
    lexical = ours.encode(TEXTS[0], return_dense=False, return_sparse=True)["lexical_weights"]
    expected = {twin.tokenizer.decode([int(number)]): weight for number, weight in lexical.items()}
    assert ours.convert_id_to_token(lexical) == expected
    assert ours.convert_id_to_token([lexical]) == [expected]
