"""CrossEncoder by hand: results, their bits, arguments, folders. tests/oracle/test_sentence_encoder.py has the peer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from model_folders import TINY_BERT, write_bert, write_json, write_tokenizer
from pipeline_folders import TEXTS, write_head

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError
from transformer_fast.pipelines import CrossEncoder, TextClassifier, text_runs

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

PAIRS = [(TEXTS[i], TEXTS[j]) for i in range(5) for j in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_head(tmp_path_factory.mktemp("cross") / "m", "SequenceClassification", 1)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return write_head(tmp_path_factory.mktemp("cross") / "three", "SequenceClassification", 3)


@pytest.fixture
def encoder(folder):
    return CrossEncoder.from_pretrained(folder)


def logistic(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_scores_are_the_models(isa, encoder, folder, three):
    logits = TextClassifier.from_pretrained(folder).logits(PAIRS)
    np.testing.assert_allclose(encoder.predict(PAIRS), logistic(logits[:, 0]), atol=1e-6)
    np.testing.assert_array_equal(encoder.predict(PAIRS, activation_fn="Identity"), logits[:, 0])
    np.testing.assert_array_equal(encoder.predict(PAIRS, activation_fn=lambda x: 2 * x), 2 * logits[:, 0])
    several = CrossEncoder.from_pretrained(three)
    logits = TextClassifier.from_pretrained(three).logits(PAIRS)
    np.testing.assert_array_equal(several.predict(PAIRS), logits)
    np.testing.assert_array_equal(several.predict(PAIRS, apply_softmax=True), F.softmax(logits))
    np.testing.assert_allclose(several.predict(PAIRS[3], activation_fn="Sigmoid"), logistic(logits[3]), atol=1e-6)


def test_bits_do_not_depend_on_batches_or_threads(isa, threads, encoder, monkeypatch):
    expected = np.stack([encoder.predict(pair) for pair in PAIRS])
    monkeypatch.setattr(text_runs, "TOKENS_OF_A_THREAD", 50)
    for batch_size in (1, 3, 32):
        assert np.array_equal(encoder.predict(PAIRS, batch_size=batch_size), expected)
    assert encoder.predict([]).shape == (0,) and isinstance(encoder.predict(PAIRS, convert_to_numpy=False), list)


def test_rank(encoder):
    scores = encoder.predict([("the cat", text) for text in TEXTS])
    ranked = encoder.rank("the cat", TEXTS, top_k=3, return_documents=True)
    assert [hit["corpus_id"] for hit in ranked] == np.argsort(-scores, kind="stable")[:3].tolist()
    assert all(hit["score"] == scores[hit["corpus_id"]] and hit["text"] == TEXTS[hit["corpus_id"]] for hit in ranked)
    score = float(encoder.predict(("the cat", "dog")))
    assert encoder.rank("the cat", ["dog"] * 3) == [{"corpus_id": i, "score": score} for i in range(3)]
    assert encoder.rank("the cat", iter([])) == []


def test_a_class_of_torch_is_known_by_its_name(encoder):
    kind = type("Sigmoid", (), {"__module__": "torch.nn.modules.activation"})
    assert np.array_equal(encoder.predict(PAIRS, activation_fn=kind()), encoder.predict(PAIRS))
    kind = type("Softmax", (), {"__module__": "torch.nn.modules.activation"})
    with pytest.raises(ValueError, match="activation_fn is torch's Softmax; needed: one of Identity, Tanh"):
        encoder.predict(PAIRS, activation_fn=kind())


@pytest.mark.parametrize(
    "inputs, options, error, text",
    [
        ([("a", "b"), "c"], {}, TypeError, r"inputs\[1\] is 'c'; needed: a pair of strings"),
        ([("a", "b", "c")], {}, TypeError, r"inputs\[0\] is \('a', 'b', 'c'\)"),
        (["a", 5], {}, TypeError, r"inputs is \['a', 5\]; needed: a pair"),
        (["a", "b", "c"], {}, TypeError, "inputs is .*; needed: a pair"),
        ("ab", {}, TypeError, "inputs is a str"),
        (5, {}, TypeError, "inputs is a int"),
        (PAIRS, {"batch_size": 0}, ValueError, "batch_size is 0"),
        (PAIRS, {"activation_fn": "mine.F"}, ValueError, "activation_fn is 'mine.F'; supported: torch.nn's Identity"),
        (PAIRS, {"activation_fn": 3}, TypeError, "activation_fn is a int"),
        (PAIRS, {"activation_fn": lambda x: x[:1]}, ValueError, r"activation_fn gives shape \(1, 1\) of"),
        (PAIRS, {"device": "cuda:0"}, ValueError, "device is 'cuda:0'; needed: 'cpu'"),
        (PAIRS, {"convert_to_tensor": True}, ValueError, "convert_to_tensor is True; needed: False"),
        (PAIRS, {"pool": {}}, ValueError, "pool is {}; needed: what start_multi_process_pool"),
        (PAIRS, {"prompt_name": "dogs"}, ValueError, "prompt_name is 'dogs'; this model has: 'query', 'document'"),
        ([("\ud800", "a")], {}, ValueError, "lone surrogate"),
    ],
)
def test_bad_calls(encoder, inputs, options, error, text):
    with pytest.raises(error, match=text):
        encoder.predict(inputs, **options)


def test_bad_ranks(encoder, three):
    for arguments, error, text in (
        (("a", ["b"], 0), ValueError, "top_k is 0"),
        ((5, ["b"]), TypeError, "query is a int"),
        (("a", ["b", None]), TypeError, r"documents\[1\] is a NoneType"),
        (("a", "b"), TypeError, "documents is a str"),
    ):
        with pytest.raises(error, match=text):
            encoder.rank(*arguments)
    with pytest.raises(ValueError, match="the model has 3 labels; needed: 1"):
        CrossEncoder.from_pretrained(three).rank("a", ["b"])


def test_length_limit(folder, encoder):
    assert encoder.max_seq_length == 20
    long = ("the cat " * 20, "dog " * 20)
    short = CrossEncoder.from_pretrained(folder, max_length=9)
    assert short.predict(long) == short.predict(("the cat the", "dog dog dog"))  # 3 special tokens, 3 of each
    encoder.max_seq_length = 9
    assert encoder.predict(long) == short.predict(long)
    for length in (2, 33, 5.0):
        with pytest.raises(ValueError, match=f"max_seq_length is {length}; needed: 3 to 32"):
            encoder.max_seq_length = length


def with_modules(folder, kinds=("Transformer",), transformer=None, **config):
    """A folder as sentence-transformers 6 saves it."""
    write_head(folder, "SequenceClassification", 1)
    modules = [
        {"idx": i, "name": str(i), "path": "", "type": f"sentence_transformers.x.{k}"} for i, k in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_json(
        folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification"} | (transformer or {})
    )
    write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"} | config)
    return folder


def test_folders_with_modules(tmp_path, encoder):
    activation = "torch.nn.modules.linear.Identity"
    options = {"activation_fn": activation, "prompts": {"cats": "the cat "}, "default_prompt_name": "cats"}
    made = CrossEncoder.from_pretrained(with_modules(tmp_path / "m", **options))
    plain = [("the cat " + a, b) for a, b in PAIRS]
    assert np.array_equal(made.predict(PAIRS), encoder.predict(plain, activation_fn="Identity"))
    assert np.array_equal(made.predict(PAIRS, prompt="", activation_fn="Sigmoid"), encoder.predict(PAIRS))


@pytest.mark.parametrize(
    "options, text",
    [
        ({"kinds": ("Transformer", "Pooling")}, "the modules are Transformer, Pooling; supported: Transformer alone"),
        (
            {"kinds": ("Transformer", "LogitScore")},
            "a BertForSequenceClassification; .* needs here a model ForCausalLM",
        ),
        ({"model_type": "SparseEncoder"}, "model_type is 'SparseEncoder'; supported here: 'CrossEncoder'"),
        ({"activation_fn": "mine.F"}, "activation_fn is 'mine.F'; supported: torch.nn's"),
        ({"activation_fn": "torch.nn.modules.activation.Softmax"}, "activation_fn is '.*Softmax'; supported"),
        ({"colour": 3}, "holds colour; supported: "),
        ({"transformer": {"transformer_task": "text-generation"}}, "transformer_task is 'text-generation'"),
        ({"transformer": {"max_seq_length": 2}}, "length of a pair is 2 tokens; needed: at least 3"),
        ({"transformer": {"modality_config": {"message": {}}}}, "modality_config is .*'message'"),
    ],
    ids=str,
)
def test_folders_that_are_refused(tmp_path, options, text):
    with pytest.raises(CheckpointError, match=text):
        CrossEncoder.from_pretrained(with_modules(tmp_path / "m", **options))


def test_models_without_a_head(tmp_path):
    write_bert(tmp_path / "m", TINY_BERT)
    write_tokenizer(tmp_path / "m")
    with pytest.raises(
        CheckpointError, match="holds a BertModel; CrossEncoder needs here a model ForSequenceClassification"
    ):
        CrossEncoder.from_pretrained(tmp_path / "m")


def test_activation_of_older_folders(tmp_path, encoder):
    name = "torch.nn.modules.linear.Identity"
    older = write_head(tmp_path / "a", "SequenceClassification", 1, sbert_ce_default_activation_function=name)
    expected = encoder.predict(PAIRS, activation_fn="Identity")
    assert np.array_equal(CrossEncoder.from_pretrained(older).predict(PAIRS), expected)
    config = json.loads((older / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}  # the newer one wins
    write_json(older / "config.json", config)
    assert np.array_equal(CrossEncoder.from_pretrained(older).predict(PAIRS), encoder.predict(PAIRS))
    given = CrossEncoder.from_pretrained(older, activation_fn="Identity")
    assert np.array_equal(given.predict(PAIRS), expected)
