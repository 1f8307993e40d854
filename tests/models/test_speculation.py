"""generation/speculation.py: the tokens of plain search, or their distribution, from fewer calls of the model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from decoder_cases import inputs, write
from score_tables import Chain

from transformer_fast import load_model
from transformer_fast.generation import generate
from transformer_fast.generation.speculation import Pace, PromptLookup, accepting, drawn
from transformer_fast.models.t5 import T5Config, T5ForConditionalGeneration

pytest.importorskip("safetensors")

FAMILIES = ["gpt2", "llama", "mistral", "gemma2", "gemma3", "qwen2_windows", "gpt_oss"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    return {name: write(folder / name, name) for name in {*FAMILIES, "qwen3"}}


@pytest.fixture(params=FAMILIES)
def model(request, folders):
    return load_model(folders[request.param])


@pytest.fixture
def llama(folders):
    return load_model(folders["llama"])


@pytest.fixture
def eager(monkeypatch):
    """Candidates whenever there are some, whatever the clock says."""
    monkeypatch.setattr(Pace, "ready", True)
    monkeypatch.setattr(Pace, "checked", lambda self, *_: setattr(self, "size", self.size % self._most + 1))


def repeating(rows=1):
    ids = inputs(40)[0][:rows]
    return np.c_[ids[:, :3], ids[:, :3], ids[:, :2]]


OPTIONS = {
    "plain": {},
    "an end": {"eos_token_id": [7, 11, 13, 17, 19]},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 4, "min_new_tokens": 3},
    "a narrow cache": {"kv_cache_dtype": "bfloat16"},
}


# ---------------------------------------------------------------------------------------------------------------------
# Greedy search


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("drafts", ["lookup", "another model", "itself"])
def test_greedy_tokens_are_those_of_plain_search(model, folders, drafts, options, eager):
    options = {"eos_token_id": None, "max_new_tokens": 14, **OPTIONS[options]}
    assistants = {"another model": "qwen3"}
    if drafts == "lookup":
        speculative = {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 2}
    else:
        assistant = load_model(folders[assistants[drafts]]) if drafts in assistants else model
        speculative = {"assistant_model": assistant, "num_assistant_tokens": 4}
    for ids in (repeating(), inputs(40)[0][1:2]):
        expected = model.generate(ids, **options)
        assert np.array_equal(model.generate(ids, **options, **speculative), expected)
        streamed = [ids[0] for ids in model.stream(ids, **options, **speculative)]
        assert np.array_equal(streamed, expected[0, ids.shape[1] :])


def test_an_assistant_that_is_right_saves_calls(llama, folders, monkeypatch, eager):
    calls = []
    for name in ("step", "extend"):
        method = getattr(type(llama), name)

        def counted(self, ids, *rest, method=method, name=name, **options):
            calls.append(name)
            return method(self, ids, *rest, **options)

        monkeypatch.setattr(type(llama), name, counted)
    other = load_model(folders["llama"])
    options = {"max_new_tokens": 40, "eos_token_id": None}
    llama.generate(repeating(), **options)
    plain = len(calls)
    calls.clear()
    llama.generate(repeating(), **options, assistant_model=other, num_assistant_tokens=9)
    assert plain == 39
    assert calls.count("extend") < 20  # of the assistant, which catches up, and of the model, which checks


def test_padding_of_the_prompt(llama, eager):
    ids = np.c_[[[1, 1]], repeating()]
    mask = np.c_[[[0, 0]], np.ones((1, 8), int)]
    options = {"max_new_tokens": 12, "eos_token_id": None}
    expected = llama.generate(ids, mask, **options)
    for speculative in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": llama}):
        assert np.array_equal(llama.generate(ids, mask, **options, **speculative), expected)


def test_on_a_past_that_is_given(llama, eager):
    ids = repeating()
    options = {"max_new_tokens": 12, "eos_token_id": None}
    past = llama(ids[:, :5], use_cache=True).past_key_values
    got = llama.generate(ids, past_key_values=past, prompt_lookup_num_tokens=4, **options)
    assert np.array_equal(got, llama.generate(ids, **options))
    assert past.get_seq_length() == 19


def test_with_the_clock(llama):
    """As it runs: the first steps are plain ones, then the time counts."""
    options = {"max_new_tokens": 40, "eos_token_id": None}
    expected = llama.generate(repeating(), **options)
    for speculative in ({"prompt_lookup_num_tokens": 10}, {"assistant_model": llama}):
        assert np.array_equal(llama.generate(repeating(), **options, **speculative), expected)


# ---------------------------------------------------------------------------------------------------------------------
# Sampling


@pytest.mark.parametrize("seed", range(3))
def test_lookups_draw_the_same_tokens(model, seed, eager):
    options = {"do_sample": True, "seed": seed, "temperature": 0.4, "max_new_tokens": 14, "eos_token_id": None}
    expected = model.generate(repeating(), **options)
    assert np.array_equal(model.generate(repeating(), **options, prompt_lookup_num_tokens=4), expected)


def test_a_seed_repeats_what_an_assistant_drafts(llama, folders):
    assistant = load_model(folders["qwen3"])
    options = {"do_sample": True, "seed": 3, "max_new_tokens": 14, "assistant_model": assistant}
    assert np.array_equal(llama.generate(repeating(), **options), llama.generate(repeating(), **options))


@pytest.mark.parametrize("overlap", ["some", "none", "all"])
def test_accepted_tokens_have_the_models_probabilities(overlap):
    generator = np.random.default_rng(0)
    p = np.array([0.5, 0.2, 0.25, 0.05, 0.0])
    q = {"some": np.array([0.1, 0.6, 0.1, 0.1, 0.1]), "none": np.eye(5)[4], "all": p}[overlap]
    with np.errstate(divide="ignore"):
        scores = np.log(p)[None].astype(np.float32)
    decide, n = accepting(generator), 20000
    counts = np.zeros(5)
    for _ in range(n):
        counts[decide(scores, drawn(q, generator), q)] += 1
    # Four degrees of freedom less one impossible id: above 21 once in 10,000.
    assert counts[4] == 0 and ((counts - n * p)[:4] ** 2 / (n * p[:4])).sum() < 21


class Table(Chain):
    """Scores that depend on the last token, (V, V), with what speculation asks for."""

    def __init__(self, table):
        super().__init__(table)
        self.config = type("Config", (), {"max_position_embeddings": None, "vocab_size": len(table)})

    def empty_past(self, rows):
        return None

    def start(self, input_ids, attention_mask=None, *, capacity, past_key_values=None):
        return self.table[input_ids[:, -1]], Past(input_ids[0].tolist())

    def step(self, ids, state):
        state.ids.append(int(ids[0]))
        return self.table[ids]

    def extend(self, ids, state, every=False):
        state.ids.extend(ids[0].tolist())
        return self.table[ids[0] if every else ids[:, -1]]


class Past:
    def __init__(self, ids):
        self.ids = ids

    def get_seq_length(self):
        return len(self.ids)

    def crop(self, n):
        del self.ids[n if n < 0 else len(self.ids) : len(self.ids)]


def test_sampled_sequences_have_the_models_distribution():
    """Three tokens after 0 of three: 27 sequences, drawn 4,000 times with an assistant of another mind."""
    rng = np.random.default_rng(2)
    model, assistant = (Table(rng.standard_normal((3, 3)).astype(np.float32)) for _ in range(2))
    chances = np.exp(model.table.astype(np.float64))
    chances /= chances.sum(axis=1, keepdims=True)
    generator, n = np.random.default_rng(0), 4000
    counts = dict.fromkeys(itertools.product(range(3), repeat=3), 0)
    options = {"do_sample": True, "max_new_tokens": 3, "seed": generator, "top_k": None}
    for _ in range(n):
        row = generate(model, [[0]], assistant_model=assistant, num_assistant_tokens=2, **options)
        counts[tuple(row[0, 1:].tolist())] += 1
    expected = {ids: n * chances[0, ids[0]] * chances[ids[0], ids[1]] * chances[ids[1], ids[2]] for ids in counts}
    # 26 degrees of freedom: above 62 once in 10,000.
    assert sum((counts[ids] - expected[ids]) ** 2 / expected[ids] for ids in counts) < 62


# ---------------------------------------------------------------------------------------------------------------------
# Drafts and their number


@pytest.mark.parametrize(
    ("ids", "limit", "expected"),
    [
        ([1, 2, 3, 1, 2], 3, [3, 1, 2]),
        ([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 2, [4, 9]),  # of two occurrences the last
        ([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 5, [3, 9, 1, 2, 4]),  # that has enough behind it
        ([5, 2, 3, 1, 2], 2, [3, 1]),  # one token alone
        ([7, 7, 7], 4, [7]),
        ([1, 2, 3], 4, []),
        ([1], 4, []),
    ],
)
def test_what_a_lookup_finds(ids, limit, expected):
    draft = PromptLookup(5, 2).draft(np.array(ids), limit)
    assert ([] if draft is None else draft.ids.tolist()) == expected


@pytest.mark.parametrize("ngram", [1, 2, 3])
def test_a_lookup_that_grows_finds_what_a_new_one_does(ngram):
    ids = np.random.default_rng(0).integers(0, 6, 200)
    growing, n = PromptLookup(9, ngram), 1
    while n < len(ids):
        got, new = growing.draft(ids[:n], 5), PromptLookup(9, ngram).draft(ids[:n], 5)
        assert (got is None) == (new is None) == (ids[n - 1] not in ids[: n - 1])
        if got is not None:
            assert got.ids.tolist() == new.ids.tolist() == following(ids[:n], ngram, 5)
        n += 1 + n % 3  # several tokens at once, as after a check


def following(ids, ngram, limit):
    """PromptLookup's rule, occurrence by occurrence."""
    n = len(ids)
    for size in range(min(ngram, n - 1), 0, -1):
        ends = [e for e in range(size - 1, n - 1) if (ids[e + 1 - size : e + 1] == ids[n - size :]).all()]
        if ends:
            end = max([e for e in ends if e + limit < n], default=ends[0])
            return ids[end + 1 : end + 1 + limit].tolist()


def test_candidates_grow_while_they_pay_and_rest_when_not():
    pace = Pace(20, clock=True)
    for seconds in (3.0, 1.0):
        assert not pace.ready and pace.rest == 1  # the first two steps are plain ones; the second one tells the time
        pace.stepped(seconds)
    assert pace.ready and pace.size == 4
    pace.checked(4, 4, 1.5)
    assert pace.ready and pace.size == 8
    pace.checked(8, 2, 2.9)
    assert pace.ready and pace.size == 8  # not all were right, but they paid
    pace.checked(8, 2, 4.18)  # one step was gained at most: 0.18 are lost
    assert not pace.ready and pace.size == 4
    for _ in range(8):  # 0.025 of a step each
        assert not pace.ready
        pace.stepped(1.0)
    assert pace.ready


def test_candidates_that_are_right_and_do_not_pay_do_not_grow():
    pace = Pace(20, clock=True)
    pace.stepped(1.0), pace.stepped(1.0)
    pace.checked(4, 4, 5.5)
    assert not pace.ready and pace.size == 4


def test_nothing_is_tried_before_a_guess_was_right():
    pace = Pace(20, clock=True, guesses=True)
    for _ in range(50):
        pace.stepped(1.0)
        pace.guessed([False])
        assert not pace.ready
    pace.guessed([False, True, False])
    assert pace.ready
    pace.checked(4, 0, 3.0)
    pace.guessed([True, False, True])
    assert not pace.ready  # one step is lost
    pace.guessed([False, True, True])
    assert pace.ready
    pace.checked(2, 0, 3.0)  # the second failure in a row: 160 steps of rest, and then a right guess is asked for
    for _ in range(200):
        pace.stepped(1.0)
        assert not pace.ready
    pace.guessed([True])
    assert pace.ready
    pace.checked(1, 0, 3.0)
    for right in (True, True, True, False, True, True, True, True, True, True, True):
        pace.guessed([right])
        assert not pace.ready
    pace.guessed([True])  # eight in a row, after three failures
    assert pace.ready


def test_plain_steps_of_a_rest_run_together():
    pace = Pace(20, clock=True)
    pace.stepped(2.5e-4), pace.stepped(2.5e-4)
    pace.checked(4, 0, 1.29 * 2.5e-4)
    assert pace.rest == 4  # looking after each would take 10 us of 250: after four it takes 1 %
    pace.stepped(2.5e-4, 4), pace.stepped(2.5e-4, 4)
    assert not pace.ready and pace.rest == 2  # of 0.29 that were lost 0.04 are left: the first steps had gained 0.05


def test_drafts_that_never_help_cost_a_share_of_the_time():
    pace, lost = Pace(10, clock=True), 0.0
    for _ in range(400):
        if pace.ready:
            pace.checked(pace.size, 0, 1 + 0.5 * pace.size)
            lost += 0.5 * min(pace.size, 4)
        else:
            pace.stepped(1.0)
    assert lost < 0.05 * 400


def test_drafts_that_never_help_are_tried_ever_less_often():
    pace, tried = Pace(10, clock=True), []
    for step in range(4000):
        if pace.ready and step:
            tried.append(step)
            pace.checked(pace.size, 0, 2.0)
        else:
            pace.stepped(1.0)
    rests = np.diff(tried)
    assert 38 <= rests[0] <= 42 and (rests[1:5] >= 1.9 * rests[:4]).all() and (rests[5:] <= 16 * 42).all()
    while not pace.ready:
        pace.stepped(1.0)
    pace.checked(1, 1, 1.5)  # one that pays, and the next failure costs as little as the first
    pace.checked(2, 0, 2.5)
    rest = 0
    while not pace.ready:
        pace.stepped(1.0)
        rest += 1
    assert rest <= 42


def test_without_a_clock_times_are_assumed():
    pace = Pace(3, clock=False)
    assert pace.ready and pace.size == 3
    pace.checked(3, 2, 99.0)
    assert pace.ready and pace.size == 3
    pace.checked(3, 0, 0.0)
    assert not pace.ready and pace.size == 1


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_beams": 2}, ValueError, "prompt_lookup_num_tokens is given with num_beams=2 and 1 rows"),
        ({"input_ids": [[3], [4]]}, ValueError, "and 2 rows; needed: num_beams=1 and one row"),
        ({"do_sample": True, "num_return_sequences": 2}, ValueError, "and 2 rows"),
        ({"prompt_lookup_num_tokens": 0}, ValueError, "prompt_lookup_num_tokens is 0; needed: an integer >= 1"),
        ({"max_matching_ngram_size": 1.5}, ValueError, "max_matching_ngram_size is 1.5; needed: an integer"),
        ({"assistant_model": "itself"}, ValueError, "and prompt_lookup_num_tokens are given; needed: one of them"),
    ],
)
def test_what_does_not_go_with_lookups(llama, options, error, text):
    if options.get("assistant_model"):
        options = {"assistant_model": llama}
    with pytest.raises(error, match=text):
        llama.generate(**{"input_ids": [[3, 4]], "prompt_lookup_num_tokens": 3, **options})


def test_assistants_that_do_not_fit(llama, tmp_path):
    other = load_model(write(tmp_path, "gpt2"))
    other.config = type("Config", (), {"vocab_size": 41})
    for options, error, text in (
        ({"assistant_model": other}, ValueError, "a vocabulary of 41 tokens; needed: the model's, 40"),
        ({"assistant_model": object()}, TypeError, "assistant_model is a object; needed: a decoder"),
        ({"assistant_model": llama, "assistant_confidence_threshold": 0.4}, NotImplementedError, "threshold is 0.4"),
        ({"assistant_model": llama, "num_assistant_tokens_schedule": "heuristic"}, NotImplementedError, "'heuristic'"),
        ({"assistant_model": llama, "num_assistant_tokens": 0}, ValueError, "num_assistant_tokens is 0"),
    ):
        with pytest.raises(error, match=text):
            llama.generate([[3, 4]], **options)
    short_texts = load_model(write(tmp_path / "phi3", "phi3"))  # which may make its keys again
    with pytest.raises(NotImplementedError, match="what Phi3ForCausalLM keeps of this text cannot be cropped"):
        short_texts.generate([[3, 4]], prompt_lookup_num_tokens=2, max_new_tokens=2)
    with pytest.raises(TypeError, match="Chain has no extend"):
        generate(Chain(), [[0]], prompt_lookup_num_tokens=2)
    config = T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(TypeError, match="T5ForConditionalGeneration has no extend"):
        T5ForConditionalGeneration(config).generate([[3, 4]], prompt_lookup_num_tokens=2, bos_token_id=0)
