"""pipelines/ on texts against transformers' own answers (golden); batches, order of the results, checks, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from model_folders import write_bert, write_json, write_tokenizer
from pipeline_folders import LABELS, QUESTIONS, TEXTS, write_head
from support import alike

from transformer_fast import functional as F
from transformer_fast.files.errors import CheckpointError
from transformer_fast.pipelines import FillMask, QuestionAnswerer, TextClassifier, TokenTagger, texts

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

ANSWERS = json.loads((Path(__file__).parent.parent / "golden" / "pipelines.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """task -> the folder of its model, made when first asked for."""
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def folder(task):
        if task not in made:
            made[task] = write_head(root / task, task)
        return made[task]

    return folder


@pytest.fixture
def classifier(folders):
    return TextClassifier.from_pretrained(folders("SequenceClassification"))


@pytest.fixture
def tagger(folders):
    return TokenTagger.from_pretrained(folders("TokenClassification"))


@pytest.fixture
def answerer(folders):
    return QuestionAnswerer.from_pretrained(folders("QuestionAnswering"))


@pytest.fixture
def fill(folders):
    return FillMask.from_pretrained(folders("MaskedLM"))


# ----------------------------------------------------------------------------------------------------------------------
# TextClassifier


def test_classifier_answers_as_transformers(isa, classifier):
    alike(classifier(TEXTS, top_k=None), ANSWERS["classify"])
    alike(classifier(TEXTS), [found[0] for found in ANSWERS["classify"]])
    alike(classifier([(TEXTS[0], TEXTS[1]), (TEXTS[4], TEXTS[0])]), ANSWERS["classify pairs"])
    alike(classifier((TEXTS[0], TEXTS[1])), ANSWERS["classify pairs"][0])
    alike(classifier(TEXTS[1]), ANSWERS["classify"][1][0])
    alike(classifier(TEXTS[1], top_k=2), ANSWERS["classify"][1][:2])


def test_scores_by_problem_type(tmp_path):
    several = write_head(tmp_path / "a", "SequenceClassification", problem_type="multi_label_classification")
    several = TextClassifier.from_pretrained(several)
    alike(several(TEXTS, top_k=2), ANSWERS["classify several"])
    logits = several.logits(TEXTS)
    assert logits.shape == (len(TEXTS), len(LABELS)) and logits.dtype == np.float32
    raw = several(TEXTS, top_k=None, function_to_apply="none")
    for row, found in zip(logits, raw, strict=True):
        assert [label["score"] for label in found] == sorted(map(float, row), reverse=True)
    regression = write_head(tmp_path / "b", "SequenceClassification", labels=1, problem_type="regression")
    regression = TextClassifier.from_pretrained(regression)
    assert regression(TEXTS[0])["score"] == float(regression.logits(TEXTS[0])[0, 0])
    one = TextClassifier.from_pretrained(write_head(tmp_path / "c", "SequenceClassification", labels=1))
    assert one.function == "sigmoid"
    expected = 1 / (1 + np.exp(-one.logits(TEXTS)[:, 0].astype(np.float64)))
    np.testing.assert_allclose([found["score"] for found in one(TEXTS)], expected, atol=1e-6)


def test_results_do_not_depend_on_company(classifier, threads):
    many = [TEXTS[i % 5] for i in range(900)]
    assert sum(len(e) for e in classifier._encodings(many, truncation=True)) > texts._ENOUGH_TOKENS * threads
    together = classifier.logits(many)
    F.set_num_threads(1)
    alone = np.concatenate([classifier.logits(text) for text in TEXTS])
    np.testing.assert_array_equal(together, alone[np.arange(900) % 5])
    assert classifier([]) == [] and classifier.logits([]).shape == (0, len(LABELS))


def test_batches_hold_every_index_once():
    lengths = np.random.default_rng(0).integers(0, 5000, 60).tolist()
    found = list(texts.batches(lengths))
    assert sorted(i for batch in found for i in batch) == list(range(60))
    for batch in found:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= texts._MOST_TOKENS
    ordered = [lengths[i] for batch in found for i in batch]
    assert ordered == sorted(ordered, reverse=True)
    assert list(texts.batches([])) == []


def test_texts_that_are_too_long(classifier):
    long = "the cat " * 30
    assert classifier(long) == classifier("the cat " * 9)
    with pytest.raises(ValueError, match=r"the text 'the cat the cat .*' has 62 tokens; needed: at most 20"):
        classifier(long, truncation=False)


@pytest.mark.parametrize(
    "arguments, options, error, text",
    [
        ((5,), {}, TypeError, "texts is a int; needed: a string or a pair of strings"),
        ((b"a",), {}, TypeError, "texts is a bytes"),
        ((("a", 5),), {}, TypeError, "texts is a tuple"),
        ((["a", 5],), {}, TypeError, r"texts\[1\] is a int"),
        ((["a", ("a", "b", "c")],), {}, TypeError, r"texts\[1\] is a tuple"),
        (("a",), {"top_k": 0}, ValueError, "top_k is 0; needed: an integer >= 1, or None"),
        (("a",), {"top_k": True}, ValueError, "top_k is True"),
        (("a",), {"function_to_apply": "tanh"}, ValueError, "function_to_apply is 'tanh'; needed: one of softmax"),
        (("\ud800",), {}, ValueError, "lone surrogate"),
        ((("a", "\udc00"),), {}, ValueError, "lone surrogate"),
    ],
)
def test_bad_calls_of_the_classifier(classifier, arguments, options, error, text):
    with pytest.raises(error, match=text):
        classifier(*arguments, **options)


# ----------------------------------------------------------------------------------------------------------------------
# TokenTagger


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_tagger_answers_as_transformers(isa, tagger, strategy):
    alike(tagger(TEXTS, aggregation_strategy=strategy), ANSWERS[f"tag {strategy}"])
    alike(tagger(TEXTS[0], aggregation_strategy=strategy), ANSWERS[f"tag {strategy}"][0])


def test_windows_of_a_long_text(tagger):
    long = " ".join(TEXTS)
    alike(tagger(long, aggregation_strategy="simple", stride=5), ANSWERS["tag stride"])
    assert max(entity["end"] for entity in ANSWERS["tag stride"]) > max(e["end"] for e in tagger(long))
    short = tagger(TEXTS[0], aggregation_strategy="simple", stride=5)
    assert short == tagger(TEXTS[0], aggregation_strategy="simple")


def test_labels_that_are_left_out(tagger):
    everything = tagger(TEXTS[3], ignore_labels=())
    assert [e for e in everything if e["entity"] != "LOC"] == tagger(TEXTS[3], ignore_labels={"LOC"})
    for entity in everything:
        assert TEXTS[3][entity["start"] : entity["end"]].lower() == entity["word"].removeprefix("##")


@pytest.mark.parametrize(
    "options, text",
    [
        ({"aggregation_strategy": "last"}, "aggregation_strategy is 'last'; needed: one of none, simple"),
        ({"stride": 3}, "stride is given with aggregation_strategy 'none'"),
        ({"stride": 18, "aggregation_strategy": "max"}, "stride is 18; needed: an integer from 0 to 17"),
        ({"stride": -1, "aggregation_strategy": "max"}, "stride is -1"),
    ],
)
def test_bad_calls_of_the_tagger(tagger, options, text):
    with pytest.raises(ValueError, match=text):
        tagger(TEXTS, **options)
    with pytest.raises(TypeError, match=r"texts\[0\] is a tuple; needed: a string$"):
        tagger([("a", "b")])


# ----------------------------------------------------------------------------------------------------------------------
# QuestionAnswerer (transformers 5 has no such pipeline: tests/oracle/test_pipelines.py tries every span)


def test_answers_stand_where_they_say(isa, answerer):
    long = " ".join(TEXTS)
    contexts = [TEXTS[3], long, TEXTS[0]]
    together = answerer(QUESTIONS, contexts, top_k=4)
    for question, context, answers in zip(QUESTIONS, contexts, together, strict=True):
        assert answerer(question, context, top_k=4) == answers
        scores = [answer["score"] for answer in answers]
        assert scores == sorted(scores, reverse=True) and scores[0] > 0
        assert len({answer["answer"].lower() for answer in answers}) == len(answers) > 1
        for answer in answers:
            assert context[answer["start"] : answer["end"]] == answer["answer"]
    assert answerer("far", " ") == {"score": 0.0, "start": 0, "end": 0, "answer": ""}


def test_windows_of_a_long_context(answerer):
    long = "the cat sat on the mat. " * 8
    assert len(answerer._windows(["the dog?"], [long], None, 4)[0]) > 3
    narrow = answerer("the dog?", long, doc_stride=4, top_k=50, max_answer_len=1, align_to_words=False)
    assert max(answer["end"] for answer in narrow) <= len(long)
    words = {answer["answer"] for answer in narrow}
    assert words <= set("the cat sat on mat .".split())


def test_no_answer_competes(answerer):
    found = answerer("far", TEXTS[0], handle_impossible_answer=True, top_k=1000)
    nothing = [answer for answer in found if not answer["answer"]]
    assert len(nothing) == 1 and nothing[0]["start"] == nothing[0]["end"] == 0 and nothing[0]["score"] > 0
    assert all(answer["answer"] for answer in answerer("far", TEXTS[0], top_k=1000))


@pytest.mark.parametrize(
    "arguments, options, error, text",
    [
        ((5, "a"), {}, TypeError, "question is a int"),
        (("a", ["b"]), {}, ValueError, "1 questions and 1 contexts"),
        ((["a", "b"], ["c"]), {}, ValueError, "2 questions and 1 contexts; needed: as many"),
        (("a", "b"), {"top_k": 0}, ValueError, "top_k is 0"),
        (("a", "b"), {"max_answer_len": 0}, ValueError, "max_answer_len is 0"),
        (("a", "b"), {"max_seq_len": 21}, ValueError, "max_seq_len is 21; needed: an integer from 1 to 20"),
        (("a", "b"), {"doc_stride": 20}, ValueError, "doc_stride is 20; needed: an integer from 0 to 19"),
        (("the " * 16, "b"), {"doc_stride": 1}, ValueError, "has 16 tokens, which leaves 1 of max_seq_len=20"),
        (("the " * 30, "b"), {}, ValueError, "has 30 tokens, which leaves -13 of"),
    ],
)
def test_bad_questions(answerer, arguments, options, error, text):
    with pytest.raises(error, match=text):
        answerer(*arguments, **options)


# ----------------------------------------------------------------------------------------------------------------------
# FillMask


def test_fill_mask_answers_as_transformers(isa, fill):
    inputs = ["the [MASK] sat on the mat.", "[MASK] ran [MASK]!"]
    alike(fill(inputs, top_k=3), ANSWERS["fill"])
    alike(fill(inputs[1], top_k=3), ANSWERS["fill"][1])
    alike(fill("the [MASK] sat.", targets=["cat", "dog"]), ANSWERS["fill targets"])
    assert len(fill(inputs[0], top_k=None)) == 64
    assert len(fill(inputs[0], top_k=9, targets="cat")) == 1


@pytest.mark.parametrize(
    "text, options, message",
    [
        (["[MASK]", "the cat"], {}, r"texts\[1\] is 'the cat'; needed: a text with \[MASK\] in it"),
        ("[MASK]" + " a" * 19, {}, "needed: at most 20"),
        ("[MASK]", {"targets": "zebra"}, "targets holds 'zebra'"),
        ("[MASK]", {"targets": []}, "targets is empty"),
        ("[MASK]", {"top_k": 0}, "top_k is 0"),
    ],
)
def test_bad_masks(fill, text, options, message):
    with pytest.raises(ValueError, match=message):
        fill(text, **options)


# ----------------------------------------------------------------------------------------------------------------------
# Folders


def test_models_of_another_kind(folders, tmp_path):
    with pytest.raises(CheckpointError, match="holds a BertForMaskedLM; TextClassifier needs a model ForSequence"):
        TextClassifier.from_pretrained(folders("MaskedLM"))
    folder = write_bert(tmp_path / "headless")
    write_tokenizer(folder)
    with pytest.raises(CheckpointError, match="holds a BertModel; TokenTagger needs"):
        TokenTagger.from_pretrained(folder)


@pytest.mark.parametrize(
    "file, content, text",
    [
        ("tokenizer.json", {}, "not a tokenizer"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {str(57 + i): {"content": f"<{i}>"} for i in range(9)}, "mask_token": "<m>"},
            "mask_token '<m>' is added to the vocabulary as token",
        ),
        ("tokenizer_config.json", {"padding_side": "top"}, "padding_side is 'top'; needed: left or right"),
        ("tokenizer_config.json", {"truncation_side": 5}, "truncation_side is 5"),
        ("special_tokens_map.json", [], "special_tokens_map.json: holds a JSON list"),
    ],
)
def test_files_that_do_not_fit(tmp_path, file, content, text):
    folder = write_head(tmp_path / "model", "MaskedLM")
    write_json(folder / file, content)
    with pytest.raises(CheckpointError, match=text):
        FillMask.from_pretrained(folder)


def test_problem_types_that_are_not_known(tmp_path):
    folder = write_head(tmp_path / "model", "SequenceClassification", problem_type="ranking")
    with pytest.raises(CheckpointError, match="problem_type is 'ranking'; supported: None, regression"):
        TextClassifier.from_pretrained(folder)


def test_special_tokens_that_no_file_names(tmp_path):
    folder = write_head(tmp_path / "model", "MaskedLM")
    write_json(folder / "tokenizer_config.json", {})
    assert FillMask.from_pretrained(folder).mask == "[MASK]"
    content = (folder / "tokenizer.json").read_text(encoding="utf-8").replace("[MASK]", "[HOLE]")
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    assert FillMask.from_pretrained(folder).mask == "[MASK]"  # BertTokenizer adds its own
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    with pytest.raises(CheckpointError, match="names no mask_token; FillMask needs one"):
        FillMask.from_pretrained(folder)


def test_special_tokens_from_their_own_file(tmp_path):
    folder = write_head(tmp_path / "model", "MaskedLM")
    write_json(folder / "tokenizer_config.json", {})
    write_json(folder / "special_tokens_map.json", {"mask_token": {"content": "[PAD]", "lstrip": True}})
    assert FillMask.from_pretrained(folder).mask == "[PAD]"


# ----------------------------------------------------------------------------------------------------------------------
# Packing


def test_hidden_states_are_those_of_padded_texts(isa, answerer):
    """Pipelines whose heads read tokens run packed: the bits of a padded call, token types of pairs included."""
    pairs = [*zip(TEXTS, reversed(TEXTS), strict=True), (TEXTS[0], "")]
    encodings = answerer._encodings(pairs, truncation=True)
    expected = answerer.model.base(**answerer._arguments(encodings)).last_hidden_state
    seen = []
    for indices, rows, cu_seqlens in answerer._hidden(encodings):
        for i, own in zip(indices, np.split(rows, cu_seqlens[1:-1]), strict=True):
            assert np.array_equal(own, expected[i, : len(encodings[i])])
        seen += indices
    assert sorted(seen) == list(range(len(pairs)))
