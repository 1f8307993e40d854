"""transformer-fast compare: what it prints where, where its texts come from, its exit codes. The models are tiny."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from decoder_cases import write_byte_gpt2
from model_folders import write_json, write_sentence_model
from pipeline_folders import TEXTS, write_head

from transformer_fast import passages
from transformer_fast.accuracy import Comparison
from transformer_fast.commands import common
from transformer_fast.files.errors import CheckpointError
from transformer_fast.functional.linear import FORMATS
from transformer_fast.passages import Collection, Passage
from transformer_fast.weights import find_minilm

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_model(tmp_path_factory.mktemp("compare") / "model")


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(["the cat sat", "", "a dog ran far", "  ", "on the mat"]) + "\n")
    return path


def test_compute_types_are_those_of_the_engine():
    assert common.COMPUTE_TYPES == ("auto", "auto_a8", *FORMATS)


@pytest.mark.parametrize(
    "command", ["embed", "search", "rerank", "similarity", "classify", "tag", "generate", "compare"]
)
def test_help_names_every_compute_type(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0 and all(name in out for name in FORMATS)


def test_report(run, folder, lines):
    code, out, err = run("compare", str(folder), "--compute-type", "int8", "--file", str(lines))
    assert code == 0 and err == "transformer-fast: running 3 texts as float32 and as int8\n"
    found = out.splitlines()
    assert found[0].startswith("BertModel, sentence encoder: 3 texts, ") and found[0].endswith(" tokens")
    assert found[1] == "int8 next to float32:"
    for text in ("cosine of the embeddings", "rank correlation", "packed weights, MB", "loading, s", "running all"):
        assert text in out
    assert found[-1].startswith("ratio: float32 over int8. Medians of 3 rounds")


@pytest.mark.parametrize(
    "task, texts",
    [
        ("SequenceClassification", ("labels that change", "change of a probability")),
        ("TokenClassification", ("labels that change", "change of a probability")),
        ("MaskedLM", ("cosine of the hidden states", "same most likely word")),
    ],
)
def test_report_of_heads(run, tmp_path, lines, task, texts):
    folder = write_head(tmp_path / "model", task)
    code, out, _ = run("compare", str(folder), "--compute-type", "int8_a16", "--file", str(lines), "--limit", "2")
    assert code == 0 and f"BertFor{task}" in out and "2 texts" in out
    assert all(text in out for text in texts)


def test_report_of_a_language_model(run, tmp_path, lines):
    folder = write_byte_gpt2(tmp_path)
    code, out, _ = run("compare", str(folder), "--compute-type", "bfloat16", "--file", str(lines))
    assert code == 0 and "GPT2LMHeadModel, language model" in out
    for text in ("same most likely next token", "change of a token's log-likelihood", "perplexity"):
        assert text in out


def test_json(run, folder, lines):
    arguments = ("compare", str(folder), "--compute-type", "float32", "--file", str(lines), "--batch-size", "1")
    code, out, _ = run(*arguments, "--json")
    found = json.loads(out)
    assert code == 0 and found.keys() == {field.name for field in fields(Comparison)}
    assert (found["model"], found["texts"], found["compute_type"]) == (str(folder), 3, "float32")
    assert found["differences"] == {
        "cosine": {"mean": 1.0, "quantile_01": 1.0, "least": 1.0},
        "rank_correlation": 1.0,
    }
    assert found["reference"].keys() == {"load_seconds", "run_seconds", "packed_bytes", "other_bytes"}


def test_changed_labels_in_json(run, tmp_path, lines):
    """Two labels that are all but equally probable: the rounding of int8 chooses."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = write_head(tmp_path / "model", "SequenceClassification", labels=2)
    tensors = load_file(folder / "model.safetensors")
    weight = tensors["classifier.weight"]
    tensors["classifier.weight"] = np.stack([weight[0], np.nextafter(weight[0], 9)])
    tensors["classifier.bias"] = np.zeros(2, np.float32)
    save_file(tensors, folder / "model.safetensors")
    file = tmp_path / "many.txt"
    file.write_text("\n".join(f"{text} {word}" for text in TEXTS for word in ("cat", "dog", "far", "mat", "the")))
    code, out, _ = run("compare", str(folder), "--compute-type", "int8", "--file", str(file), "--json")
    found = json.loads(out)["differences"]
    assert code == 0 and found["labelled"] == 25 and found["largest_change"] < 1e-3
    assert len(found["examples"]) == min(10, round(found["changed"] * 25)) > 0
    for example in found["examples"]:
        assert sorted(example["labels"]) == ["B-PER", "O"] and example["token"] is None
        assert example["probabilities"] == pytest.approx([0.5, 0.5], abs=1e-3)


def test_real_weights(run, lines):
    """all-MiniLM-L6-v2 in 8 bits: near to float32, in about a quarter of the memory."""
    try:
        model = find_minilm()
    except CheckpointError as error:
        pytest.skip(str(error))
    code, out, _ = run("compare", str(model), "--compute-type", "int8", "--file", str(lines), "--json")
    found = json.loads(out)
    assert code == 0 and found["kind"] == "sentence encoder"
    assert 0.995 < found["differences"]["cosine"]["least"] < 1
    assert 3.5 < found["reference"]["packed_bytes"] / found["compared"]["packed_bytes"] <= 4


def collection(*texts):
    return Collection([Passage(text, f"m.f{i}", "m.py", i + 1) for i, text in enumerate(texts)], Path("lib"), [])


def test_sentences_of_the_standard_library(monkeypatch):
    found = collection("One. Two\nis more. Not e.g. three.", "Two is more.", "Four! Five? Six.")
    monkeypatch.setattr(passages, "standard_library", lambda: found)
    everything = ["One.", "Two is more.", "Not e.g. three.", "Four!", "Five?", "Six."]
    assert passages.sentences(6) == everything
    assert passages.sentences(3) == everything[::2]
    with pytest.raises(ValueError, match="the standard library has 6 sentences; 7 were asked for"):
        passages.sentences(7)


def test_texts_without_a_file(run, folder, monkeypatch):
    asked = []
    monkeypatch.setattr(passages, "sentences", lambda count: asked.append(count) or ["a cat", "a dog", "the mat"])
    for options in ((), ("--limit", "7")):
        assert run("compare", str(folder), "--compute-type", "int8", *options)[0] == 0
    assert asked == [500, 7]


@pytest.mark.parametrize(
    "content, text",
    [(b"", "holds no line"), (b"\n \n\n", "holds blank lines only"), (b"\xff\xfe", "is no text in UTF-8")],
)
def test_files_without_texts(run, folder, tmp_path, content, text):
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    code, out, err = run("compare", str(folder), "--compute-type", "int8", "--file", str(file))
    assert (code, out) == (1, "") and text in err and str(file) in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((), "--compute-type"),
        (("--compute-type", "int3"), "invalid choice: 'int3'"),
        (("--compute-type", "auto"), "invalid choice: 'auto'"),
        (("--compute-type", "int8", "--limit", "0"), "'0' is no whole number >= 1"),
        (("--compute-type", "int8", "--batch-size", "-1"), "'-1' is no whole number >= 1"),
    ],
)
def test_wrong_arguments(run, folder, arguments, text):
    code, out, err = run("compare", str(folder), *arguments)
    assert (code, out) == (2, "") and text in err


def test_what_cannot_be_compared(run, tmp_path, lines):
    def error(path):
        code, out, err = run("compare", str(path), "--compute-type", "int8", "--file", str(lines))
        assert (code, out) == (1, "")
        return err.splitlines()[-1]

    assert "there is no such folder" in error(tmp_path / "nowhere")
    write_json(tmp_path / "config.json", {"model_type": "marian", "architectures": ["MarianMTModel"]})
    assert "holds a MarianMTModel, which cannot be compared; supported: sentence encoders" in error(tmp_path)
    assert "No such file" in run("compare", "x", "--compute-type", "int8", "--file", str(tmp_path / "no.txt"))[2]
