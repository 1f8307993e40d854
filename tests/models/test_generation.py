"""generation: searches, processors and options, on a stand-in for a model whose scores can be written down.

That tokens are those of transformers.generate is tested with real decoders: models/test_*.py (golden) and
oracle/test_decoders.py (live).
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from score_tables import Chain, Speaker, V, cycle

from transformer_fast.generation import GenerationConfig, TextStreamer, generate, stream
from transformer_fast.generation import logits as processors
from transformer_fast.generation.config import RANGES

# ----------------------------------------------------------------------------------------------------------------------
# Greedy search and what ends it


def test_greedy():
    model = Chain(cycle())
    assert generate(model, [[0], [6]], max_new_tokens=4).tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 0, 1]]
    assert model.steps == 3 and model.seen["capacity"] == 5
    assert generate(model, [[0]]).shape == (1, 21)
    assert generate(Chain(cycle(), positions=8), [[0]]).shape == (1, 8)
    assert generate(model, [[0, 1]], max_length=4).tolist() == [[0, 1, 2, 3]]
    assert generate(model, [[0, 1]], max_length=4, max_new_tokens=1).tolist() == [[0, 1, 2]]


def test_rows_end_one_after_the_other():
    model = Chain(cycle())
    assert generate(model, [[0], [5]], max_new_tokens=9, eos_token_id=7, pad_token_id=8).tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [5, 6, 7, 8, 8, 8, 8, 8],
    ]
    assert model.steps == 6
    assert generate(model, [[0], [5]], max_new_tokens=9, eos_token_id=[2, 7]).tolist() == [[0, 1, 2], [5, 6, 7]]
    assert generate(model, [[0], [5]], max_new_tokens=4, eos_token_id=[7, 1])[0, 2:].tolist() == [7]


def test_shortest_lengths():
    model = Chain(cycle())
    assert generate(model, [[5]], max_new_tokens=4, eos_token_id=7).tolist() == [[5, 6, 7]]
    assert generate(model, [[5]], max_new_tokens=4, eos_token_id=7, min_new_tokens=3).tolist() == [[5, 6, 8, 0, 1]]
    assert generate(model, [[5]], max_new_tokens=4, eos_token_id=7, min_length=3).tolist() == [[5, 6, 8, 0, 1]]
    assert generate(model, [[5]], max_new_tokens=4, eos_token_id=7, min_length=2).tolist() == [[5, 6, 7]]


def test_padding_on_either_side():
    """What a row continues is its last token, wherever padding is; the mask is found from pad_token_id."""
    model = Chain(cycle())
    ids = [[8, 8, 3], [3, 8, 8], [1, 2, 3]]
    mask = [[0, 0, 1], [1, 0, 0], [1, 1, 1]]
    assert (generate(model, ids, mask, max_new_tokens=2)[:, 3:] == [4, 5]).all()
    assert (generate(model, ids, max_new_tokens=2, pad_token_id=8)[:, 3:] == [4, 5]).all()
    assert generate(model, ids, max_new_tokens=1, pad_token_id=8, eos_token_id=8)[:, 3].tolist() == [4, 0, 4]
    generate(model, ids, np.ones((3, 3)), max_new_tokens=1)
    assert model.seen["attention_mask"] is None


class Letters:
    """A tokenizer: id i is the i-th letter; 8 is a special token."""

    def decode(self, ids, skip_special_tokens=True):
        return "".join("" if i == 8 and skip_special_tokens else "abcdefgh#"[i] for i in ids)


def test_stop_strings():
    model, options = Chain(cycle()), {"max_new_tokens": 8, "tokenizer": Letters()}
    assert generate(model, [[0]], stop_strings="de", **options).tolist() == [[0, 1, 2, 3, 4]]
    assert generate(model, [[0]], stop_strings=["zz", "c"], **options).tolist() == [[0, 1, 2]]
    assert generate(model, [[3, 4]], stop_strings="ef", **options).tolist() == [[3, 4, 5]]  # begins in the prompt
    assert generate(model, [[3, 4]], stop_strings="de", **options).shape == (1, 10)  # was there before
    both = generate(model, [[0], [2]], stop_strings="d", pad_token_id=8, eos_token_id=7, **options)
    assert both.tolist() == [[0, 1, 2, 3], [2, 3, 8, 8]]
    both = generate(model, [[0], [2]], stop_strings="d", pad_token_id=8, **options)  # as transformers
    assert both.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5]]
    with pytest.raises(ValueError, match="tokenizer is None"):
        generate(model, [[0]], stop_strings="d")


# ----------------------------------------------------------------------------------------------------------------------
# Beams


def log_probability(table, row):
    logs = processors.log_softmax(table)
    return sum(float(logs[a, b]) for a, b in itertools.pairwise(row))


def test_beams_that_hold_everything_find_the_best():
    """With as many beams as there are sequences, beam search is exhaustive."""
    model = Chain(np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32))
    found = generate(model, [[0], [3]], max_new_tokens=3, num_beams=64, num_return_sequences=5)
    for row, start in enumerate((0, 3)):
        rows = [[start, *rest] for rest in itertools.product(range(4), repeat=3)]
        best = sorted((log_probability(model.table, ids) for ids in rows), reverse=True)[:5]
        got = found[5 * row : 5 * row + 5]
        # Several sequences make the same steps in another order: scores are compared, not ids.
        np.testing.assert_allclose([log_probability(model.table, ids) for ids in got], best, atol=1e-5)
        assert len({ids.tobytes() for ids in got}) == 5 and (got[:, 0] == start).all()


def test_beams_and_endings():
    table = np.full((V, V), -20, np.float32)
    table[0, 1], table[0, 2] = 1.0, 0.9
    table[1, 3:7] = 0.0  # after the likelier token all is open
    table[2, 8] = 5.0  # after the other one the sequence surely ends
    model, options = Chain(table), {"max_new_tokens": 2, "eos_token_id": 8}
    assert generate(model, [[0]], **options)[0, 1] == 1
    assert generate(model, [[0]], num_beams=2, **options).tolist() == [[0, 2, 8]]
    assert generate(model, [[0]], num_beams=2, early_stopping=True, **options).tolist() == [[0, 2, 8]]


def test_length_penalty_prefers_long_or_short():
    table = np.full((V, V), -20, np.float32)
    table[:, 1], table[:, 8] = 0.4, 0.0
    model, options = Chain(table), {"max_new_tokens": 6, "eos_token_id": 8, "num_beams": 3, "early_stopping": "never"}
    lengths = [generate(model, [[0]], length_penalty=p, **options).shape[1] for p in (-2.0, 0.0, 3.0)]
    assert lengths == [2, 2, 7]


# ----------------------------------------------------------------------------------------------------------------------
# Sampling


def frequencies(model, n=4000, **options):
    ids = generate(model, np.zeros((n, 1), int), max_new_tokens=1, do_sample=True, seed=11, **options)[:, 1]
    return np.bincount(ids, minlength=V) / n


def test_sampling_follows_the_scores():
    model = Chain()
    expected = processors.softmax(model.table[0])
    assert np.abs(frequencies(model, top_k=0) - expected).max() < 0.03
    assert frequencies(model, top_k=1)[expected.argmax()] == 1
    warm, cold = (frequencies(model, temperature=t).max() for t in (5.0, 0.2))
    assert warm < expected.max() < cold


def test_seeds():
    model, options = Chain(), {"max_new_tokens": 12, "do_sample": True}
    first = generate(model, [[0], [1]], seed=3, **options)
    assert np.array_equal(first, generate(model, [[0], [1]], seed=3, **options))
    assert not np.array_equal(first, generate(model, [[0], [1]], seed=4, **options))
    generator = np.random.default_rng(3)
    assert np.array_equal(first, generate(model, [[0], [1]], seed=generator, **options))
    assert not np.array_equal(first, generate(model, [[0], [1]], seed=generator, **options))
    assert len({generate(model, [[0]], **options).tobytes() for _ in range(5)}) > 1


def test_several_samples_a_row():
    ids = generate(Chain(), [[0], [1]], max_new_tokens=6, do_sample=True, num_return_sequences=3, seed=0)
    assert ids.shape == (6, 7) and ids[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert len({row.tobytes() for row in ids}) == 6
    beams = generate(Chain(), [[0], [1]], max_new_tokens=6, do_sample=True, num_beams=4, num_return_sequences=3, seed=0)
    assert beams.shape == (6, 7) and len({row.tobytes() for row in beams[:3]}) == 3


# ----------------------------------------------------------------------------------------------------------------------
# Processors


SCORES = np.log(np.array([[0.4, 0.3, 0.15, 0.1, 0.05], [0.05, 0.1, 0.15, 0.3, 0.4]], np.float32))
IDS = np.array([[0, 1, 0], [2, 2, 2]])


def kept(scores):
    return [np.flatnonzero(row > -np.inf).tolist() for row in scores]


@pytest.mark.parametrize(
    "processor, expected",
    [
        (processors.top_k(2), [[0, 1], [3, 4]]),
        (processors.top_k(9), [[0, 1, 2, 3, 4]] * 2),
        (processors.top_p(0.6), [[0, 1], [3, 4]]),
        (processors.top_p(0.0), [[0], [4]]),
        (processors.top_p(0.0, kept=2), [[0, 1], [3, 4]]),
        (processors.min_p(0.3), [[0, 1, 2], [2, 3, 4]]),
        (processors.min_p(1.0, kept=3), [[0, 1, 2], [2, 3, 4]]),
        (processors.banned([1, 4, 77]), [[0, 2, 3], [0, 2, 3]]),
        (processors.banned_before(4, [0]), [[1, 2, 3, 4]] * 2),
        (processors.banned_before(3, [0]), [[0, 1, 2, 3, 4]] * 2),
        (processors.banned_at(3, [0]), [[1, 2, 3, 4]] * 2),
        (processors.banned_at(2, [0]), [[0, 1, 2, 3, 4]] * 2),
        (processors.forced_at(3, 2), [[2], [2]]),
        (processors.forced_at(3, [2, 4]), [[2, 4], [2, 4]]),
        (processors.forced_at(2, 2), [[0, 1, 2, 3, 4]] * 2),
        (processors.no_repeat_ngram(1), [[2, 3, 4], [0, 1, 3, 4]]),
        (processors.no_repeat_ngram(2), [[0, 2, 3, 4], [0, 1, 3, 4]]),
        (processors.no_repeat_ngram(4), [[0, 1, 2, 3, 4]] * 2),
        (processors.bad_words([[3], [0, 4], [2, 2, 1], [1]], (1,)), [[0, 1, 2], [0, 2, 4]]),
    ],
)
def test_what_processors_leave(processor, expected):
    before = SCORES.copy()
    assert kept(processor(IDS, SCORES)) == expected
    assert np.array_equal(SCORES, before)


def test_repetition_penalty():
    scores = np.array([[1.0, -1.0, 2.0, 3.0]], np.float32)
    penalty = processors.repetition_penalty(2.0, None)
    assert penalty(np.array([[0, 1, 9]]), scores).tolist() == [[0.5, -2.0, 2.0, 3.0]]
    padded = processors.repetition_penalty(2.0, np.array([[False, True]]))
    assert padded(np.array([[0, 1, 3]]), scores).tolist() == [[1.0, -2.0, 2.0, 1.5]]
    two = processors.repetition_penalty(2.0, np.array([[False], [True]]))
    assert two(np.array([[0], [0], [2], [2]]), np.repeat(scores, 4, axis=0))[:, [0, 2]].tolist() == [
        [1, 2],
        [1, 2],
        [1, 1],
        [1, 1],
    ]


def test_penalties_of_the_source():
    source = np.array([[1, 2, 1], [4, 3, 8]])
    scores = np.array([[1, 2, -2, 4, 5, 6, 7, 8, 9]] * 4, np.float32)
    ids = np.array([[0, 1], [0, 2], [0, 4], [0, 3]])  # two beams a row
    got = processors.encoder_repetition_penalty(2.0, source)(ids, scores)
    assert got[0].tolist() == got[1].tolist() == [1, 4, -1, 4, 5, 6, 7, 8, 9]
    assert got[2].tolist() == got[3].tolist() == [1, 2, -2, 8, 10, 6, 7, 8, 18]
    got = processors.encoder_no_repeat_ngram(2, source)(ids, scores)
    assert [np.flatnonzero(np.isinf(row)).tolist() for row in got] == [[2], [1], [3], [8]]
    assert np.isinf(processors.encoder_no_repeat_ngram(1, source)(ids, scores)).sum(axis=1).tolist() == [2, 2, 3, 3]
    assert processors.encoder_no_repeat_ngram(4, source)(ids, scores) is scores


def test_sequence_bias():
    biases = GenerationConfig(sequence_bias=[[[3], 2.0], [[0, 1], -np.inf], [[5, 6, 7, 8], 1.0]]).biases
    got = processors.sequence_bias(biases)(np.array([[5, 0], [6, 7]]), np.zeros((2, V), np.float32))
    assert got.tolist() == [[0, -np.inf, 0, 2, 0, 0, 0, 0, 0], [0, 0, 0, 2, 0, 0, 0, 0, 0]]
    assert GenerationConfig(sequence_bias={(3,): 2}).biases == {(3,): 2}


def test_exponential_decay():
    decay = processors.exponential_decay(2, 1.5, (0, 2))
    scores = np.array([[-2, 1, 4], [-np.inf, 1, 0]], np.float32)
    assert decay(np.zeros((2, 2)), scores) is scores
    assert decay(np.zeros((2, 4)), scores).tolist() == [[0.5, 1, 9], [-np.inf, 1, 0]]


def test_invalid_scores():
    largest = np.finfo(np.float32).max
    scores = np.array([[np.nan, np.inf, -np.inf, 3]], np.float32)
    assert processors.remove_invalid(None, scores).tolist() == [[0, largest, -largest, 3]]


def test_time_ends_a_generation():
    assert generate(Chain(), [[0]], max_new_tokens=50, max_time=0).shape == (1, 2)
    assert generate(Chain(), [[0]], max_new_tokens=50, max_time=0.0, num_beams=2).shape == (1, 2)
    assert generate(Chain(), [[0]], max_new_tokens=5, max_time=1e6).shape == (1, 6)


def test_a_start_for_each_row():
    table = np.random.default_rng(5).standard_normal((V, V)).astype(np.float32)
    ids = generate(Speaker(table), [[1], [2]], decoder_start_token_id=[3, 4], max_new_tokens=2)
    assert ids[:, 0].tolist() == [3, 4]
    with pytest.raises(ValueError, match="decoder_start_token_id has 3 ids; needed: one, or 2"):
        generate(Speaker(table), [[1], [2]], decoder_start_token_id=[3, 4, 5], max_new_tokens=2)


def test_typical_leaves_out_what_surprises_too_much_or_too_little():
    scores = np.log(np.array([[0.5, 0.2, 0.2, 0.1]], np.float32))
    assert kept(processors.typical_p(0.3)(IDS[:1], scores)) == [[1, 2]]


def test_order_and_the_hook():
    calls = []

    def hook(ids, scores):
        calls.append((ids.copy(), scores.copy()))
        return scores + np.eye(V, dtype=np.float32)[3] * 100

    ids = generate(Chain(cycle()), [[0]], max_new_tokens=3, logits_processor=hook, suppress_tokens=[1])
    assert ids.tolist() == [[0, 3, 3, 3]]
    assert [past.shape for past, _ in calls] == [(1, 1), (1, 2), (1, 3)] and calls[0][1][0, 1] == -np.inf
    twice = generate(Chain(cycle()), [[0]], max_new_tokens=1, logits_processor=[hook, lambda ids, scores: -scores])
    assert twice[0, 1] != 3
    beams = generate(Chain(cycle()), [[0]], max_new_tokens=3, num_beams=2, logits_processor=hook)
    assert beams.tolist() == [[0, 3, 3, 3]]


# ----------------------------------------------------------------------------------------------------------------------
# Encoder-decoder


def test_encoder_decoder():
    model = Speaker(cycle())
    options = {"max_new_tokens": 3, "decoder_start_token_id": 2}
    assert generate(model, [[7, 7], [7, 7]], [[1, 1], [1, 0]], **options).tolist() == [[2, 3, 4, 5]] * 2
    assert model.seen["attention_mask"] == [[1, 1], [1, 0]] and model.seen["capacity"] == 4
    assert generate(model, [[7, 7]], max_new_tokens=1, bos_token_id=4, pad_token_id=7).tolist() == [[4, 5]]
    assert model.seen["attention_mask"] is None  # unlike decoders: transformers does not guess here
    assert generate(model, [[7]], **options, decoder_input_ids=[[2, 6]]).tolist() == [[2, 6, 7, 8, 0]]
    assert generate(model, [[7]], **options, decoder_input_ids=[[6]]).tolist() == [[2, 6, 7, 8, 0]]
    features = np.zeros((2, 4, 5), np.float32)
    assert generate(model, input_features=features, **options).tolist() == [[2, 3, 4, 5]] * 2
    forced = {"forced_bos_token_id": 6, "forced_eos_token_id": 8, "eos_token_id": 8}
    assert generate(model, [[7]], **options, **forced).tolist() == [[2, 6, 7, 8]]
    assert generate(model, [[7]], **options, num_beams=2, **forced).tolist() == [[2, 6, 7, 8]]
    assert generate(model, [[7]], **options, begin_suppress_tokens=[3]).tolist() == [[2, 4, 5, 6]]
    with pytest.raises(ValueError, match="decoder_start_token_id is None"):
        generate(model, [[7]], max_new_tokens=1)
    with pytest.raises(TypeError, match="input_ids is None"):
        generate(model, **options)


# ----------------------------------------------------------------------------------------------------------------------
# Streams


def test_stream():
    model = Chain(cycle())
    tokens = stream(model, [[1], [5]], max_new_tokens=50, eos_token_id=8, pad_token_id=0)
    assert next(tokens).tolist() == [2, 6] and next(tokens).tolist() == [3, 7]
    assert model.steps == 1  # nothing is computed ahead
    assert [ids.tolist() for ids in tokens] == [[4, 8], [5, 0], [6, 0], [7, 0], [8, 0]]
    with pytest.raises(ValueError, match="num_beams is 2; needed: 1"):
        stream(model, [[0]], num_beams=2)


def test_streamers():
    class Recorder(list):
        def put(self, ids):
            self.append(ids.tolist())

        def end(self):
            self.append("end")

    seen = Recorder()
    generate(Chain(cycle()), [[0, 1]], max_new_tokens=2, streamer=seen)
    assert seen == [[[0, 1]], [2], [3], "end"]
    with pytest.raises(ValueError, match="streamer is given and num_beams is 2"):
        generate(Chain(cycle()), [[0, 1]], max_new_tokens=2, streamer=seen, num_beams=2)


class Bytes:
    """A tokenizer whose ids are bytes of UTF-8."""

    def decode(self, ids, skip_special_tokens=True):
        return bytes(ids).decode("utf-8", errors="replace")


def test_text_comes_in_whole_characters():
    pieces = []
    streamer = TextStreamer(Bytes(), write=pieces.append)
    prompt, text = "a\u00e9".encode(), "b\u65e5\nc\u00e9".encode()
    streamer.put(np.array([list(prompt)]))
    for byte in text:
        streamer.put(np.array([byte]))
    streamer.put(np.array([0xC3]))  # half a character, held back until the end
    assert pieces == ["b", "\u65e5", "\n", "c", "\u00e9"]
    streamer.end()
    assert "".join(pieces) == "b\u65e5\nc\u00e9\ufffd"
    whole = []
    streamer = TextStreamer(Bytes(), skip_prompt=False, write=whole.append)
    streamer.put(np.array([list(prompt)]))
    assert whole == ["a\u00e9"]
    with pytest.raises(ValueError, match=r"ids have shape \(2,\); needed: one row"):
        streamer.put(np.array([1, 2]))


def test_lines_that_begin_with_a_space():
    """As SentencePiece, which drops the space before a text's first word."""

    class Pieces:
        def decode(self, ids, skip_special_tokens=True):
            return "".join(["\n", " a", " b"][i] for i in ids).removeprefix(" ")

    pieces = []
    streamer = TextStreamer(Pieces(), write=pieces.append)
    streamer.put(np.array([[1, 1]]))
    for token in (2, 0, 1, 2, 0, 0, 1):
        streamer.put(np.array([token]))
    streamer.end()
    assert "".join(pieces) == " b\n a b\n\n a"


def test_ctrl_c_stops_at_the_token():
    class Interrupted(Chain):
        def step(self, ids, state):
            if self.steps == 3:
                raise KeyboardInterrupt
            return super().step(ids, state)

    model = Interrupted(cycle())
    with pytest.raises(KeyboardInterrupt):
        generate(model, [[0]], max_new_tokens=10**6)
    assert model.steps == 3


# ----------------------------------------------------------------------------------------------------------------------
# Options


def test_every_option_is_checked():
    assert RANGES.keys() == {field.name for field in dataclasses.fields(GenerationConfig)}


@pytest.mark.parametrize(
    "options, text",
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; needed: an integer >= 1"),
        ({"max_length": 1}, "the prompt has 1 tokens and rows end at 1"),
        ({"max_length": True}, "max_length is True"),
        ({"temperature": 0.0}, "temperature is 0.0; needed: a number > 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"typical_p": 0.0}, "typical_p is 0.0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"num_beams": 1.5}, "num_beams is 1.5"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2; needed without do_sample: at most num_beams=1"),
        ({"num_beams": 2, "do_sample": True, "num_return_sequences": 3}, "at most num_beams=2"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"eos_token_id": []}, "eos_token_id is"),
        ({"bad_words_ids": [1]}, "bad_words_ids is"),
        ({"bad_words_ids": [[]]}, "bad_words_ids is"),
        ({"stop_strings": ""}, "stop_strings is ''"),
        ({"do_sample": "yes"}, "do_sample is 'yes'"),
        ({"seed": -3}, "seed is -3"),
        ({"max_time": "long"}, "max_time is 'long'"),
        ({"top_h": 0}, "top_h is 0"),
        ({"encoder_repetition_penalty": 0.0}, "encoder_repetition_penalty is 0.0"),
        ({"sequence_bias": []}, "sequence_bias is"),
        ({"sequence_bias": [[[1, 2], "much"]]}, "sequence_bias is"),
        ({"sequence_bias": [[[V], 1.0]]}, f"sequence_bias has the id {V}; needed: 0 to {V - 1}"),
        ({"exponential_decay_length_penalty": [1, 2.0]}, "exponential_decay_length_penalty is given and eos_token_id"),
        ({"exponential_decay_length_penalty": [1]}, r"exponential_decay_length_penalty is \[1\]"),
    ],
    ids=str,
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        generate(Chain(), [[0]], **options)


@pytest.mark.parametrize(
    "name, value",
    [
        ("penalty_alpha", 0.6),
        ("num_beam_groups", 2),
        ("constraints", ["x"]),
        ("force_words_ids", [[1]]),
        ("guidance_scale", 1.5),
        ("return_dict_in_generate", True),
        ("output_scores", True),
        ("prefix_allowed_tokens_fn", print),
        ("watermarking_config", {"bias": 2.0}),
        ("token_healing", True),
        ("generation_config", GenerationConfig()),
        ("inputs_embeds", np.zeros((1, 2, 3))),
    ],
)
def test_unsupported_options_are_named(name, value):
    with pytest.raises(NotImplementedError, match=f"(?s){name} is .* not supported"):
        generate(Chain(), [[0]], **{name: value})
    generate(Chain(), [[0]], max_new_tokens=1, **{name: None})


def test_inputs_of_the_model():
    model = Chain()
    generate(model, [[0]], max_new_tokens=1, bonus=3, use_cache=True)
    assert model.seen["bonus"] == 3
    with pytest.raises(TypeError, match="generate.. got max_new_token, which Chain does not take"):
        generate(model, [[0]], max_new_token=1)
    with pytest.raises(TypeError, match="capacity"):
        generate(model, [[0]], capacity=1)


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ((), TypeError, "input_ids is None"),
        (([1, 2],), ValueError, r"input_ids has shape \(2,\)"),
        (([[]],), (ValueError, TypeError), "input_ids has"),
        (([[0.5]],), TypeError, "input_ids has dtype float64"),
        (([[1, 2]], [[1]]), ValueError, r"attention_mask has shape \(1, 1\); needed: \(1, 2\)"),
        (([[1, 2], [3, 4]], [[1, 1], [0, 0]]), ValueError, "row 1 of input_ids holds padding only"),
        (([[1, 2], [3]],), ValueError, r"input_ids has rows .*row 0 has 2, row 1 has 1.; needed: rows padded to one"),
        (([[1, 2], [3, 4]], [[1, 1], [1]]), ValueError, "attention_mask has rows of different lengths"),
    ],
)
def test_bad_input(arguments, error, text):
    with pytest.raises(error, match=text):
        generate(Chain(), *arguments, max_new_tokens=1)
