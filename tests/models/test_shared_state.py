"""What threads share: a model freely, also in its first call and while settings change; a past or a session never.

Models are made of their configs, so that nothing is read: these tests run wherever NumPy does (`make freethreaded`).
test_threads.py does the same with models of all kinds that are loaded.
"""

from __future__ import annotations

import copy
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from subprocesses import printed
from threads import FEW, MANY, THREADS, frozen, often_switching, storm

from transformer_fast import functional, nn
from transformer_fast.generation import GenerationSession
from transformer_fast.models.bert import BertConfig, BertModel
from transformer_fast.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformer_fast.models.llama import LlamaConfig, LlamaForCausalLM
from transformer_fast.models.mistral import MistralConfig, MistralForCausalLM

TURNS = [FEW, pytest.param(MANY, marks=pytest.mark.stress)]
IDS = np.random.default_rng(0).integers(3, 50, (3, 9))
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}


def gpt2(**options):
    nn.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(50, n_positions=64, n_embd=16, n_layer=2, n_head=4, **options))


def llama():
    nn.manual_seed(2)
    return LlamaForCausalLM(LlamaConfig(50, 16, 24, **SIZES))


def mistral():
    nn.manual_seed(3)
    return MistralForCausalLM(MistralConfig(50, 16, 24, sliding_window=5, **SIZES))


def bert():
    nn.manual_seed(4)
    return BertModel(BertConfig(50, 16, 2, 4, 32, max_position_embeddings=64))


def texts(model):
    """Calls of a decoder: several lengths, beams, samples, an int8 past, and a session of the thread's own."""
    options = {"eos_token_id": None, "pad_token_id": 1}

    def session():
        own = GenerationSession(model)
        first = own.generate(IDS[:1, :4], max_new_tokens=3, **options)
        return [first, own.generate(np.c_[first, IDS[:1, :2]], max_new_tokens=4, **options)]

    return [
        lambda: model(IDS).logits,
        lambda: model.generate(IDS, max_new_tokens=3, **options),
        lambda: model.generate(IDS[:1], max_new_tokens=12, **options),
        lambda: model.generate(IDS[:2, :5], max_new_tokens=7, num_beams=3, **options),
        lambda: model.generate(IDS[:1], max_new_tokens=5, do_sample=True, seed=3, num_return_sequences=2, **options),
        lambda: model.generate(IDS[:1], max_new_tokens=9, kv_cache_dtype="int8", **options),
        session,
    ]


def encodings(model):
    return [
        lambda: model(IDS).last_hidden_state,
        lambda: model.encode_packed(IDS.reshape(-1), np.array([0, 4, 9, 27])),
        lambda: model.encode_packed(IDS[0], np.array([0, 4, 9]), pooled_rows=0),
    ]


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("make, calls", [(gpt2, texts), (llama, texts), (mistral, texts), (bert, encodings)])
def test_one_model_whose_first_calls_come_at_once(make, calls, turns):
    storm(lambda: calls(make()), turns)


@pytest.mark.parametrize("turns", TURNS)
def test_the_number_of_threads_changes_meanwhile(turns, restored_threads):
    """set_num_threads() of one thread is the whole process's, and changes no bit of what others compute."""
    wide = nn.Linear(300, 500), np.random.default_rng(1).standard_normal((200, 300)).astype(np.float32)
    numbers = iter(range(10**9))

    def calls(model):
        return [*encodings(model), lambda: wide[0](wide[1]), lambda: functional.set_num_threads(1 + next(numbers) % 4)]

    storm(lambda: calls(bert()), turns)


# ----------------------------------------------------------------------------------------------------------------------
# set_isa


def switching(stop: threading.Event, levels: list[str]) -> threading.Thread:
    def switch():
        while not stop.is_set():
            for name in levels:
                functional.set_isa(name)
                time.sleep(0.0005)

    return threading.Thread(target=switch)


def int8(rows: int) -> np.ndarray:
    """Integers that only INT8_UNBOUNDED takes: sums of neighbours leave 16 bits."""
    return np.full((rows, 64), 127, np.int8)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("make", [bert, llama])
def test_set_isa_meanwhile_is_an_error_at_most(make, turns):
    """A call may end with a RuntimeError, which says why; the next one under one level has its bits, whoever packed."""
    before, levels = functional.get_isa(), list(functional.available_isas())
    model, other = make(), make()
    call, expected = lambda model: frozen(model(IDS)[0]), {}
    stop, start, wrong = threading.Event(), threading.Barrier(THREADS), []

    def caller():
        start.wait()
        for _ in range(turns):
            try:
                call(model)
                functional.pack_weight(int8(40), format="int8", scale=np.ones(40, np.float32))
            except RuntimeError as error:
                if "set_isa" not in str(error):
                    wrong.append(error)
            except Exception as error:
                wrong.append(error)

    switcher = switching(stop, levels)
    callers = [threading.Thread(target=caller) for _ in range(THREADS)]
    try:
        for name in levels:
            functional.set_isa(name)
            expected[name] = call(other)
        with often_switching():
            for thread in (switcher, *callers):
                thread.start()
            for thread in callers:
                thread.join()
            stop.set()
            switcher.join()
        assert not wrong
        for name in reversed(levels):
            functional.set_isa(name)
            assert call(model) == expected[name]
    finally:
        stop.set()
        functional.set_isa(before)


# ----------------------------------------------------------------------------------------------------------------------
# A past, a cache, a session


def in_another_thread(call):
    """What call() raises in another thread, or what it gives."""
    found = []

    def run():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def refused(error) -> bool:
    return isinstance(error, RuntimeError) and "one call at a time" in str(error)


def test_a_past_is_of_one_call():
    model = llama()
    past = model(IDS[:, :4], use_cache=True).past_key_values
    uses = [
        lambda: model(IDS[:, 4:5], past_key_values=past),
        lambda: model.step(IDS[:, 4], past),
        lambda: model.extend(IDS[:, 4:6], past),
        lambda: model.generate(IDS, max_new_tokens=2, past_key_values=past),
        lambda: past.crop(2),
        lambda: past.reorder([0, 0, 1]),
    ]
    with past.in_use:
        assert all(refused(in_another_thread(use)) for use in uses)
        assert past.get_seq_length() == 4
    expected = model(IDS[:, :5]).logits[:, -1:]
    np.testing.assert_allclose(model(IDS[:, 4:5], past_key_values=past).logits, expected, atol=2e-6)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers that send signals")
def test_an_exception_at_any_moment_leaves_a_past_free():
    """As Ctrl-C: Python raises it between two instructions of its own code, those around the call included."""
    code = """
import signal, threading
from transformer_fast.functional.one_call import OneCall

def interrupt(*_):
    raise KeyboardInterrupt

def enter():
    try:
        with past:
            return
    except RuntimeError:
        refused.append(True)

signal.signal(signal.SIGALRM, interrupt)
past, refused = OneCall("past"), []
for i in range(200):
    try:
        signal.setitimer(signal.ITIMER_REAL, 2e-4 + i * 1e-7)
        while True:
            with past:
                pass
    except KeyboardInterrupt:
        pass
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
print(len(refused))
"""
    assert printed(code).strip() == "0"


def test_a_cache_is_of_one_call():
    module, x = nn.SelfAttention(16, 4), np.ones((2, 3, 16), np.float32)
    cache = nn.KeyValueCache(2, 4, 4, capacity=8)
    with cache.in_use:
        assert refused(in_another_thread(lambda: module(x, cache=cache, is_causal=True)))
        assert refused(in_another_thread(lambda: cache.crop(np.zeros(2, np.int64))))
    module(x, cache=cache, is_causal=True)
    assert cache.lengths.tolist() == [3, 3]
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        with cache.in_use:
            assert not refused(in_another_thread(lambda other=other: module(x, cache=other, is_causal=True)))


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("page_size", [None, 16])
def test_many_threads_on_one_past(page_size, turns):
    """Its arrays are moved again and again: what is not refused counts, and nothing is written where they were."""
    model, count = llama(), []
    past = model.empty_past(3, kv_page_size=page_size)
    start, wrong = threading.Barrier(THREADS), []

    def caller():
        start.wait()
        for turn in range(turns):
            try:
                if model(IDS[:, : 1 + turn % 3], past_key_values=past).logits.shape:
                    count.append(1 + turn % 3)
            except RuntimeError as error:
                if not refused(error):
                    wrong.append(error)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=caller) for _ in range(THREADS)]
    with often_switching():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert past.get_seq_length() == sum(count) == past.caches[0].lengths[0]


def test_a_session_is_of_one_call():
    session, options = GenerationSession(llama()), {"max_new_tokens": 4, "eos_token_id": None}
    with session.in_use:
        assert refused(in_another_thread(lambda: session.generate(IDS[:1], **options)))
    expected = session.generate(IDS[:1], **options)
    overtaken = session.stream(IDS[1:2], **options)
    next(overtaken)
    np.testing.assert_array_equal(in_another_thread(lambda: session.generate(IDS[:1], **options)), expected)
    held = session.ids
    with pytest.raises(RuntimeError, match="a later call of the session has begun"):
        next(overtaken)
    np.testing.assert_array_equal(session.ids, held)
    np.testing.assert_array_equal(session.generate(IDS[:1], **options), expected)
