"""transformer-fast search and rerank: hits, the index on disk, the reranker; stand-ins of conftest.py for models."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from model_folders import write_sentence_model
from pipeline_folders import write_head
from subprocesses import run_python

import transformer_fast
from transformer_fast import passages
from transformer_fast.commands import common, stored_embeddings
from transformer_fast.pipelines import CrossEncoder
from transformer_fast.weights import find_minilm


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes.md").write_text("zebra zebra\n\nbanana banana\n\ncompressed files: zip, gzip, bzip\n")
    (tmp_path / "mod.py").write_text('def peel():\n    """Peels a banana."""\n')
    return tmp_path


def test_search_prints_hits_and_speed(run, encoder, notes):
    code, out, err = run("search", "bananas", "--in", str(notes), "--top", "2")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[0] == "1" and "notes.md:3" in lines[0]
    assert "banana banana" in lines[1]
    assert "mod.peel (mod.py:1)" in lines[2]
    config = transformer_fast.show_config()
    assert lines[-1].startswith("4 texts, 12 tokens")
    for part in ("texts/s", "tokens/s", f"ISA {config['isa']}", f"{config['num_threads']} threads"):
        assert part in lines[-1]
    assert "embedding 4 passages" in err


def test_search_json(run, encoder, notes):
    code, out, _ = run("search", "bananas", "--in", str(notes), "--json", "--top", "99")
    result = json.loads(out)
    assert code == 0
    assert len(result["hits"]) == 4
    scores = [hit["score"] for hit in result["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert result["hits"][0]["file"] == str(notes / "notes.md")
    assert {"query", "texts", "tokens", "texts_per_second", "tokens_per_second", "isa", "num_threads"} <= set(result)


def test_search_says_what_it_left_out(run, encoder, notes):
    (notes / "broken.py").write_text("def")
    code, _, err = run("search", "bananas", "--in", str(notes))
    assert code == 0
    assert "left out:" in err and "broken.py" in err


def test_threads_option(run, encoder, notes):
    before = transformer_fast.get_num_threads()
    try:
        code, out, _ = run("search", "a", "--in", str(notes), "--threads", "1", "--json")
        assert code == 0 and json.loads(out)["num_threads"] == 1
    finally:
        transformer_fast.set_num_threads(before)


# the index -----------------------------------------------------------------------------------------------------------


def search(run, notes, *options):
    """(the result, how many passages were embedded, messages)."""
    code, out, err = run("search", "bananas", "--in", str(notes), "--json", *options)
    assert code == 0, err
    result = json.loads(out)
    return result, result["texts"], err


def vectors_of(cache):
    (file,) = cache.glob("*/vectors-*.npy")
    return file


def test_second_call_embeds_nothing(run, encoder, notes, cache):
    first, embedded, _ = search(run, notes)
    assert embedded == 4
    second, embedded, err = search(run, notes)
    assert (embedded, err) == (0, "")
    assert second["hits"] == first["hits"] and second["texts_per_second"] is None
    assert "4 passages, all of them from the index" in run("search", "a", "--in", str(notes))[1]
    assert stat.S_IMODE(vectors_of(cache).parent.stat().st_mode) == 0o700
    assert b"banana" not in b"".join(file.read_bytes() for file in vectors_of(cache).parent.iterdir())


def test_only_changed_texts_are_embedded(run, encoder, notes, cache):
    search(run, notes)
    (notes / "mod.py").rename(notes / "other.py")
    os.utime(notes / "notes.md", (1, 1))
    assert search(run, notes)[1] == 0  # a passage is its text, not its file
    (notes / "notes.md").write_text("banana bread\n\nzebra zebra\n\nzebra zebra\n\nbanana banana\n")
    result, embedded, _ = search(run, notes)
    assert embedded == 1 and result["passages"] == 5
    assert result["hits"] == search(run, notes, "--no-index")[0]["hits"]
    assert len(np.load(vectors_of(cache))) == 4  # what is gone was dropped, what is there twice is kept once


@pytest.mark.parametrize("change", ["model", "compute type", "version"])
def test_other_models_and_settings_have_indexes_of_their_own(run, encoder, notes, change, monkeypatch):
    search(run, notes)
    options = []
    if change == "model":
        (encoder.folder / "config.json").write_text('{"a": 1}')
    elif change == "compute type":
        options = ["--compute-type", "int8"]
    else:
        monkeypatch.setattr(transformer_fast, "__version__", "0.0.0")
    assert search(run, notes, *options)[1] == 4
    assert search(run, notes, *options)[1] == 0


def test_where_the_index_is(run, encoder, notes, cache, tmp_path_factory, monkeypatch):
    assert search(run, notes, "--no-index")[1] == 4 and not cache.exists()
    folder = tmp_path_factory.mktemp("elsewhere") / "deeper"
    search(run, notes, "--index", str(folder))
    assert not cache.exists() and search(run, notes, "--index", str(folder))[1] == 0
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/nowhere")
    assert str(stored_embeddings.default_folder()) == "/nowhere/.cache/transformer-fast/search"
    code, _, err = run("search", "a", "--in", str(notes), "--index", "a", "--no-index")
    assert code == 2 and "not allowed with" in err


def damage(how, file):
    manifest = file.parent / "manifest.json"
    if how == "cut off":
        file.write_bytes(file.read_bytes()[:-7])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "missing":
        file.unlink()
    elif how == "one bit":
        data = bytearray(file.read_bytes())
        data[-2] ^= 1
        file.write_bytes(data)
    elif how == "other shape":
        np.save(file, np.zeros((2, 3), np.float32))
    elif how == "half a manifest":
        manifest.write_text(manifest.read_text()[:40])
    elif how == "no digests":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"texts": [["x"]] * 4}))
    else:
        manifest.write_text({"no object": "[]", "no fields": "{}", "too deep": "[" * 100_000}[how])


@pytest.mark.parametrize(
    "how",
    [
        "cut off",
        "empty",
        "missing",
        "one bit",
        "other shape",
        "half a manifest",
        "no object",
        "no fields",
        "no digests",
        "too deep",
    ],
)
def test_a_damaged_index_is_built_again(run, encoder, notes, cache, how):
    first = search(run, notes)[0]
    damage(how, vectors_of(cache))
    result, embedded, err = search(run, notes)
    assert embedded == 4 and result["hits"] == first["hits"]
    assert "is damaged (" in err and "built again" in err
    assert search(run, notes)[1:] == (0, "")


def test_an_index_that_cannot_be_written(run, encoder, notes, cache, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    code, out, err = run("search", "a", "--in", str(notes), "--index", str(file))
    assert (code, out) == (1, "") and str(file) in err
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("")
    result, embedded, err = search(run, notes)
    assert embedded == 4 and result["hits"] and "the index is not used" in err


def test_writers_at_once_leave_a_whole_index(tmp_path):
    """Each of them wants other texts; whoever is last decides, and nobody finds half an index."""

    def embed(texts):
        return np.array([[len(text), ord(text[0])] for text in texts], np.float32)

    def work(seed):
        for step in range(12):
            texts = [chr(97 + (seed + step + i) % 26) * (i + 1) for i in range(9)]
            found = stored_embeddings.embeddings(tmp_path, {"source": "x"}, texts, embed)
            assert np.array_equal(found, embed(texts))
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(0, 20, 5)))
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 3  # vectors, manifest, lock


# reranking -----------------------------------------------------------------------------------------------------------


class FakeReranker:
    """Longer documents are better."""

    def __init__(self):
        self.documents = []

    def rank(self, query, documents, top_k=None, batch_size=32):
        self.documents.append(documents)
        order = sorted(range(len(documents)), key=lambda i: (-len(documents[i]), i))
        return [{"corpus_id": i, "score": float(len(documents[i]))} for i in order[:top_k]]


@pytest.fixture
def reranker(monkeypatch):
    fake = FakeReranker()
    monkeypatch.setattr(common, "cross_encoder", lambda name, compute_type: fake)
    return fake


def test_search_with_a_reranker(run, encoder, reranker, notes):
    plain = search(run, notes)[0]["hits"]
    hits = search(run, notes, "--rerank", "model", "--candidates", "3", "--top", "2")[0]["hits"]
    assert reranker.documents == [[hit["text"] for hit in plain[:3]]]
    assert [hit["score"] for hit in hits] == sorted((float(len(hit["text"])) for hit in plain[:3]), reverse=True)[:2]
    assert all(hit["retrieval_score"] in [other["score"] for other in plain] for hit in hits)
    code, _, err = run("search", "a", "--in", str(notes), "--candidates", "3")
    assert code == 2 and "--candidates needs --rerank" in err


def test_rerank(run, reranker, notes):
    code, out, _ = run("rerank", "bananas", "--in", str(notes / "notes.md"), str(notes / "mod.py"), "--model", "m")
    lines = out.splitlines()
    assert code == 0 and "notes.md:5" in lines[0] and "33.000" in lines[0] and len(lines) == 8
    code, out, _ = run("rerank", "q", "--in", str(notes), "--model", "m", "--top", "1", "--json")
    result = json.loads(out)
    assert result["passages"] == 4 and [hit["line"] for hit in result["hits"]] == [5]
    assert run("rerank", " ", "--in", str(notes), "--model", "m")[0] == 2
    assert run("rerank", "q", "--model", "m")[0] == run("rerank", "q", "--in", str(notes))[0] == 2


def test_models_from_folders(run, notes, tmp_path, cache):
    """Tiny models: an encoder whose index is found again, and a cross-encoder that scores as `rank` does."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    encoder = write_sentence_model(tmp_path / "encoder")
    reranker = write_head(tmp_path / "reranker", "SequenceClassification", 1)
    options = ("--model", str(encoder), "--rerank", str(reranker))
    first, embedded, _ = search(run, notes / "notes.md", *options)
    assert embedded == 3
    second, embedded, _ = search(run, notes / "notes.md", *options)
    assert embedded == 0 and second["hits"] == first["hits"]
    texts = [passage.text for passage in passages.from_path(notes / "notes.md").passages]
    ranked = CrossEncoder.from_pretrained(reranker).rank("bananas", texts)
    assert [hit["score"] for hit in first["hits"]] == [entry["score"] for entry in ranked]
    out = run("rerank", "bananas", "--in", str(notes / "notes.md"), "--model", str(reranker), "--json")[1]
    assert [hit["score"] for hit in json.loads(out)["hits"]] == [entry["score"] for entry in ranked]
    code, out, err = run("embed", "a cat", "--model", str(encoder), "--query", "--precision", "ubinary")
    assert code == 0 and len(json.loads(out)["embedding"]) < 8
    code, _, err = run("embed", "a", "--model", str(encoder), "--prompt-name", "other")
    assert code == 1 and "'other'" in err


# as a user does ------------------------------------------------------------------------------------------------------


def test_search_with_real_weights(tmp_path):
    try:
        find_minilm()
    except ValueError as error:
        pytest.skip(str(error))
    (tmp_path / "notes.txt").write_text(
        "The soup needs salt.\n\nOpen a gzip-compressed file in binary or text mode.\n\nTrains leave at noon.\n"
    )
    done = run_python(
        "-m", "transformer_fast", "search", "how do I read a compressed file", "--in", str(tmp_path), "--json"
    )
    result = json.loads(done.stdout)
    assert result["hits"][0]["line"] == 3
    assert result["texts"] == 3 and result["tokens"] > 20
