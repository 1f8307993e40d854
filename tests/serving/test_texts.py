"""`TextEngine` gives many threads what the pipelines give one, bit for bit; limits, order, cancelling, errors, the end.

A model that a test can stop is a `TextEngine` whose turn the test holds: nothing runs until it lets go.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest
from model_folders import SENTENCES, write_json, write_sentence_model
from pipeline_folders import write_head

from transformer_fast.pipelines import CrossEncoder, SentenceEncoder, SparseEncoder, TextClassifier
from transformer_fast.serving import Busy, Stopping, TextEngine, Turns

WORDS = "the cat sat on a mat far ran dog query".split()
SETTINGS = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None}
SECONDS = 30  # more than anything here takes


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True, "include_prompt": False}
    folder = tmp_path_factory.mktemp("models") / "sentences"
    return SentenceEncoder.from_pretrained(write_sentence_model(folder, pooling, config_sentence_transformers=SETTINGS))


@pytest.fixture(scope="module", params=[1, 3], ids=["one label", "three labels"])
def reranker(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "pairs"
    return CrossEncoder.from_pretrained(write_head(folder, "SequenceClassification", request.param))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return TextClassifier.from_pretrained(
        write_head(tmp_path_factory.mktemp("models") / "labels", "SequenceClassification")
    )


def texts_of(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, 14))) for _ in range(count)]


def in_threads(count: int, call) -> None:
    """call(number) in so many threads; an error of one is raised."""
    errors = []

    def run(number):
        try:
            call(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    if errors:
        raise errors[0]


# ----------------------------------------------------------------------------------------------------------------------
# Bits


@pytest.mark.parametrize("max_batch_tokens", [1, 40, None])
def test_embeddings_under_load_have_the_bits_of_encode(encoder, max_batch_tokens):
    texts = texts_of(60)
    variants = [
        {},
        {"prompt_name": "query"},
        {"prompt": "the "},
        {"normalize": True, "truncate_dim": 7},
        {"task": "document"},
    ]
    wanted = []
    for options in variants:
        named = {{"normalize": "normalize_embeddings"}.get(name, name): value for name, value in options.items()}
        wanted.append(encoder.encode(texts, **named))

    def call(number):
        rng = random.Random(number)
        for _ in range(8):
            chosen, variant = rng.sample(range(60), rng.randint(1, 12)), rng.randrange(len(variants))
            found = engine.embed([texts[i] for i in chosen], **variants[variant]).result(SECONDS)
            np.testing.assert_array_equal(found.vectors, wanted[variant][chosen])
            if not variant:
                assert found.tokens == encoder.count_tokens([texts[i] for i in chosen])

    with TextEngine(encoder, max_batch_tokens=max_batch_tokens) as engine:
        in_threads(10, call)
        stats = engine.stats()
    assert stats["requests"] == 80 and stats["tokens_in_flight"] == stats["queue_length"] == 0
    assert stats["batches"] >= 8 and stats["seconds"] > 0


def test_scores_under_load_have_the_bits_of_predict(reranker):
    pairs = list(zip(texts_of(40), texts_of(40, 1), strict=True))
    wanted = reranker.predict(pairs)
    calibrated = reranker.predict(pairs, activation_fn="Identity", apply_softmax=True)

    def call(number):
        rng = random.Random(number)
        for _ in range(6):
            chosen = rng.sample(range(40), rng.randint(1, 12))
            some = [pairs[i] for i in chosen]
            np.testing.assert_array_equal(engine.score(some).result(SECONDS).scores, wanted[chosen])
            found = engine.score(some, activation_fn="Identity", apply_softmax=True).result(SECONDS)
            np.testing.assert_array_equal(found.scores, calibrated[chosen])

    with TextEngine(reranker) as engine:
        assert engine.kind == "reranker"
        in_threads(8, call)


def test_labels_under_load_are_those_of_a_call(classifier):
    texts = [*texts_of(30), ("the cat", "ran far")]
    wanted = classifier(texts, top_k=None)

    def call(number):
        rng = random.Random(number)
        for _ in range(6):
            chosen = rng.sample(range(31), rng.randint(1, 12))
            found = engine.classify([texts[i] for i in chosen]).result(SECONDS)
            assert found.ranked() == [wanted[i] for i in chosen]
            assert found.ranked(1) == [wanted[i][:1] for i in chosen]

    with TextEngine(classifier) as engine:
        in_threads(8, call)
        logits = engine.classify(texts, function_to_apply="none").result(SECONDS)
    np.testing.assert_array_equal(logits.scores, classifier.logits(texts))
    assert logits.labels == classifier.labels


def test_static_embeddings_and_no_texts(tmp_path, encoder):
    from safetensors.numpy import save_file

    write_sentence_model(tmp_path / "bert")
    static = tmp_path / "static"
    static.mkdir()
    (static / "tokenizer.json").write_bytes((tmp_path / "bert/tokenizer.json").read_bytes())
    write_json(static / "config.json", {"model_type": "model2vec", "normalize": True})
    table = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    save_file({"embeddings": table}, static / "model.safetensors")
    made = SentenceEncoder.from_pretrained(static)
    with TextEngine(made) as engine:
        texts = ["the cat", "", "dog"]
        np.testing.assert_array_equal(engine.embed(texts).result(SECONDS).vectors, made.encode(texts))
        np.testing.assert_array_equal(engine.embed([[63]]).result(SECONDS).vectors.shape, (1, 5))
        with pytest.raises(ValueError, match="the token 64; needed: 0 to 63"):
            engine.embed([[64]])
        assert engine.embed([]).result(SECONDS).vectors.shape == (0, 5)
        assert engine.stats()["batches"] == 2


# ----------------------------------------------------------------------------------------------------------------------
# Numbers of tokens, and what is cut off


def test_numbers_of_tokens_are_taken_as_they_are(encoder):
    ids = [encoder.tokenizer.encode(text).ids for text in SENTENCES[:3]]
    with TextEngine(encoder) as engine:
        found = engine.embed([ids[0], tuple(ids[1]), np.array(ids[2])]).result(SECONDS)
        np.testing.assert_array_equal(found.vectors, encoder.encode(SENTENCES[:3]))
        assert found.tokens == sum(map(len, ids))
        bare = engine.embed([ids[0][1:-1]]).result(SECONDS)
        assert not np.array_equal(bare.vectors[0], found.vectors[0])


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([[5], [64]], ValueError, r"inputs\[1\] has the token 64; needed: 0 to 63"),
        ([[5, -1]], ValueError, r"the token -1"),
        ([[5, True]], TypeError, "True; needed: numbers"),
        ([["a"]], TypeError, "'a'; needed: numbers"),
        ([[]], ValueError, r"inputs\[0\] has 0 tokens; needed: 1 to 20"),
        ([[5] * 21], ValueError, "21 tokens; needed: 1 to 20"),
        ([[5], "text"], TypeError, r"inputs\[1\] is a str after numbers"),
        (["text", [5]], TypeError, r"inputs\[1\] is a list; needed: a string"),
        (["text", None], TypeError, r"inputs\[1\] is a NoneType"),
        ("text", TypeError, "inputs is a str; needed: a list"),
        (["\ud800"], ValueError, "UTF-8"),
    ],
)
def test_inputs_are_checked_in_the_call(encoder, inputs, error, message):
    with TextEngine(encoder) as engine:
        with pytest.raises(error, match=message):
            engine.embed(inputs)
        assert engine.stats()["requests"] == 0


def test_a_text_that_would_be_cut_off(encoder, reranker, classifier):
    long = "the cat " * 20
    with TextEngine(encoder) as engine:
        np.testing.assert_array_equal(engine.embed([long]).result(SECONDS).vectors, encoder.encode([long]))
        with pytest.raises(ValueError, match=r"inputs\[1\] has 42 tokens; needed: at most 20 \(max_seq_length\)"):
            engine.embed(["dog", long], truncate=False)
    with TextEngine(reranker) as engine:
        assert engine.score([("dog", long)]).result(SECONDS).tokens == 20
        with pytest.raises(ValueError, match=r"inputs\[0\] has 44 tokens; needed: at most 20"):
            engine.score([("dog", long)], truncate=False)
    with TextEngine(classifier) as engine, pytest.raises(ValueError, match="has 42 tokens; needed: at most 20"):
        engine.classify([long], truncate=False)


def test_arguments_and_kinds(encoder, classifier, reranker):
    with TextEngine(encoder) as engine:
        for options in ({"prompt_name": "none"}, {"truncate_dim": 0}):
            with pytest.raises(ValueError):
                engine.embed(["a"], **options)
        with pytest.raises(ValueError, match="with numbers of tokens"):
            engine.embed([[5]], prompt_name="query")
        with pytest.raises(TypeError, match="score needs a model of the kind 'reranker'.*'embeddings': embed"):
            engine.score([("a", "b")])
    with TextEngine(reranker) as engine, pytest.raises(TypeError, match=r"inputs\[1\]"):
        engine.score([("a", "b"), ("a",)])
    with TextEngine(classifier) as engine, pytest.raises(ValueError, match="function_to_apply is 'max'"):
        engine.classify(["a"], function_to_apply="max")
    with pytest.raises(TypeError, match="model is a type; needed: one of SentenceEncoder, CrossEncoder"):
        TextEngine(SparseEncoder)
    with pytest.raises(ValueError, match="max_queue is 0"):
        TextEngine(encoder, max_queue=0)


def test_brief_inputs():
    assert TextEngine.is_brief(["a" * 4000]) and not TextEngine.is_brief(["a" * 4000, "b"])
    assert TextEngine.is_brief([("a" * 2000, "a" * 2000)]) and not TextEngine.is_brief([("a" * 2000, "a" * 2001)])
    assert TextEngine.is_brief([(1, 2), [3]]) and not TextEngine.is_brief([[1] * 4001])


# ----------------------------------------------------------------------------------------------------------------------
# Order, limits, cancelling, the end


def test_a_long_request_does_not_delay_a_short_one(encoder):
    turns = Turns()
    with TextEngine(encoder, turns=turns, max_batch_tokens=32, max_tokens_in_flight=10**6) as engine:
        batches = []
        with turns:
            long = engine.embed(["the cat"] * 2000)
            short = engine.embed(["dog"])
            short.add_done_callback(lambda future: batches.append((engine.stats()["batches"], long.done())))
        short.result(SECONDS)
        while not batches:
            threading.Event().wait(0.001)
        assert batches == [(1, False)]
        assert long.cancel()


def test_what_arrives_during_a_batch_runs_together(encoder):
    turns = Turns()
    with TextEngine(encoder, turns=turns, max_batch_tokens=10**4) as engine:
        with turns:
            futures = [engine.embed(["the cat"]) for _ in range(50)]
        wait(futures, SECONDS)
        assert engine.stats()["batches"] == 1


def test_a_full_engine_says_when_to_come_again(encoder):
    turns = Turns()
    with TextEngine(encoder, turns=turns, max_tokens_in_flight=20, max_queue=3) as engine:
        with pytest.raises(ValueError, match="the request has 24 tokens; needed: at most 20"):
            engine.embed(["the cat"] * 6)
        with turns:
            first = engine.embed(["the cat"] * 4)
            with pytest.raises(Busy, match="1 requests with 16 tokens; it takes 3 with 20") as error:
                engine.embed(["dog"] * 2)
            assert error.value.retry_after > 0
            others = [engine.embed([[5]]) for _ in range(2)]
            with pytest.raises(Busy):
                engine.embed([[5]])
            assert engine.stats()["refused"] == 2 and engine.stats()["tokens_in_flight"] == 18
        wait([first, *others], SECONDS)
        assert engine.embed(["the cat"] * 5).result(SECONDS).tokens == 20


def test_cancelled_requests_do_not_run(encoder):
    turns = Turns()
    with TextEngine(encoder, turns=turns) as engine:
        with turns:
            futures = [engine.embed(["the cat", "dog"]) for _ in range(6)]
            for future in futures[::2]:
                assert future.cancel()
            assert engine.stats()["queue_length"] == 3 and engine.stats()["cancelled"] == 3
        assert wait(futures, SECONDS).not_done == set()
        with pytest.raises(CancelledError):
            futures[0].result()
        assert futures[1].result().vectors.shape == (2, 24)
    stats = engine.stats()
    assert stats["cancelled"] == 3 and stats["queue_length"] == stats["tokens_in_flight"] == 0


def test_cancelling_at_random_loses_nothing(encoder):
    texts = texts_of(20)
    wanted = encoder.encode(texts)

    def call(number):
        rng = random.Random(number)
        for _ in range(20):
            future = engine.embed(texts)
            if rng.random() < 0.5:
                threading.Event().wait(rng.random() / 500)
                future.cancel()
            try:
                np.testing.assert_array_equal(future.result(SECONDS).vectors, wanted)
            except CancelledError:
                assert future.cancelled()

    with TextEngine(encoder, max_batch_tokens=50) as engine:
        in_threads(8, call)
        stats = engine.stats()
    assert stats["requests"] == 160 and stats["failed"] == 0
    assert stats["queue_length"] == stats["tokens_in_flight"] == 0


class Refusing(SentenceEncoder):
    """Fails on the token of "dog", as a model might that runs out of memory."""

    def prepared(self, **options):
        job = super().prepared(**options)

        class Job(type(job)):
            def rows(self, tokens):
                if any(dog in one.ids for one in tokens):
                    raise MemoryError("no room for a dog")
                return super().rows(tokens)

        dog = self.tokenizer.token_to_id("dog")
        return Job(**{name: getattr(job, name) for name in job.__dataclass_fields__})


def test_a_request_that_cannot_be_computed_fails_alone(encoder):
    turns, refusing = Turns(), Refusing.__new__(Refusing)
    refusing.__dict__.update(encoder.__dict__)
    with TextEngine(refusing, turns=turns) as engine:
        with turns:
            good, bad, last = engine.embed(["the cat"]), engine.embed(["far", "the dog"]), engine.embed(["mat"])
        np.testing.assert_array_equal(good.result(SECONDS).vectors, encoder.encode(["the cat"]))
        np.testing.assert_array_equal(last.result(SECONDS).vectors, encoder.encode(["mat"]))
        with pytest.raises(MemoryError, match="no room"):
            bad.result(SECONDS)
        assert engine.stats()["failed"] == 1


def test_an_activation_that_fails_fails_its_request(reranker):
    def broken(logits):
        raise ZeroDivisionError("broken")

    with TextEngine(reranker) as engine:
        with pytest.raises(ZeroDivisionError):
            engine.score([("a", "b")], activation_fn=broken).result(SECONDS)
        assert engine.score([("a", "b")]).result(SECONDS).tokens == 5


def test_closing_ends_what_was_accepted(encoder):
    turns = Turns()
    engine = TextEngine(encoder, turns=turns, max_batch_tokens=8)
    with turns:
        futures = [engine.embed(["the cat"]) for _ in range(8)]
        closing = threading.Thread(target=engine.close)
        closing.start()
        while not engine._stopping:
            threading.Event().wait(0.001)
        with pytest.raises(Stopping):
            engine.embed(["dog"])
    closing.join(SECONDS)
    assert all(future.done() and future.exception() is None for future in futures)
    engine.close()


def test_closing_with_a_timeout_refuses_what_still_waits(encoder):
    turns = Turns()
    engine = TextEngine(encoder, turns=turns)
    with turns:
        future = engine.embed(["the cat"])
        closing = threading.Thread(target=engine.close, args=(0.01,))
        closing.start()
        with pytest.raises(Stopping):
            future.result(SECONDS)
    closing.join(SECONDS)
    assert not closing.is_alive()


def test_close_from_a_callback(encoder):
    engine = TextEngine(encoder)
    engine.embed(["the cat"]).add_done_callback(lambda future: engine.close())
    engine._thread.join(SECONDS)
    assert not engine._thread.is_alive()
