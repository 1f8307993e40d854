"""BGEM3Encoder on its own: what is asked for, what a result does not depend on, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tokenizers")
save_file = pytest.importorskip("safetensors.numpy").save_file

from bge_m3_folders import DIM, H, write_bge_m3  # noqa: E402

from transformer_fast import BGEM3Encoder  # noqa: E402
from transformer_fast.files.errors import CheckpointError  # noqa: E402

TEXTS = ["the cat sat on the mat the cat", "", "dog ran far, far away from the mat"]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_bge_m3(tmp_path_factory.mktemp("bge") / "m")


def test_each_alone_and_together(folder, isa):
    encoder = BGEM3Encoder.from_pretrained(folder)
    together = encoder.encode(TEXTS, **ALL)
    assert together["dense_vecs"].shape == (3, H)
    assert [one.shape[1] for one in together["colbert_vecs"]] == [DIM] * 3
    for name, option in zip(("dense_vecs", "lexical_weights", "colbert_vecs"), ALL, strict=True):
        alone = encoder.encode(TEXTS, batch_size=1, **{other: other == option for other in ALL})
        assert [key for key, value in alone.items() if value is not None] == [name]
        one = encoder.encode(TEXTS[2], **ALL)[name]
        if name == "lexical_weights":
            assert alone[name] == together[name] and one == together[name][2]
        else:
            assert all(np.array_equal(a, b) for a, b in zip(alone[name], together[name], strict=True))
            assert np.array_equal(one, together[name][2])
    assert encoder.encode([], **ALL)["dense_vecs"].shape == (0, H)


def test_scores_of_what_was_encoded(folder):
    encoder = BGEM3Encoder.from_pretrained(folder)
    found, pairs = encoder.encode(TEXTS, **ALL), [(TEXTS[0], TEXTS[2]), (TEXTS[2], TEXTS[0])]
    scores = encoder.compute_score(pairs)
    lexical, vectors = found["lexical_weights"], found["colbert_vecs"]
    matrix = encoder.compute_lexical_matching_score(lexical, lexical)
    np.testing.assert_allclose([matrix[0, 2], matrix[2, 0]], scores["sparse"])
    assert encoder.compute_lexical_matching_score(lexical[0], lexical[2]) == matrix[0, 2]
    assert encoder.colbert_score(vectors[0], vectors[2]) == pytest.approx(scores["colbert"][0])
    mean = np.mean([scores[name] for name in ("dense", "sparse", "colbert")], axis=0)
    np.testing.assert_allclose(scores["colbert+sparse+dense"], mean)


def test_vectors_of_their_own_length(folder):
    plain = BGEM3Encoder.from_pretrained(folder, normalize_embeddings=False).encode(TEXTS, **ALL)
    unit = BGEM3Encoder.from_pretrained(folder).encode(TEXTS, **ALL)
    norms = np.linalg.norm(plain["dense_vecs"], axis=1, keepdims=True)
    assert (np.abs(norms - 1) > 0.1).all()
    np.testing.assert_allclose(plain["dense_vecs"] / norms, unit["dense_vecs"], atol=1e-6)


def test_bad_arguments(folder):
    encoder = BGEM3Encoder.from_pretrained(folder)
    for error, match, call in [
        (ValueError, "are all False", lambda: encoder.encode(TEXTS, return_dense=False)),
        (ValueError, "max_length is 0", lambda: encoder.encode(TEXTS, max_length=0)),
        (TypeError, r"sentences\[0\] is a tuple", lambda: encoder.encode([("a", "b")])),
        (TypeError, r"sentence_pairs\[0\]", lambda: encoder.compute_score([("a", "b", "c")])),
        (TypeError, "sentence_pairs is a str", lambda: encoder.compute_score("ab")),
        (ValueError, "nan", lambda: encoder.compute_score([], weights_for_different_modes=[np.nan, 1, 1])),
        (ValueError, "weights_for_different_modes", lambda: encoder.compute_score([], weights_for_different_modes=[1])),
        (TypeError, "two lists", lambda: encoder.compute_lexical_matching_score({}, [{}])),
        (ValueError, "device is 'cuda'", lambda: BGEM3Encoder.from_pretrained(folder, device="cuda")),
    ]:
        with pytest.raises(error, match=match):
            call()


def test_files_of_the_layers(tmp_path):
    folder = write_bge_m3(tmp_path / "m")
    place = folder / "colbert_linear.safetensors"
    save_file({"weight": np.ones((3, H), np.float32)}, place)
    with pytest.raises(CheckpointError, match="colbert_linear.safetensors: holds .* needed: weight"):
        BGEM3Encoder.from_pretrained(folder)
    place.unlink()
    (folder / "colbert_linear.pt").write_bytes(b"a pickle")
    with pytest.raises(CheckpointError, match="converted from colbert_linear.pt: pickles are not read"):
        BGEM3Encoder.from_pretrained(folder)
    save_file(
        {"weight": np.ones((2, H), np.float32), "bias": np.ones(2, np.float32)}, folder / "sparse_linear.safetensors"
    )
    with pytest.raises(CheckpointError, match="sparse_linear.safetensors: weight has 2 rows; needed: 1"):
        write_bge_m3(tmp_path / "other")
        (folder / "colbert_linear.safetensors").write_bytes(
            (tmp_path / "other" / "colbert_linear.safetensors").read_bytes()
        )
        BGEM3Encoder.from_pretrained(folder)
