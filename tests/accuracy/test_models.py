"""`accuracy.compare` on tiny folders of each kind: equal models are equal, others are as far apart as their outputs."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from decoder_cases import write_byte_gpt2
from model_folders import TINY_BERT, bert_tensors, write_bert, write_json, write_sentence_model, write_tokenizer
from pipeline_folders import TEXTS, write_head

from transformer_fast import SentenceEncoder, load_model
from transformer_fast.accuracy import compare, runners
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.generation import load_tokenizer
from transformer_fast.models import find_class
from transformer_fast.pipelines import TextClassifier, TokenTagger

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


def write_encoder(folder):
    write_tokenizer(write_bert(folder))
    return folder


def write_language_model(folder):
    folder.mkdir()
    return write_byte_gpt2(folder)


FOLDERS = {
    "sentence encoder": write_sentence_model,
    "encoder without a head": write_encoder,
    "text classifier": lambda folder: write_head(folder, "SequenceClassification"),
    "token classifier": lambda folder: write_head(folder, "TokenClassification"),
    "language model": write_language_model,
    "masked language model": lambda folder: write_head(folder, "MaskedLM"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    return {kind: write(root / str(i)) for i, (kind, write) in enumerate(FOLDERS.items())}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_model_next_to_itself(folders, kind):
    found = compare(folders[kind], "float32", TEXTS, rounds=2)
    assert found.kind == ("sentence encoder" if "without" in kind else kind)
    assert found.model_class == find_class(open_source(folders[kind])).__name__
    differences = asdict(found.differences)
    if "cosine" in differences:
        assert set(differences["cosine"].values()) == {1.0}
    expected = {"rank_correlation": 1, "changed": 0, "largest_change": 0, "mean_change": 0, "agreement": 1}
    expected |= {"mean_absolute_change": 0, "examples": ()}
    named = expected.keys() & differences.keys()
    assert named and {name: differences[name] for name in named} == {name: expected[name] for name in named}
    if kind == "language model":
        assert found.differences.reference_perplexity == found.differences.compared_perplexity > 1
    reference, compared = asdict(found.reference), asdict(found.compared)
    assert {name: reference[name] for name in reference if "bytes" in name} == {
        name: compared[name] for name in compared if "bytes" in name
    }
    assert found.texts == len(TEXTS) and found.rounds == 2 and found.speedup > 0


@pytest.mark.parametrize("kind", FOLDERS)
def test_batches_change_nothing(folders, kind):
    one, all_at_once = (compare(folders[kind], "int8", TEXTS, batch_size=n, rounds=1) for n in (1, 64))
    assert one.tokens == all_at_once.tokens > len(TEXTS)

    def flat(value):
        if isinstance(value, dict):
            return {name: flat(part) for name, part in value.items() if name != "examples"}
        return value if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)

    assert asdict(one.differences) | {"examples": 0} == flat(asdict(all_at_once.differences)) | {"examples": 0}
    assert one.compared.packed_bytes < one.reference.packed_bytes


def test_embeddings_are_the_encoders(folders):
    folder = folders["sentence encoder"]
    a, b = (SentenceEncoder.from_pretrained(folder, compute_type=name).encode(TEXTS) for name in ("float32", "int8"))
    a, b = (x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (a, b))
    found = compare(folder, "int8", TEXTS, rounds=1).differences
    assert found.cosine.mean == pytest.approx((a * b).sum(axis=1).mean(), abs=1e-12)
    assert found.cosine.least == pytest.approx((a * b).sum(axis=1).min(), abs=1e-12) and found.cosine.least < 1


def test_labels_are_the_classifiers(folders):
    folder = folders["text classifier"]
    results = []
    for name in ("float32", "int8"):
        found = TextClassifier.from_pretrained(folder, compute_type=name)(TEXTS, top_k=None)
        results.append([{label["label"]: label["score"] for label in labels} for labels in found])
    changes = [abs(b[label] - a[label]) for a, b in zip(*results, strict=True) for label in a]
    found = compare(folder, "int8", TEXTS, rounds=1).differences
    assert found.labelled == len(TEXTS)
    assert found.largest_change == pytest.approx(max(changes), abs=1e-7) and max(changes) > 1e-5
    assert found.mean_change == pytest.approx(np.mean(changes), abs=1e-7)


def test_token_labels_are_the_taggers(folders):
    folder = folders["token classifier"]
    tagger = TokenTagger.from_pretrained(folder)
    entities = [entity for found in tagger(TEXTS, ignore_labels=()) for entity in found]
    assert compare(folder, "float32", TEXTS, rounds=1).differences.labelled == len(entities)
    found = runners.TokenClassRunner(open_source(folder), "float32", ()).run(TEXTS)
    labels = [(tagger.labels[row.argmax()], row.max()) for row in found.probabilities]
    assert sorted(labels) == sorted((entity["entity"], np.float32(entity["score"])) for entity in entities)
    # Texts run together by length: each row has to know its text and its token.
    assert sorted(found.texts) == [i for i, own in enumerate(tagger(TEXTS, ignore_labels=())) for _ in own]
    first = [token for i, token in zip(found.texts, found.tokens, strict=True) if i == 0]
    assert [tagger.tokenizer.tokenizer.id_to_token(token) for token in first] == TEXTS[0].replace(".", " .").split()


def expected_next_tokens(folder, texts):
    """Of each text alone, from the logits of the whole model."""
    model, tokenizer, best, logarithms = load_model(folder), load_tokenizer(folder), [], []
    for text in filter(None, texts):
        ids = np.array([tokenizer.encode(text).ids])
        logits = model(ids).logits[0].astype(np.float64)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        best.append(logits.argmax(axis=1))
        logarithms.append(logits[np.arange(ids.shape[1] - 1), ids[0, 1:]])
    return np.concatenate(best), np.concatenate(logarithms)


@pytest.mark.parametrize("scores", [1, 256 * 7, 1 << 24])
def test_next_tokens_are_the_models(folders, monkeypatch, scores):
    """However few scores may be in memory together."""
    monkeypatch.setattr(runners, "_MOST_SCORES", scores)
    folder, texts = folders["language model"], sorted(TEXTS, key=lambda text: len(text.encode()), reverse=True)
    best, logarithms = expected_next_tokens(folder, texts)
    found = runners.NextTokenRunner(open_source(folder), "float32", ()).run(texts)
    assert found.best.tolist() == best.tolist()
    np.testing.assert_allclose(found.log_probabilities, logarithms, atol=1e-5)
    perplexity = compare(folder, "bfloat16", texts, rounds=1).differences.reference_perplexity
    assert perplexity == pytest.approx(np.exp(-logarithms.mean()), rel=1e-5)


def test_long_texts_are_cut_off(folders):
    assert compare(folders["language model"], "float32", ["a" * 1000], rounds=1).tokens == 400
    assert compare(folders["masked language model"], "float32", ["cat " * 100], rounds=1).tokens == 20


def test_masked_words_are_the_models(folders, monkeypatch):
    monkeypatch.setattr(runners, "_MOST_SCORES", 1)
    folder = folders["masked language model"]
    runner = runners.MaskedWordRunner(open_source(folder), "float32", ())
    found = runner.run(TEXTS[:1])
    ids = np.array([runner._pipeline._encodings(TEXTS[:1], truncation=True)[0].ids])
    output = load_model(folder)(ids, output_hidden_states=True)
    assert found.best.tolist() == output.logits[0, 1:-1].argmax(axis=1).tolist()
    np.testing.assert_allclose(found.hidden, output.hidden_states[-1][0, 1:-1], atol=1e-5)


def test_memory(folders):
    """Packed: all matrices of the layers, a quarter of the bytes in 8 bits; beside them tables, biases and norms."""
    found = compare(folders["encoder without a head"], "int8", TEXTS, rounds=1)
    h, inner, n = TINY_BERT["hidden_size"], TINY_BERT["intermediate_size"], TINY_BERT["num_hidden_layers"]
    tables = h * (TINY_BERT["vocab_size"] + TINY_BERT["max_position_embeddings"] + TINY_BERT["type_vocab_size"])
    vectors = n * (4 * h + inner + h + 4 * h) + 2 * h
    pooler = load_model(folders["encoder without a head"]).pooler is not None
    assert found.reference.other_bytes == found.compared.other_bytes == 4 * (tables + vectors + pooler * h)
    matrices = 4 * n * (4 * h * h + 2 * h * inner)
    assert matrices <= found.reference.packed_bytes < 2.5 * matrices  # panels are filled up

    def most(N, K):
        """A byte a number, panels of 32 columns and 64 k filled up; for each column three numbers, for each k one."""
        columns = -(-N // 32) * 32
        return columns * -(-K // 64) * 64 + 12 * columns + 4 * K

    in_bytes = n * (most(3 * h, h) + most(h, h) + most(inner, h) + most(h, inner)) + pooler * most(h, h)
    assert matrices / 4 <= found.compared.packed_bytes <= in_bytes


def test_parts_may_have_types_of_their_own(folders):
    found = compare(folders["encoder without a head"], {"": "int8", "layers": "float32"}, TEXTS, rounds=1)
    assert found.differences.cosine.least == 1


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
        {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
        {"model_type": "bert", "architectures": ["BertForQuestionAnswering"]},
        {"model_type": "bert", "architectures": ["BertForMultipleChoice"]},
        {"model_type": "bert", "architectures": ["BertForNextSentencePrediction"]},
        {"model_type": "electra", "architectures": ["ElectraForPreTraining"]},
        {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]},
        {"model_type": "vit", "architectures": ["ViTModel"]},
    ],
    ids=lambda config: config["architectures"][0],
)
def test_other_kinds_are_refused(tmp_path, config):
    write_json(tmp_path / "config.json", config)
    message = f"holds a {config['architectures'][0]}, which cannot be compared; supported: sentence encoders, text"
    with pytest.raises(CheckpointError, match=message):
        compare(tmp_path, "int8", TEXTS)


@pytest.mark.parametrize(
    "arguments, options, error, text",
    [
        (("int3", TEXTS), {}, ValueError, "compute_type is 'int3'; needed: one of auto, auto_a8, float32"),
        (("int8", []), {}, ValueError, "texts is empty; needed: at least one text"),
        (("int8", ["a", 3]), {}, TypeError, r"texts\[1\] is a int; needed: a string"),
        (("int8", TEXTS), {"batch_size": 0}, ValueError, "batch_size is 0; needed: an integer >= 1"),
        (("int8", TEXTS), {"rounds": True}, ValueError, "rounds is True; needed: an integer >= 1"),
        (("int8", ["a", ""]), {}, ValueError, "at most one token each; needed: at least one with two"),
    ],
)
def test_bad_arguments(folders, arguments, options, error, text):
    with pytest.raises(error, match=text):
        compare(folders["language model"], *arguments, **options)


def test_folders_that_are_no_models(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        compare(tmp_path / "nowhere", "int8", TEXTS)
    with pytest.raises(CheckpointError, match="config.json: there is no such file"):
        compare(tmp_path, "int8", TEXTS)
    write_json(tmp_path / "config.json", {"model_type": "mamba"})
    with pytest.raises(CheckpointError, match="model_type is 'mamba'; supported"):
        compare(tmp_path, "int8", TEXTS)


def test_a_broken_model_does_not_look_fine(tmp_path):
    """NaN in the weights: no agreement is told that is not there."""
    tensors = bert_tensors()
    tensors["encoder.layer.1.output.dense.bias"][:] = np.nan
    write_tokenizer(write_bert(tmp_path / "nan", tensors=tensors))
    found = compare(tmp_path / "nan", "int8", TEXTS, rounds=1).differences
    assert np.isnan(found.cosine.mean) and np.isnan(found.cosine.least)
