"""Decoders whose past lies in pages: the same text as with caches in one piece, fewer pages where rows share them."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import TOLERANCE, write

from transformer_fast import load_model
from transformer_fast.generation import generate

pytest.importorskip("safetensors")

# Llama and Mistral run in the engine, GPT-2 too; gpt-oss has experts, and runs layer by layer.
FAMILIES = ["gpt2", "llama", "mistral", "gemma3", "gpt_oss"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    return load_model(write(tmp_path_factory.mktemp("pages") / request.param, request.param))


def prompts(model, rows: int, n: int) -> np.ndarray:
    return np.random.default_rng([rows, n]).integers(3, model.config.vocab_size, (rows, n))


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() <= TOLERANCE * max(1, np.abs(b).max()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_logits_have_the_bits_of_caches_in_one_piece(model, isa, dtype):
    ids = prompts(model, 3, 17)
    mask = np.ones_like(ids)
    mask[1, :4] = 0  # rows of different lengths
    states = []
    for size in (None, 16):
        logits, state = model.start(ids, mask, capacity=22, kv_cache_dtype=dtype, kv_page_size=size)
        found = [logits]
        for token in range(5, 8):
            found.append(model.step(np.full(3, token), state))
        states.append(found)
    for given, expected in zip(*reversed(states), strict=True):
        assert np.array_equal(given, expected)


def test_several_tokens_at_once_and_one_by_one(model):
    ids = prompts(model, 1, 17)
    every = []
    for size in (None, 16):
        _, state = model.start(ids, capacity=24, kv_page_size=size)
        every.append([model.extend(np.array([[5, 6, 7]]), state), model.extend(np.array([[8, 9]]), state, every=True)])
    for given, expected in zip(*every, strict=True):
        assert np.array_equal(given, expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_return_sequences": 3, "do_sample": True, "seed": 1, "num_beams": 1},
        {"num_beams": 4},
        {"num_beams": 3, "num_return_sequences": 2},
    ],
)
def test_generated_text(model, options):
    ids = prompts(model, 2, 17)
    options = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0, **options}
    expected = generate(model, ids, **options)
    assert np.array_equal(generate(model, ids, kv_page_size=16, **options), expected)


def test_rows_that_share_a_prompt_hold_it_once(model):
    ids = prompts(model, 1, 20)
    _, state = model.start(ids, capacity=24, kv_page_size=16)
    caches = [cache for cache in state.caches if cache.window is None]
    before = [cache.pages for cache in caches]
    assert before == [2 for _ in caches]
    state.reorder(np.zeros(5, np.int64))
    assert [cache.pages for cache in caches] == before
    model.step(np.arange(3, 8), state)
    assert [cache.pages for cache in caches] == [1 + 5 for _ in caches]
    assert all(cache.shared.tolist() == [16] * 5 for cache in caches)


def test_a_rows_bits_do_not_depend_on_those_that_share_its_prompt(model, threads):
    ids = prompts(model, 1, 20)
    answers = []
    for rows in ([0, 0, 0, 0, 0], [0, 0]):
        _, state = model.start(ids, capacity=24, kv_page_size=16)
        state.reorder(np.array(rows))
        tokens = np.arange(3, 3 + len(rows))
        answers.append([model.step(tokens, state), model.step(tokens, state)])
    _, state = model.start(ids, capacity=24, kv_page_size=16)
    state.reorder(np.array([0, 0]))
    state.reorder(np.array([0]))
    answers.append([model.step(np.array([3]), state), model.step(np.array([3]), state)])
    for first, second, alone in zip(*answers, strict=True):
        assert np.array_equal(first[:2], second) and np.array_equal(first[:1], alone)


def test_a_past_in_pages_is_cropped_and_saved(model, tmp_path):
    ids = prompts(model, 1, 20)
    past = model.empty_past(1, kv_page_size=16)
    model(ids, past_key_values=past, use_cache=True)
    whole = model(ids[:, :18]).logits
    past.save(tmp_path / "past.npz")
    loaded = model.load_past(tmp_path / "past.npz")
    for state in (past, loaded):
        state.crop(17)
        assert close(model(ids[:, 17:18], past_key_values=state, use_cache=True).logits[:, -1], whole[:, -1])


def test_what_does_not_fit_is_refused(model):
    ids = prompts(model, 1, 8)
    with pytest.raises(ValueError, match="page_size is 24; needed: a multiple of 16"):
        model.start(ids, capacity=9, kv_page_size=24)
    with pytest.raises(ValueError, match="kv_page_size is 16; needed: 32, that of past_key_values"):
        model.start(ids, capacity=9, kv_page_size=16, past_key_values=model.empty_past(1, kv_page_size=32))
