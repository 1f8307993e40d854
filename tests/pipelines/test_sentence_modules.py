"""pipelines/sentence_modules.py and the ways of pooling, by hand: Dense, Dropout, Normalize; what is refused.

tests/oracle/test_models.py compares with sentence-transformers.
"""

from __future__ import annotations

import numpy as np
import pytest
from model_folders import TINY_BERT, write_json, write_sentence_model

pytest.importorskip("tokenizers")
save_file = pytest.importorskip("safetensors.numpy").save_file

from transformer_fast import SentenceEncoder  # noqa: E402
from transformer_fast.files.errors import CheckpointError  # noqa: E402

TEXTS = ["the cat sat on the mat", "dog", "dog ran far, far away"]
H = TINY_BERT["hidden_size"]
CONFIG = {
    "in_features": H,
    "out_features": 5,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
    "module_input_name": "sentence_embedding",
    "module_output_name": None,
}


def folder_with(folder, kinds, config=None, tensors=None, **options):
    """A sentence model with further modules, the first of which is described."""
    names = ["Transformer", "Pooling", *kinds]
    modules = [
        {"path": "" if i == 0 else f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(names)
    ]
    write_sentence_model(folder, modules=modules, **options)
    for module in modules[1:]:
        (folder / module["path"]).mkdir(exist_ok=True)
    if config is not None:
        write_json(folder / modules[2]["path"] / "config.json", config)
    if tensors is not None:
        save_file(tensors, folder / modules[2]["path"] / "model.safetensors")
    return folder


def dense(rng, out=5):
    return {
        "linear.weight": rng.standard_normal((out, H)).astype(np.float32),
        "linear.bias": rng.standard_normal(out).astype(np.float32),
    }


@pytest.mark.parametrize(
    "mode, pooled",
    [
        ("lasttoken", lambda rows: rows[-1]),
        ("mean_sqrt_len_tokens", lambda rows: rows.sum(0) / np.sqrt(len(rows))),
        ("weightedmean", lambda rows: np.average(rows, axis=0, weights=np.arange(1, len(rows) + 1))),
    ],
)
def test_pooling(isa, tmp_path, mode, pooled):
    encoder = SentenceEncoder.from_pretrained(write_sentence_model(tmp_path, {"pooling_mode": mode}))
    tokens = encoder.encode(TEXTS, output_value="token_embeddings")
    expected = np.stack([pooled(rows.astype(np.float64)) for rows in tokens])
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    assert np.array_equal(encoder.encode(TEXTS[:1]), encoder.encode(TEXTS)[:1])


def test_weights_of_a_prompt_that_is_not_pooled(tmp_path):
    """The places of what is left are those in the whole text."""
    config = {"pooling_mode": "weightedmean", "include_prompt": False}
    encoder = SentenceEncoder.from_pretrained(write_sentence_model(tmp_path, config))
    rows = encoder.encode("cat", prompt="the dog ", output_value="token_embeddings").astype(np.float64)
    skipped = 3  # [CLS] the dog
    weights = np.arange(skipped + 1, len(rows) + 1)
    expected = np.average(rows[skipped:], axis=0, weights=weights)
    np.testing.assert_allclose(encoder.encode("cat", prompt="the dog "), expected, atol=1e-5)


@pytest.mark.parametrize("kinds", [("Dense",), ("Dense", "Normalize"), ("Dense", "Dropout"), ("Dropout",)], ids=str)
def test_modules_in_their_order(isa, tmp_path, kinds):
    tensors = dense(np.random.default_rng(0))
    described = (CONFIG, tensors) if kinds[0] == "Dense" else (None, None)
    encoder = SentenceEncoder.from_pretrained(folder_with(tmp_path / "with", kinds, *described))
    expected = SentenceEncoder.from_pretrained(write_sentence_model(tmp_path / "without")).encode(TEXTS)
    if "Dense" in kinds:
        expected = np.tanh(expected.astype(np.float64) @ tensors["linear.weight"].T + tensors["linear.bias"])
    if "Normalize" in kinds:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    found = encoder.encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert encoder.get_sentence_embedding_dimension() == found.shape[1] == expected.shape[1]
    assert np.array_equal(encoder.encode(TEXTS[1]), found[1]), "the same bits whatever the batch"


@pytest.mark.formats("bfloat16")
def test_dense_in_bfloat16(tmp_path, isa):
    folder = folder_with(tmp_path, ("Dense",), CONFIG, dense(np.random.default_rng(0)))
    exact, rounded = (
        SentenceEncoder.from_pretrained(folder, compute_type=t).encode(TEXTS) for t in ("auto", "bfloat16")
    )
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(exact, rounded, atol=0.1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"in_features": 7}, f"in_features is 7 and out_features 5; needed: {H}"),
        (
            {"activation_function": "torch.nn.modules.activation.Mish"},
            "activation_function is .*Mish'; supported",
        ),
        ({"activation_function": None}, "activation_function is null; supported: torch.nn's"),
        ({"activation_function": "mine.Tanh"}, "activation_function is 'mine.Tanh'; supported: torch.nn's"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'; supported"),
        ({"scale": 2}, "holds scale; supported: "),
        ({"bias": 1}, "bias is 1; needed: bool"),
        ({"use_residual": True}, "missing tensors: 'residual.weight'"),
        ({"bias": False}, "tensors that this model does not use: 'linear.bias'"),
    ],
    ids=str,
)
def test_what_dense_refuses(tmp_path, change, message):
    folder = folder_with(tmp_path, ("Dense",), CONFIG | change, dense(np.random.default_rng(0)))
    with pytest.raises(CheckpointError, match=message):
        SentenceEncoder.from_pretrained(folder)


def test_modules_that_are_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match="the modules are Transformer, Pooling, LSTM; supported: .*Dense, Dropout"
    ):
        SentenceEncoder.from_pretrained(folder_with(tmp_path, ("LSTM",)))
