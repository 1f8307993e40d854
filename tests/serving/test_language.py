"""The engine of language models: the ids of `generate`, bits that do not depend on load, pages that come back."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
from decoder_cases import write, write_byte_gpt2

from transformer_fast import load_model
from transformer_fast.generation import load_tokenizer
from transformer_fast.generation.logits import logit_bias, presence_and_frequency
from transformer_fast.serving import Busy, LanguageEngine, Stopping, Turns

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

PIECE = 16


class Letters:
    """A tokenizer of one letter a token."""

    def encode(self, text, add_special_tokens=True):
        return type("Encoding", (), {"ids": [ord(letter) - 60 for letter in text]})

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(60 + int(id)) for id in ids)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = write_byte_gpt2(tmp_path_factory.mktemp("gpt2"))
    return load_model(folder), load_tokenizer(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory, gpt2):
    """name -> (model, tokenizer); gpt_oss runs layer by layer, phi3 with a state for each row."""
    folder = tmp_path_factory.mktemp("models")
    found = {"gpt2": gpt2}
    for case in ("llama", "gemma2", "mistral", "gpt_oss", "phi3"):
        model = load_model(write(folder / case, case))
        model.generation_config = {}
        found[case] = model, Letters()
    return found


@pytest.fixture
def engine(gpt2):
    """`engine(**sizes)`: an engine of the GPT-2 of bytes, closed after the test."""
    made = []

    def make(**sizes):
        made.append(LanguageEngine(*gpt2, **{"kv_page_size": 16, "prompt_piece": PIECE, **sizes}))
        return made[-1]

    yield make
    for one in made:
        one.close(0)


def prompt_of(n: int, seed: int = 0, vocab: int = 40) -> list[int]:
    return np.random.default_rng([seed, n]).integers(3, vocab, n).tolist()


class Held:
    """A gate before the model's computation: the engine waits at `turns` until the test lets it go on."""

    def __init__(self):
        self._gate = threading.Event()

    def __enter__(self):
        self._gate.wait(20)

    def __exit__(self, *error):
        pass

    def release(self):
        self._gate.set()


def wait_until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


# --- ids ----------------------------------------------------------------------------------------------------------

OPTIONS = [
    {},
    {"max_length": 30},
    {"do_sample": True, "seed": 3},
    {"do_sample": True, "seed": 4, "temperature": 1.7, "top_k": 30, "top_p": 0.9, "min_p": 0.01},
    {"do_sample": True, "seed": 5, "typical_p": 0.8, "top_k": 0},
    {"do_sample": True, "seed": 6, "epsilon_cutoff": 0.01, "eta_cutoff": 0.01, "renormalize_logits": True},
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.2, "encoder_no_repeat_ngram_size": 3},
    {"bad_words_ids": [[47], [57, 236]], "suppress_tokens": [121]},
    {"eos_token_id": [236, 57], "min_new_tokens": 4},
    {"eos_token_id": 47},
    {"sequence_bias": [[[47], -4.0]], "begin_suppress_tokens": [236]},
    {"forced_eos_token_id": 9, "exponential_decay_length_penalty": [2, 1.5], "eos_token_id": 9},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "greedy")
def test_ids_are_those_of_generate(gpt2, engine, options):
    model, _ = gpt2
    one = engine(prompt_piece=64)
    options = {"max_new_tokens": 12} | options if "max_length" not in options else options
    answers = {n: one.submit(prompt_of(n, vocab=256), **options) for n in (1, 23)}
    for n, answer in answers.items():
        ids = prompt_of(n, vocab=256)
        expected = model.generate([ids], pad_token_id=0, **options)[0, n:].tolist()
        found = answer.result(20)
        assert list(found.ids) == expected
        ended = expected[-1] in np.atleast_1d(options.get("eos_token_id", -1))
        assert found.finish_reason == ("stop" if ended else "length")


def test_penalties_and_biases_are_those_of_openai(gpt2, engine):
    model, _ = gpt2
    ids = prompt_of(20, vocab=256)
    bias = {47: -3.5, 236: 2.0}
    found = engine(prompt_piece=64).submit(
        ids, max_new_tokens=12, logit_bias=bias, presence_penalty=0.6, frequency_penalty=1.1
    )
    own = [logit_bias(bias), presence_and_frequency(0.6, 1.1, 20)]
    assert list(found.result(20).ids) == model.generate([ids], max_new_tokens=12, logits_processor=own)[0, 20:].tolist()
    scores = np.zeros((1, 5), np.float32)
    changed = presence_and_frequency(0.5, 0.25, 1)(np.array([[3, 2, 2, 4]]), scores)
    assert changed.tolist() == [[0, 0, -1.0, 0, -0.75]]


def test_prompts_in_several_pieces(models):
    """The logits round in another order than in one call; the ids are the same."""
    for name, (model, tokenizer) in models.items():
        with LanguageEngine(model, tokenizer, kv_page_size=16, prompt_piece=PIECE) as one:
            ids = prompt_of(39)
            answer = one.submit(ids, max_new_tokens=8, eos_token_id=None)
            expected = model.generate([ids], max_new_tokens=8, eos_token_id=None, pad_token_id=0)
            assert list(answer.result(20).ids) == expected[0, 39:].tolist(), name


def test_a_text_that_grows_from_short_to_long_factors(models):
    """Phi-3 of 12 short positions runs the text again when it becomes the thirteenth."""
    model, tokenizer = models["phi3"]
    with LanguageEngine(model, tokenizer, kv_page_size=16, prompt_piece=PIECE, max_tokens_in_flight=64) as one:
        answers = [one.submit(prompt_of(n), max_new_tokens=9, eos_token_id=None) for n in (6, 9, 20)]
        for n, answer in zip((6, 9, 20), answers, strict=True):
            expected = model.generate([prompt_of(n)], max_new_tokens=9, eos_token_id=None, pad_token_id=0)
            assert list(answer.result(20).ids) == expected[0, n:].tolist()


# --- bits -----------------------------------------------------------------------------------------------------------


def requests() -> list[tuple[list[int], dict]]:
    """Prompts that share beginnings, of less than a piece to three of them, and what is asked of each."""
    begin, found = prompt_of(2 * PIECE + 3), []
    for i, n in enumerate([1, 5, 15, 16, 17, 32, 33, 35]):
        options = {"do_sample": True, "seed": i} if i % 3 == 1 else {}
        options |= {"repetition_penalty": 1.2} if i % 3 == 2 else {}
        found.append((begin[:n], options))
        found.append((begin[:PIECE] + prompt_of(n, seed=i), options))
    return found


def answered(answer):
    found = answer.result(60)
    return found.ids, found.logprobs, found.text


@pytest.mark.rotate("threads")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gpt2", None),
        ("gpt2", "int8"),
        ("llama", "bfloat16"),
        ("llama", "int8"),
        ("gemma2", None),
        ("mistral", "bfloat16"),
        ("gpt_oss", None),
        ("phi3", None),
    ],
)
def test_load_changes_no_bit(models, name, dtype, threads):
    """All scores (as logprobs of the whole vocabulary) of requests that run alone, with nothing shared, and of the same
    ones that come at random times, several at once, while others are cancelled."""
    model, tokenizer = models[name]
    sizes = {"kv_page_size": 16, "prompt_piece": PIECE, "kv_cache_dtype": dtype}
    asked = {"max_new_tokens": 7, "eos_token_id": None, "logprobs": model.config.vocab_size}
    with LanguageEngine(model, tokenizer, share_prompts=False, **sizes) as alone:
        expected = [answered(alone.submit(ids, **asked, **options)) for ids, options in requests()]
        assert alone.stats()["cached_tokens"] == 0
    rng = np.random.default_rng(0)
    with LanguageEngine(model, tokenizer, max_tokens_in_flight=256, **sizes) as one:
        for _ in range(2):
            order, running = rng.permutation(len(expected)).tolist(), {}
            for i in order:
                ids, options = requests()[i]
                running[i] = one.submit(ids, **asked, **options)
                if rng.random() < 0.4:
                    one.submit(ids, max_new_tokens=10, eos_token_id=None).cancel()
                time.sleep(rng.choice([0, 0.001]))
            for i, answer in running.items():
                assert answered(answer) == expected[i]
        stats = one.stats()
        assert stats["cached_tokens"] > 0 or name == "phi3"
        assert stats["steps"] < stats["generated_tokens"]


def test_a_prompt_that_is_known_is_not_computed_again(models):
    model, tokenizer = models["llama"]
    ids = prompt_of(2 * PIECE)
    with LanguageEngine(model, tokenizer, kv_page_size=16, prompt_piece=PIECE, max_tokens_in_flight=128) as one:
        answers = [one.submit(ids, max_new_tokens=3, logprobs=40, eos_token_id=None).result(20) for _ in range(2)]
        assert [answer.cached_tokens for answer in answers] == [0, PIECE]  # the last token is always computed
        assert answers[0].ids == answers[1].ids and answers[0].logprobs == answers[1].logprobs
        other = one.submit([*ids[:-1], ids[-1] % 30 + 5, 7], max_new_tokens=3, eos_token_id=None)
        assert other.result(20).cached_tokens == PIECE
        assert one.submit([4, *ids], max_new_tokens=3, eos_token_id=None).result(20).cached_tokens == 0
        # What is known gives way to what runs.
        for seed in range(6):
            one.submit(prompt_of(50, seed), max_new_tokens=5, eos_token_id=None).result(20)
        assert one.submit(ids, max_new_tokens=3, eos_token_id=None).result(20).cached_tokens == 0
        stats = one.stats()
        assert stats["prompt_tokens"] + stats["cached_tokens"] == 5 * 32 + 1 + 1 + 6 * 50


def test_seeds_belong_to_requests(engine):
    one = engine()
    ids = prompt_of(9)
    answers = [one.submit(ids, max_new_tokens=20, do_sample=True, seed=seed, top_k=0) for seed in (1, 2, 1)]
    first, second, third = (answer.result(20).ids for answer in answers)
    assert first == third and first != second


# --- text -----------------------------------------------------------------------------------------------------------


def test_text_is_that_of_the_ids_and_characters_are_whole(gpt2, engine):
    _, tokenizer = gpt2
    wanted = "naïve – 🙂 日本語\n and more"
    ids = tokenizer.encode(wanted).ids

    class Dictated:
        """Writes `ids`."""

        def start(self, tokenizer, vocab_size, eos):
            self.ended, self._left = False, list(ids)
            return self

        def apply(self, scores):
            return np.where(np.arange(len(scores)) == self._left[0], scores, -np.inf)

        def accept(self, id):
            assert id == self._left.pop(0)
            self.ended = not self._left

    answer = engine().submit([65, 66], max_new_tokens=100, constraint=Dictated())
    pieces = list(answer)
    assert "".join(piece.text for piece in pieces) == wanted and "\ufffd" not in pieces[2].text
    assert [piece.ids[0] for piece in pieces] == ids
    assert [piece.finish_reason for piece in pieces] == [None] * (len(ids) - 1) + ["stop"]
    for stop, include, text in [
        (["–"], False, "naïve "),
        (["日本"], True, "naïve – 🙂 日本"),
        (["nobody", "or"], False, wanted[: wanted.index("or")]),
    ]:
        answer = engine().submit([65], max_new_tokens=100, constraint=Dictated(), stop=stop, include_stop=include)
        found = answer.result(20)
        assert found.text == text and found.finish_reason == "stop"
        assert found.text == "".join(piece.text for piece in answer)
    cut = engine().submit([65], max_new_tokens=3, constraint=Dictated(), stop=["ïx"]).result(20)
    assert cut.text == "na\ufffd" and cut.finish_reason == "length"  # of two bytes there is one


def test_a_folders_stop_strings_and_defaults_are_followed(gpt2, engine, monkeypatch):
    model, tokenizer = gpt2
    whole = engine().submit([65], max_new_tokens=9).result(20)
    monkeypatch.setattr(model, "generation_config", {"stop_strings": whole.text[1], "max_new_tokens": 9})
    found = engine().submit([65]).result(20)
    assert found.text == whole.text[:1] and found.ids == whole.ids[:2]


# --- one request and the others ---------------------------------------------------------------------------------------


def test_cancelled_requests_give_back_their_pages(engine):
    one = engine(share_prompts=False)
    answers = [one.submit(prompt_of(n), max_new_tokens=300) for n in (5, 40, 60)]
    for answer in answers:
        next(iter(answer))
        answer.cancel()
        answer.cancel()
        assert answer.result(20).finish_reason == "cancelled"
    wait_until(lambda: one.stats()["tokens_held"] == 0)
    assert one.stats()["cancelled"] == 3 and one.stats()["running"] == 0
    done = one.submit([5], max_new_tokens=1)
    assert done.result(20).finish_reason == "length"
    done.cancel()
    assert done.result(20).finish_reason == "length"


def test_requests_that_wait_or_are_read_can_be_cancelled(engine):
    gate = Held()
    one = engine(turns=gate, max_tokens_in_flight=64)
    reads = one.submit(prompt_of(40), max_new_tokens=20)
    waits = one.submit(prompt_of(40), max_new_tokens=20)
    wait_until(lambda: one.stats()["reading"] == 1)
    reads.cancel(), waits.cancel()
    gate.release()
    for answer in (reads, waits):
        assert answer.result(20).ids == () and answer.result(20).finish_reason == "cancelled"
    wait_until(lambda: one.stats()["tokens_held"] == one.stats()["tokens_known"])


def test_a_full_queue_and_a_request_that_can_never_fit(engine):
    gate = Held()
    one = engine(turns=gate, max_tokens_in_flight=64, max_queue=2)
    first = one.submit(prompt_of(40), max_new_tokens=20)
    wait_until(lambda: one.stats()["queue"] == 0)
    others = [one.submit(prompt_of(40), max_new_tokens=20) for _ in range(2)]
    with pytest.raises(Busy, match="2 requests wait, max_queue=2") as refused:
        one.submit([5])
    assert refused.value.retry_after >= 1
    with pytest.raises(ValueError, match="the prompt has 40 tokens and may get 25 more; needed: at most 64"):
        one.submit(prompt_of(40), max_new_tokens=25)
    with pytest.raises(ValueError, match="needed: room for a new token"):
        one.submit(prompt_of(64))
    gate.release()
    assert [len(answer.result(20).ids) for answer in (first, *others)] == [20] * 3
    assert one.max_length == 64 and one.stats()["refused"] == 1


def test_first_come_first_served(engine):
    """A long request at the head of the queue is not overtaken by a short one that would fit, and would end first."""
    gate, order = Held(), []
    one = engine(turns=gate, max_tokens_in_flight=128, share_prompts=False)
    answers = [one.submit(prompt_of(n, seed=i), max_new_tokens=16) for i, n in enumerate((60, 60, 3))]
    for name, answer in zip("abc", answers, strict=True):
        answer.listen(lambda piece, name=name: order.append(name) if piece.finish_reason else None)
    gate.release()
    for answer in answers:
        answer.result(20)
    assert order[0] == "a"


def test_a_short_prompt_waits_for_one_piece_of_a_long_one(gpt2, engine):
    gate = Held()
    one = engine(turns=gate, share_prompts=False)
    first = []
    for n in (300, 4):
        one.submit(prompt_of(n), max_new_tokens=2).listen(lambda piece, n=n: first.append(n))
    wait_until(lambda: one.stats()["reading"] > 0)
    gate.release()
    wait_until(lambda: len(first) == 4)
    assert first == [4, 4, 300, 300]


class Wrong:
    """A constraint that fails at its third id."""

    def start(self, tokenizer, vocab_size, eos):
        self.ended, self._ids = False, 0
        return self

    def apply(self, scores):
        if self._ids == 2:
            raise ZeroDivisionError("a constraint's own error")
        return scores

    def accept(self, id):
        self._ids += 1


def test_an_error_ends_its_request_alone(engine):
    one = engine()
    good = one.submit(prompt_of(20), max_new_tokens=30)
    bad = one.submit(prompt_of(20), max_new_tokens=30, constraint=Wrong())
    failures, pieces = [], []
    bad.listen(pieces.append, failures.append)
    with pytest.raises(ZeroDivisionError):
        bad.result(20)
    with pytest.raises(ZeroDivisionError):
        list(bad)
    wait_until(lambda: failures)
    assert len(pieces) == 2 and len(good.result(20).ids) == 30


def test_what_a_listener_raises_ends_its_request_alone(engine):
    gate, failures = Held(), []
    one = engine(turns=gate)

    def refuses(piece):
        raise ConnectionError

    deaf, other = (one.submit(prompt_of(20), max_new_tokens=30) for _ in range(2))
    deaf.listen(refuses, failures.append)
    with pytest.raises(RuntimeError, match="one listener"):
        deaf.listen(refuses)
    gate.release()
    with pytest.raises(ConnectionError):
        deaf.result(20)
    assert len(other.result(20).ids) == 30
    wait_until(lambda: failures)
    assert one.stats()["errors"] == 1 and [type(error) for error in failures] == [ConnectionError]


@pytest.mark.parametrize("where", ["prompt", "step"])
def test_an_error_of_a_call_ends_the_rows_in_it(engine, monkeypatch, gpt2, where):
    model, _ = gpt2
    gate = Held()
    one = engine(turns=gate, share_prompts=False)
    expected = None
    before = model.body.last_hidden

    def fails(ids, positions, batch, rows=None, head=None):
        if (where == "step") == (head is not None):
            raise MemoryError("no memory")
        return before(ids, positions, batch, rows, head)

    monkeypatch.setattr(model.body, "last_hidden", fails)
    answers = [one.submit(prompt_of(5, seed), max_new_tokens=5) for seed in range(3)]
    gate.release()
    for answer in answers:
        with pytest.raises(MemoryError, match="no memory"):
            answer.result(20)
    monkeypatch.undo()
    wait_until(lambda: one.stats()["tokens_held"] == 0)
    expected = model.generate([prompt_of(5)], max_new_tokens=5)[0, 5:].tolist()
    assert list(one.submit(prompt_of(5), max_new_tokens=5).result(20).ids) == expected


# --- the engine itself ------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_by_name(gpt2, engine):
    model, tokenizer = gpt2
    one = engine()
    for options, error, text in [
        ({"num_beams": 2}, ValueError, "num_beams is 2; needed: 1"),
        ({"num_return_sequences": 2, "do_sample": True}, ValueError, "num_return_sequences is 2"),
        ({"temperatur": 2}, TypeError, "temperatur"),
        ({"prompt_lookup_num_tokens": 3}, TypeError, "prompt_lookup_num_tokens"),
        ({"guidance_scale": 3}, NotImplementedError, "guidance_scale is 3"),
        ({"temperature": 0}, ValueError, "temperature is 0"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens is 0"),
        ({"logprobs": -1}, ValueError, "logprobs is -1"),
        ({"stop": [""]}, ValueError, "stop is"),
        ({"logit_bias": {256: 1}}, ValueError, "logit_bias has the id 256"),
        ({"logit_bias": {5: 101}}, ValueError, "-100 to 100"),
        ({"presence_penalty": 3}, ValueError, "presence_penalty is 3"),
        ({"frequency_penalty": "1"}, ValueError, "frequency_penalty is '1'"),
    ]:
        with pytest.raises(error, match=text):
            one.submit([5], **options)
    with pytest.raises(IndexError):
        one.submit([256])
    with pytest.raises(ValueError, match="prompt_ids has shape"):
        one.submit([])
    for sizes, text in [
        ({"prompt_piece": 40}, "prompt_piece is 40; needed: a multiple of kv_page_size=16"),
        ({"kv_page_size": 24}, "page_size is 24"),
        ({"max_queue": 0}, "max_queue is 0"),
        ({"max_tokens_in_flight": 8}, "max_tokens_in_flight is 8"),
        ({"kv_cache_dtype": "int4"}, "kv_cache_dtype is 'int4'"),
    ]:
        with pytest.raises(ValueError, match=text):
            engine(**sizes)
    with pytest.raises(TypeError, match="needed: a decoder"):
        LanguageEngine(model.body, tokenizer)


def test_closing_ends_what_was_accepted(engine):
    before = set(threading.enumerate())
    one = engine(max_tokens_in_flight=64)
    answers = [one.submit(prompt_of(30), max_new_tokens=20) for _ in range(4)]
    one.close()
    assert [len(answer.result(0).ids) for answer in answers] == [20] * 4
    with pytest.raises(Stopping):
        one.submit([5])
    one.close()
    gate = Held()
    late = engine(turns=gate)
    answer = late.submit([5], max_new_tokens=300)
    threading.Timer(0.2, gate.release).start()
    late.close(0.01)
    assert answer.result(0).finish_reason == "cancelled"
    wait_until(lambda: not [thread for thread in set(threading.enumerate()) - before if "engine" in thread.name])


def test_an_engine_that_nobody_has_any_more_ends_its_thread(gpt2):
    def engines() -> list:
        return [thread for thread in threading.enumerate() if thread.name.endswith("engine")]

    before = len(engines())
    answer = LanguageEngine(*gpt2).submit([5], max_new_tokens=30)  # which lives until its requests have ended
    assert len(answer.result(20).ids) == 30
    del answer
    gc.collect()
    wait_until(lambda: len(engines()) <= before)


def test_many_threads_submit_cancel_and_read(gpt2, engine):
    model, _ = gpt2
    one = engine(max_tokens_in_flight=512, turns=Turns())
    expected = {n: model.generate([prompt_of(n)], max_new_tokens=6)[0, n:].tolist() for n in range(1, 9)}
    wrong = []

    def client(seed):
        rng = np.random.default_rng(seed)
        for _ in range(6):
            n = int(rng.integers(1, 9))
            answer = one.submit(prompt_of(n), max_new_tokens=6)
            if rng.random() < 0.3:
                answer.cancel()
            found = answer.result(30)
            if found.finish_reason != "cancelled" and list(found.ids) != expected[n]:
                wrong.append(n)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    stats = one.stats()
    assert stats["requests"] == 48 == stats["length"] + stats["cancelled"]
