"""SentenceEncoder tokenises the next texts while the last ones are computed, and nothing but the time shows it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from model_folders import write_sentence_model

from transformer_fast import functional, text

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

TEXTS = ["the cat sat on the mat.", "dog", "the dog ran far!", "a", "cat " * 12] * 4
PATIENCE = 20.0  # seconds; what should come comes at once


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """Every batch of two texts is a run of its own."""
    monkeypatch.setattr(text, "_ENOUGH_TOKENS", 1)
    return text.SentenceEncoder.from_pretrained(write_sentence_model(tmp_path / "model"))


@pytest.fixture
def calls(encoder, monkeypatch):
    """The thread of each tokenised batch, and an event for each number of them."""
    made = [threading.Event() for _ in range(12)]
    threads: list[threading.Thread] = []
    tokens = encoder._tokens

    def recorded(texts):
        threads.append(threading.current_thread())
        made[len(threads) - 1].set()
        return tokens(texts)

    monkeypatch.setattr(encoder, "_tokens", recorded)
    return threads, made


@pytest.fixture(params=[1, 2])
def number(request):
    before = functional.get_num_threads()
    functional.set_num_threads(request.param)
    yield request.param
    functional.set_num_threads(before)


def test_the_next_batch_is_tokenised_while_one_runs(encoder, calls, monkeypatch, number):
    threads, made = calls
    waited = []
    run = encoder.model.encode_packed

    def encode_packed(*arguments, **options):
        batch = len(waited) + 1  # this one is the first, the second, ...; there are ten of them
        waited.append(made[min(batch, 9)].wait(PATIENCE) if number == 2 else made[min(batch, 9)].is_set())
        return run(*arguments, **options)

    monkeypatch.setattr(encoder.model, "encode_packed", encode_packed)
    encoder.encode(TEXTS, batch_size=2)
    assert len(threads) == len(waited) == 10
    here = threading.current_thread()
    if number == 1:
        assert set(threads) == {here} and not any(waited[:-1])
    else:
        assert all(waited) and len(set(threads)) == 1 and here not in threads
        assert not threads[0].is_alive()


def test_one_batch_needs_no_thread(encoder, calls):
    encoder.encode(TEXTS[:2], batch_size=2)
    assert calls[0] == [threading.current_thread()]


def test_same_bits(encoder, number):
    expected = np.stack([encoder.encode(one) for one in TEXTS])
    assert np.array_equal(encoder.encode(TEXTS, batch_size=2), expected)
    assert np.array_equal(list(encoder.encode_stream(iter(TEXTS), batch_size=2)), expected)


def test_errors_of_the_other_thread_arrive(encoder, number):
    bad = [*TEXTS, "\ud800"]
    with pytest.raises(ValueError, match="lone surrogate"):
        encoder.encode(bad, batch_size=2)
    with pytest.raises(ValueError, match="lone surrogate"):
        list(encoder.encode_stream(bad, batch_size=2))


def test_a_stream_that_is_left_leaves_no_thread(encoder, calls, number):
    stream = encoder.encode_stream(TEXTS, batch_size=2)
    next(stream)
    stream.close()
    assert all(thread is threading.current_thread() or not thread.is_alive() for thread in calls[0])


def test_what_fails_while_another_batch_is_tokenised(encoder, calls, monkeypatch, number):
    monkeypatch.setattr(encoder.model, "encode_packed", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        encoder.encode(TEXTS, batch_size=2)
    assert caught.value.__traceback__ is not None  # which keeps all frames
    assert all(thread is threading.current_thread() or not thread.is_alive() for thread in calls[0])
