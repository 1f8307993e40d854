"""Which texts run together, and `encode_stream`: the same numbers, flat memory, errors where they belong.

What overlaps with what is in test_text_overlap.py.
"""

from __future__ import annotations

import signal
import tracemalloc

import numpy as np
import pytest
from model_folders import SENTENCES, WORDS, write_sentence_model

from transformer_fast.pipelines import SentenceEncoder, text_runs
from transformer_fast.pipelines import sentence_encoder as text

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_model(tmp_path_factory.mktemp("text") / "model", normalize=True)


@pytest.fixture
def encoder(folder):
    return SentenceEncoder.from_pretrained(folder)


@pytest.fixture
def runs(encoder, monkeypatch):
    """The number of texts and of tokens of each call of the model; one thread."""
    monkeypatch.setattr(text_runs.F, "get_num_threads", lambda: 1)
    found = []
    encode_packed = encoder.model.encode_packed

    def noted(ids, cu_seqlens):
        found.append((len(cu_seqlens) - 1, len(ids)))
        return encode_packed(ids, cu_seqlens)

    monkeypatch.setattr(encoder.model, "encode_packed", noted)
    return found


def test_batches_run_together_until_they_hold_enough_tokens(encoder, runs, monkeypatch):
    encoder.encode(["dog"] * 1000, batch_size=8)  # 3 tokens a text, 24 a batch: 43 batches make 1,032
    assert runs == [(344, 1032), (344, 1032), (312, 936)]
    runs.clear()
    monkeypatch.setattr(text_runs.F, "get_num_threads", lambda: 2)
    encoder.encode(["dog"] * 1000, batch_size=8)
    assert runs == [(688, 2064), (312, 936)], "each thread has enough"
    runs.clear()
    monkeypatch.setattr(text_runs.F, "get_num_threads", lambda: 1)
    encoder.encode(["the cat sat on the mat " * 5] * 120, batch_size=60)  # 20 tokens a text: a batch holds enough
    assert runs == [(60, 1200)] * 2


def test_runs_hold_at_most_so_many_tokens(encoder, runs, monkeypatch):
    monkeypatch.setattr(text_runs, "TOKENS_OF_A_THREAD", 50)
    monkeypatch.setattr(text_runs, "_MOST_TOKENS", 70)
    texts = ["the cat sat on the mat " * 5] * 5 + ["dog"] * 30  # 5 of 20 tokens, 30 of 3
    embeddings = encoder.encode(texts, batch_size=2)
    # Batches of 20 + 20, 20 + 20, 20 + 3, 3 + 3, ... tokens: cut before the text that would be too much, which goes on
    # with the next batches until they hold enough.
    assert runs == [(3, 60), (7, 55), (18, 54), (7, 21)]
    runs.clear()
    assert np.array_equal(encoder.encode(texts, batch_size=1000), embeddings)
    assert max(tokens for _, tokens in runs) <= 70, "one large batch runs in parts"
    monkeypatch.setattr(text_runs, "_MOST_TOKENS", 1)
    runs.clear()
    assert np.array_equal(encoder.encode(texts), embeddings)
    assert {count for count, _ in runs} == {1}, "a text alone may hold more"


def many_texts(count):
    words = np.array(WORDS[5:])
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, rng.integers(0, 12))) for _ in range(count)]


OPTIONS = [
    {},
    {"normalize_embeddings": True, "truncate_dim": 7},
    {"prompt": "the cat "},
    {"prompt_name": "query", "batch_size": 5},
    {"output_value": "token_embeddings"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_a_stream_gives_what_encode_gives(isa, encoder, options, monkeypatch):
    texts = many_texts(50)
    expected = encoder.encode(texts, **options)
    for window in (1, 7, 50, 1024):
        monkeypatch.setattr(text, "_WINDOW", window)
        results = list(encoder.encode_stream(iter(texts), **options))
        assert len(results) == 50
        assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))
        assert all(result.base is None for result in results), "a view would keep the whole run"


def test_a_stream_over_several_windows(encoder):
    texts = many_texts(2 * text._WINDOW + 3)
    assert np.array_equal(np.stack(list(encoder.encode_stream(texts))), encoder.encode(texts))


def test_short_streams(encoder):
    assert list(encoder.encode_stream([])) == []
    (one,) = encoder.encode_stream("dog")
    assert np.array_equal(one, encoder.encode("dog"))
    (one,) = encoder.encode_stream(np.array(["dog"]))
    assert np.array_equal(one, encoder.encode("dog"))


def test_a_stream_reads_no_further_ahead_than_it_says(encoder):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield SENTENCES[read % len(SENTENCES)]

    stream = encoder.encode_stream(endless())
    assert read == 0, "nothing is read before it is asked for"
    ahead = []
    for taken in range(1, 2500):
        next(stream)
        ahead.append(read - taken)
    assert max(ahead) < text._WINDOW and read == 3 * text._WINDOW
    stream.close()


def test_memory_of_a_stream_is_flat(encoder):
    """Neither texts nor results of former windows stay: what is traced is the same after 2 windows and after 12."""
    texts = ("the cat sat " + "x" * 1000 for _ in range(12 * text._WINDOW))
    traced = []
    tracemalloc.start()
    try:
        for i, _ in enumerate(encoder.encode_stream(texts)):
            if i in (2 * text._WINDOW - 1, 12 * text._WINDOW - 1):
                traced.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert traced[1] - traced[0] < 100_000, "ten windows of texts alone are 10 MB"


def test_errors_of_a_stream(encoder, monkeypatch):
    for options in ({"batch_size": 0}, {"truncate_dim": 0}, {"output_value": None}, {"prompt_name": "dogs"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            encoder.encode_stream(["a"], **options)  # by the call, not by the first result
    for wrong in (b"abc", None, {"a": 1}, 3):
        with pytest.raises(TypeError, match=f"inputs is a {type(wrong).__name__}"):
            encoder.encode_stream(wrong)
    monkeypatch.setattr(text, "_WINDOW", 2)

    def results_before(texts, error, message):
        count = 0
        with pytest.raises(error, match=message):
            for _ in encoder.encode_stream(texts):
                count += 1
        return count

    assert results_before(["a", "b", "c", None], TypeError, r"inputs\[3\] is a NoneType; needed: a string") == 2
    assert results_before(["a", "b", "c", "d\ud800"], ValueError, "lone surrogate") == 2

    def broken():
        yield from "abcde"
        raise OSError("the file is gone")

    assert results_before(broken(), OSError, "the file is gone") == 4


def test_interrupt_stops_a_stream_within_one_run(encoder, runs, monkeypatch):
    monkeypatch.setattr(text_runs, "TOKENS_OF_A_THREAD", 1)
    noted = encoder.model.encode_packed

    def interrupted(*args):
        if len(runs) == 2:
            signal.raise_signal(signal.SIGINT)
        return noted(*args)

    monkeypatch.setattr(encoder.model, "encode_packed", interrupted)
    stream = encoder.encode_stream(["dog"] * 100, batch_size=10)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert len(runs) == 2
    assert list(stream) == [], "it has ended"
    monkeypatch.undo()
    assert encoder.encode("dog").shape == (24,)


def test_progress_of_a_stream(encoder, capsys):
    list(encoder.encode_stream(SENTENCES, show_progress_bar=True))
    assert "5/5" in capsys.readouterr().err
    list(encoder.encode_stream(iter(SENTENCES), show_progress_bar=True))
    assert "5text" in capsys.readouterr().err, "how many there will be is not known"
    list(encoder.encode_stream(SENTENCES))
    assert capsys.readouterr() == ("", "")
