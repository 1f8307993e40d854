"""SentenceEncoder tokenises the next texts while the last ones are computed, and nothing but the time shows it."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from model_folders import write_sentence_model
from subprocesses import run_python

from transformer_fast import functional
from transformer_fast.pipelines import sentence_encoder as text
from transformer_fast.pipelines import text_runs

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

TEXTS = ["the cat sat on the mat.", "dog", "the dog ran far!", "a", "cat " * 12] * 4
PATIENCE = 20.0  # seconds; what should come comes at once


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """Every batch of two texts is a run of its own."""
    monkeypatch.setattr(text_runs, "TOKENS_OF_A_THREAD", 1)
    return text.SentenceEncoder.from_pretrained(write_sentence_model(tmp_path / "model"))


@pytest.fixture
def calls(encoder, monkeypatch):
    """The thread of each tokenised batch, and an event for each number of them."""
    made = [threading.Event() for _ in range(12)]
    threads: list[threading.Thread] = []
    tokens = encoder._routes.first().tokens

    def recorded(texts, prompt):
        threads.append(threading.current_thread())
        made[len(threads) - 1].set()
        return tokens(texts, prompt)

    monkeypatch.setattr(encoder._routes.first(), "tokens", recorded)
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


def test_one_batch_needs_no_thread(encoder, calls, number):
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


def test_a_stream_that_is_left_leaves_no_thread(encoder, calls, monkeypatch, number):
    """Left between two runs of one window, while the next batch is being tokenised."""
    threads, _ = calls
    left = threading.Event()
    tokens = encoder._routes.first().tokens

    def held(texts, prompt):
        found = tokens(texts, prompt)
        if len(threads) == 2:
            left.wait(PATIENCE)
        return found

    monkeypatch.setattr(encoder._routes.first(), "tokens", held)
    runs = encoder._runs(TEXTS, encoder._job(None, None, 2, "sentence_embedding", False, None))
    next(runs)
    assert number == 1 or threads[0].is_alive()
    left.set()
    runs.close()
    assert len(threads) <= 2
    assert all(thread is threading.current_thread() or not thread.is_alive() for thread in threads)


def test_what_fails_while_another_batch_is_tokenised(encoder, calls, monkeypatch, number):
    monkeypatch.setattr(encoder.model, "encode_packed", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        encoder.encode(TEXTS, batch_size=2)
    assert caught.value.__traceback__ is not None  # which keeps all frames
    assert all(thread is threading.current_thread() or not thread.is_alive() for thread in calls[0])


def test_runs_are_as_large_as_the_callers_threads_want(encoder, monkeypatch):
    """The number of threads may be the calling thread's own: OpenMP's limits are."""
    here, asked = threading.current_thread(), []

    def get_num_threads():
        asked.append(threading.current_thread())
        return 2

    monkeypatch.setattr(text_runs.F, "get_num_threads", get_num_threads)
    encoder.encode(TEXTS, batch_size=2)
    assert set(asked) == {here}


def test_an_error_keeps_no_texts(encoder, monkeypatch, number):
    """What is caught and dropped is gone at once, without the collector of cycles."""

    class Text(str):
        pass

    monkeypatch.setattr(encoder._routes.first(), "tokens", lambda texts, prompt: 1 / 0)
    texts = [Text("dog") for _ in range(20)]
    kept = weakref.ref(texts[0])
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError):
            encoder.encode(texts, batch_size=2)
        del texts
        assert kept() is None
    finally:
        gc.enable()


ENDING = """
    import atexit, sys, threading, time
    import numpy as np
    from transformer_fast import functional
    from transformer_fast.pipelines import sentence_encoder as text, text_runs
    functional.set_num_threads(2)
    text_runs.TOKENS_OF_A_THREAD = 1
    encoder = text.SentenceEncoder.from_pretrained(sys.argv[1])
    texts = ["the cat sat on the mat.", "dog", "a"] * 20
    expected = encoder.encode(texts)
    def work():
        main.join()
        print(np.array_equal(encoder.encode(texts, batch_size=2), expected), flush=True)
    def stream():
        for i, row in enumerate(encoder.encode_stream(texts * 20, batch_size=2)):
            assert np.array_equal(row, expected[i % 60])
            if i == 0:
                main.join()
                time.sleep(0.1)
        print(i, flush=True)
    main = threading.main_thread()
    text._WINDOW = 100
    atexit.register(lambda: print(np.array_equal(encoder.encode(texts, batch_size=2), expected), flush=True))
    threading.Thread(target=work).start()
    threading.Thread(target=stream).start()
"""


def test_what_runs_while_the_interpreter_ends(tmp_path):
    """It starts no more threads then: threads that outlive the main one, and atexit, tokenise by themselves."""
    lines = run_python(str(write_sentence_model(tmp_path / "model")), code=ENDING).stdout.split()
    assert sorted(lines) == ["1199", "True", "True"]
