"""pipelines/ on pictures with the golden checkpoints; and the commands classify, tag and similarity."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from model_folders import write_json, write_sentence_model
from pipeline_folders import TEXTS, write_head

from transformer_fast import load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.pictures import ImageProcessor
from transformer_fast.pipelines import (
    ImageClassifier,
    ImageTextSimilarity,
    TextClassifier,
    TokenTagger,
    load_classifier,
    pictures,
)

Image = pytest.importorskip("PIL.Image")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

GOLDEN = Path(__file__).parent.parent / "golden"
PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}}
WORDS = [*"abcdefghijklmnopqrstuvwxyz", *"0123456789", "cat", "dog", "<start>", "<end>"]


def picture(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def deit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deit")
    shutil.copytree(GOLDEN / "deit", folder, dirs_exist_ok=True)
    write_json(folder / "preprocessor_config.json", PROCESSOR)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    shutil.copytree(GOLDEN / "clip", folder, dirs_exist_ok=True)
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 38), ("<end>", 39)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three pictures of several kinds, as files."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for i, shape in enumerate([(17, 23, 3), (30, 30), (20, 15, 4)]):
        paths.append(str(folder / f"{i}.png"))
        Image.fromarray(picture(*shape)).save(paths[-1])
    return paths


# ----------------------------------------------------------------------------------------------------------------------
# ImageClassifier


def test_labels_of_pictures(isa, deit, files):
    classifier = ImageClassifier.from_pretrained(deit)
    model, processor = load_model(deit), ImageProcessor.from_pretrained(deit)
    rgb = [Image.open(path).convert("RGB") for path in files]
    logits = model(**processor(rgb)).logits.astype(np.float64)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    results = classifier(files)
    for row, found in zip(scores, results, strict=True):
        assert [label["label"] for label in found] == [f"LABEL_{i}" for i in np.argsort(-row)]
        np.testing.assert_allclose([label["score"] for label in found], np.sort(row)[::-1], atol=1e-6)
    assert classifier(files[0]) == classifier(Path(files[0])) == classifier(rgb[0]) == results[0]
    assert classifier(np.asarray(rgb[0])) == results[0] and classifier(np.asarray(rgb[0])[None]) == results[:1]
    assert classifier(files[0], top_k=1) == results[0][:1]
    assert classifier(files, top_k=None) == results


def test_pictures_in_batches(deit, monkeypatch):
    classifier = ImageClassifier.from_pretrained(deit)
    many = [picture(14, 12, 3, seed=i) for i in range(5)]
    expected = classifier(many)
    monkeypatch.setattr(pictures, "_BATCH", 2)
    assert classifier(many) == expected


@pytest.mark.parametrize(
    "images, options, error, text",
    [
        (5, {}, TypeError, "images is a int; needed: a path"),
        (b"a.png", {}, TypeError, "images is a bytes"),
        ([], {}, ValueError, "images is empty"),
        ([None], {}, TypeError, r"images\[0\] is a NoneType"),
        ("missing.png", {}, OSError, "missing.png"),
        (picture(5, 5, 3), {"top_k": 0}, ValueError, "top_k is 0"),
        (picture(5, 5, 3), {"function_to_apply": "max"}, ValueError, "function_to_apply is 'max'"),
    ],
)
def test_bad_pictures(deit, images, options, error, text):
    with pytest.raises(error, match=text):
        ImageClassifier.from_pretrained(deit)(images, **options)


def test_models_of_another_kind(tmp_path, deit, clip):
    with pytest.raises(CheckpointError, match="holds a CLIPModel; ImageClassifier needs"):
        ImageClassifier.from_pretrained(clip)
    with pytest.raises(CheckpointError, match="ImageTextSimilarity needs a CLIPModel"):
        ImageTextSimilarity.from_pretrained(deit)
    assert isinstance(load_classifier(deit), ImageClassifier)
    text = write_head(tmp_path / "text", "SequenceClassification")
    assert isinstance(load_classifier(text), TextClassifier)


# ----------------------------------------------------------------------------------------------------------------------
# ImageTextSimilarity


def test_similarity_is_the_models(isa, clip, files):
    pipeline = ImageTextSimilarity.from_pretrained(clip)
    texts = ["a cat", "dog 7 b", "x"]
    ids = np.zeros((3, 5), int)
    mask = np.zeros((3, 5), int)
    for row, text in enumerate(texts):
        tokens = [38, *map(WORDS.index, text.split()), 39]
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    rgb = [Image.open(path).convert("RGB") for path in files]
    output = load_model(clip)(ids, ImageProcessor.from_pretrained(clip)(rgb)["pixel_values"], mask)
    np.testing.assert_allclose(pipeline.encode_texts(texts), output.text_embeds, atol=1e-6)
    np.testing.assert_allclose(pipeline.encode_images(files), output.image_embeds, atol=1e-6)
    logits = output.logits_per_image.astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(pipeline(files, texts), expected, atol=1e-6)
    cosines, probabilities = pipeline.compare(files[0], texts[0])
    assert cosines.shape == (1, 1) and probabilities == 1
    long = pipeline.encode_texts("cat " * 50)
    np.testing.assert_array_equal(long, pipeline.encode_texts("cat " * 8))


def test_bad_calls_of_similarity(clip, files):
    pipeline = ImageTextSimilarity.from_pretrained(clip)
    with pytest.raises(ValueError, match="texts is empty"):
        pipeline(files, [])
    with pytest.raises(TypeError, match=r"texts\[0\] is a int"):
        pipeline(files, [5])


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def test_classify(run, tmp_path, deit, files):
    folder = str(write_head(tmp_path / "model", "SequenceClassification"))
    classifier = TextClassifier.from_pretrained(folder)
    code, out, err = run("classify", TEXTS[0], TEXTS[1], "--model", folder)
    assert (code, err) == (0, "")
    for line, text in zip(out.splitlines(), TEXTS[:2], strict=True):
        best = classifier(text)
        assert line.split() == [f"{best['score']:.3f}", best["label"], *text.split()]
    code, out, _ = run("classify", TEXTS[0], "--model", folder, "--top", "3", "--json")
    assert json.loads(out) == [{"input": TEXTS[0], "labels": classifier(TEXTS[0], top_k=3)}]
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat\nthe dog\n", encoding="utf-8")
    code, out, _ = run("classify", "--file", str(lines), "--model", folder, "--top", "2")
    assert code == 0 and len(out.splitlines()) == 4
    code, out, _ = run("classify", *files, "--model", str(deit), "--json")
    assert [entry["input"] for entry in json.loads(out)] == files


def test_tag(run, tmp_path):
    folder = str(write_head(tmp_path / "model", "TokenClassification"))
    tagger = TokenTagger.from_pretrained(folder)
    code, out, err = run("tag", TEXTS[0], "--model", folder)
    entities = tagger(TEXTS[0], aggregation_strategy="simple")
    assert (code, err) == (0, "") and out.splitlines()[0] == TEXTS[0] and len(out.splitlines()) == 1 + len(entities) > 1
    for line, entity in zip(out.splitlines()[1:], entities, strict=True):
        score, label, place, *words = line.split()
        assert (float(score), label) == (round(entity["score"], 3), entity["entity_group"])
        assert place == f"{entity['start']}-{entity['end']}"
        assert " ".join(words) == TEXTS[0][entity["start"] : entity["end"]]
    code, out, _ = run("tag", TEXTS[0], "--model", folder, "--strategy", "none", "--json")
    assert json.loads(out) == [{"text": TEXTS[0], "entities": tagger(TEXTS[0])}]


def test_similarity_of_texts(run, tmp_path):
    folder = str(write_sentence_model(tmp_path))
    code, out, err = run("similarity", "the cat", "the dog", "The Cat", "--model", folder, "--json")
    assert (code, err) == (0, "")
    pairs = json.loads(out)
    assert len(pairs) == 3 and [pair["similarity"] for pair in pairs] == sorted(p["similarity"] for p in pairs)[::-1]
    assert (pairs[0]["a"], pairs[0]["b"]) == ("the cat", "The Cat") and abs(pairs[0]["similarity"] - 1) < 1e-5
    assert run("similarity", "the cat", "the dog", "--model", folder)[1].split("  ")[1] == "the cat"


def test_similarity_with_pictures(run, clip, files):
    arguments = ("similarity", "a cat", "dog", "--model", str(clip), "--image", files[0], "--image", files[1])
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [entry["image"] for entry in found] == [files[0]] * 2 + [files[1]] * 2
    cosines, shares = ImageTextSimilarity.from_pretrained(clip).compare(files[:2], ["a cat", "dog"])
    for entry in found:
        place = files.index(entry["image"]), ["a cat", "dog"].index(entry["text"])
        assert entry["similarity"] == float(cosines[place]) and entry["probability"] == float(shares[place])
    assert len(run(*arguments)[1].splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["classify", "a"], 2, "--model"),
        (["classify", "a", "--model", "nowhere/at/all"], 1, "there is no such folder"),
        (["classify", "a", "--model", "x", "--top", "0"], 2, "--top"),
        (["tag", "a", "--file", "b", "--model", "x"], 2, "both as arguments and by --file"),
        (["tag", "a", "--model", "x", "--strategy", "best"], 2, "--strategy"),
        (["similarity", "a"], 2, "one text alone"),
        (["similarity", "a", "--image", "b.png"], 2, "--image needs --model"),
    ],
)
def test_bad_arguments(run, arguments, code, text):
    got, out, err = run(*arguments)
    assert (got, out) == (code, "") and text in err and err.count("\n") == 1


def test_a_file_that_is_no_picture(run, deit):
    code, out, err = run("classify", __file__, "--model", str(deit))
    assert (code, out) == (1, "") and "cannot identify image file" in err
