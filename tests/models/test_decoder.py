"""models/common/decoder.py and decoding.py: rows, padding and the past, the same for every family."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import TOLERANCE, inputs, write

from transformer_fast import functional, load_model
from transformer_fast.models.gemma2 import Gemma2Config, Gemma2ForSequenceClassification
from transformer_fast.models.gpt2 import GPT2Config, GPT2ForSequenceClassification
from transformer_fast.models.gpt_oss import GptOssForCausalLM

pytest.importorskip("safetensors")

FAMILIES = ["gpt2", "llama", "mistral", "gemma3", "gpt_neox", "gpt_oss"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    return load_model(write(tmp_path_factory.mktemp(request.param), request.param))


def close(got, expected):
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


def test_rows_do_not_depend_on_each_other(model):
    """Alone without padding, and in a batch with it: the same bits."""
    ids, mask, _ = inputs(40)
    together = model(ids, mask, np.maximum(np.cumsum(mask, axis=1) - 1, 0)).logits
    for b, tokens in enumerate(mask.astype(bool)):
        alone = model(ids[b : b + 1, tokens]).logits
        assert np.array_equal(together[b, tokens], alone[0])
        assert not together[b, ~tokens].any()


def test_threads_do_not_change_a_bit(model, threads):
    ids, mask, left = inputs(40)
    logits, tokens = model(ids, mask).logits, model.generate(ids, left, max_new_tokens=5, num_beams=2)
    functional.set_num_threads(1)
    assert np.array_equal(model(ids, mask).logits, logits)
    assert np.array_equal(model.generate(ids, left, max_new_tokens=5, num_beams=2), tokens)


def test_what_is_asked_for_does_not_change_the_rest(model):
    ids, mask, _ = inputs(40)
    plain, full = model(ids, mask), model(ids, mask, output_attentions=True, output_hidden_states=True, use_cache=True)
    assert plain.keys() == ["logits"]
    assert full.keys() == ["logits", "past_key_values", "hidden_states", "attentions"]
    close(full.logits, plain.logits)
    kept = model(ids, mask, logits_to_keep=3).logits
    assert kept.shape == (3, 3, 40)
    close(kept, plain.logits[:, -3:])
    sums = full.attentions[0].sum(axis=3)
    if isinstance(model, GptOssForCausalLM):  # a sink takes its part
        assert ((0 < sums) == mask[:, None]).all() and sums.max() < 1
    else:
        close(sums, np.broadcast_to(mask[:, None], sums.shape))
    assert not np.triu(full.attentions[0], 1).any()


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_in_two_calls_as_in_one(model, cut):
    ids, mask, _ = inputs(40)
    whole = model(ids, mask, output_attentions=True)
    first = model(ids[:, :cut], mask[:, :cut], use_cache=True)
    assert first.past_key_values.get_seq_length() == cut
    second = model(ids[:, cut:], mask, past_key_values=first.past_key_values, use_cache=True, output_attentions=True)
    close(np.concatenate([first.logits, second.logits], axis=1), whole.logits)
    for got, expected in zip(second.attentions, whole.attentions, strict=True):
        close(got, expected[:, :, cut:])
    assert second.past_key_values.get_seq_length() == 8


def test_one_by_one_as_all_at_once(model):
    """start and step against forward, for rows of different lengths, padded left and right."""
    ids, mask, _ = inputs(40)
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    whole = model(ids, mask, positions).logits
    logits, state = model.start(ids, mask, capacity=20)
    last = [np.flatnonzero(row)[-1] for row in mask]
    close(logits, whole[np.arange(3), last])
    new = np.random.default_rng(3).integers(0, 40, (3, 10))
    for b in range(3):
        row = np.concatenate([ids[b, mask[b] == 1], new[b]])[None]
        expected = model(row).logits[0, -10:]
        logits, state = model.start(ids[b : b + 1], mask[b : b + 1], capacity=20)
        for step in range(10):
            close(model.step(new[b : b + 1, step], state)[0], expected[step])
    logits, state = model.start(ids, mask, capacity=8)  # less than what follows: it grows
    for step in range(10):
        logits = model.step(new[:, step], state)
    for b in range(3):
        close(logits[b], model(np.concatenate([ids[b, mask[b] == 1], new[b]])[None]).logits[0, -1])


def test_prompts_in_groups_as_all_at_once(model, monkeypatch):
    """Rows of a prompt that go through the layers a few at a time: the same bits, then and at the next step."""
    ids, mask, _ = inputs(40)
    results = []
    for tokens in (1, 9, 1000):
        monkeypatch.setattr("transformer_fast.models.common.decoder._PROMPT_TOKENS", tokens)
        logits, state = model.start(ids, mask, capacity=20)
        results.append((logits, model.step(np.array([5, 6, 7]), state)))
    for logits, after in results[1:]:
        assert np.array_equal(logits, results[0][0]) and np.array_equal(after, results[0][1])


def test_forward_then_steps(model):
    """What forward returned can be generated from, and the other way round."""
    ids = inputs(40)[0]
    state = model(ids, use_cache=True).past_key_values
    close(model.step(np.array([5, 6, 7]), state), model(np.c_[ids, [5, 6, 7]]).logits[:, -1])
    later = model(ids, past_key_values=state, use_cache=True)
    close(later.logits, model(np.c_[ids, [5, 6, 7], ids]).logits[:, 9:])
    assert later.past_key_values.get_seq_length() == 17


def test_reordered_rows_go_on(model):
    ids, mask, _ = inputs(40)
    _, state = model.start(ids, mask, capacity=20)
    state.reorder(np.array([2, 0, 0, 1, 1]))
    new = np.array([5, 6, 7, 8, 9])
    logits = model.step(new, state)
    for i, source in enumerate([2, 0, 0, 1, 1]):
        row = np.concatenate([ids[source, mask[source] == 1], new[i : i + 1]])[None]
        close(logits[i], model(row).logits[0, -1])


def test_empty_batch(model):
    assert model(np.zeros((0, 5), int)).logits.shape == (0, 5, 40)
    assert model(np.zeros((0, 5), int), output_attentions=True).attentions[0].shape[0] == 0
    for options in ({}, {"num_beams": 2}, {"do_sample": True}):
        assert model.generate(np.zeros((0, 5), int), max_new_tokens=3, **options).shape[0] == 0


def test_nothing_but_padding(model):
    ids = inputs(40)[0]
    output = model(ids, np.zeros((3, 8), int), output_attentions=True, use_cache=True)
    assert not output.logits.any() and not output.attentions[0].any()
    later = model(ids, past_key_values=output.past_key_values).logits
    close(later, model(ids, position_ids=np.arange(8, 16)).logits)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda m: m([1, 2]), ValueError, r"input_ids has shape \(2,\)"),
        (lambda m: m(np.zeros((2, 0), int)), ValueError, r"input_ids has shape \(2, 0\)"),
        (lambda m: m([[1.0]]), TypeError, "input_ids has dtype float64"),
        (lambda m: m([[1, 40]]), IndexError, "input_ids holds 40; needed: 0 to 39"),
        (lambda m: m([[1, 2]], [[1]]), ValueError, r"attention_mask has shape \(1, 1\)"),
        (lambda m: m([[1, 2]], position_ids=[[0, 1, 2]]), ValueError, "position_ids has shape"),
        (lambda m: m([[1, 2]], logits_to_keep=-1), ValueError, "logits_to_keep is -1"),
        (lambda m: m([[1, 2]], logits_to_keep=True), ValueError, "logits_to_keep is True"),
        (
            lambda m: m([[1, 2]], past_key_values=m([[1], [2]], use_cache=True).past_key_values),
            ValueError,
            "past_key_values is of 2 rows; needed: 1",
        ),
        (
            lambda m: m([[3]], past_key_values=m.start(np.array([[1, 2]]), np.array([[0, 1]]), capacity=4)[1]),
            ValueError,
            "past_key_values is of prompts with padding, dropped by start..; needed: none",
        ),
        (lambda m: m.start(np.array([[1, 2]]), np.array([[0, 0]]), capacity=4), ValueError, "row 0 .* has no token"),
        (lambda m: m.start(np.array([1, 2]), capacity=4), ValueError, r"input_ids has shape \(2,\)"),
        (lambda m: m.step(np.array([1, 2]), m.start(np.array([[1]]), capacity=4)[1]), ValueError, "one id a row"),
        (lambda m: m.step(np.array([40]), m.start(np.array([[1]]), capacity=4)[1]), IndexError, "ids holds 40"),
    ],
)
def test_bad_input(model, call, error, text):
    with pytest.raises(error, match=text):
        call(model)


# ----------------------------------------------------------------------------------------------------------------------
# Labels


@pytest.mark.parametrize(
    "make",
    [
        lambda **fields: GPT2ForSequenceClassification(GPT2Config(30, 16, 8, 1, 2, **fields)),
        lambda **fields: Gemma2ForSequenceClassification(Gemma2Config(30, 8, 12, 1, 2, 1, head_dim=4, **fields)),
    ],
)
def test_labels_are_scored_by_the_last_token(make, tmp_path):
    model = make(num_labels=3, pad_token_id=1)
    ids = np.array([[5, 6, 7, 1], [1, 1, 8, 9], [4, 8, 4, 1]])
    output = model(ids, ids != 1)
    assert output.logits.shape == (3, 3) and output.keys() == ["logits"]
    hidden = model._modules[model.body_name](ids, ids != 1).last_hidden_state
    close(output.logits, model.score(hidden[np.arange(3), [2, 3, 2]]))
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(model) and np.array_equal(again(ids, ids != 1).logits, output.logits)
    alone = make(num_labels=3, pad_token_id=None)
    assert alone(ids[:1]).logits.shape == (1, 3)
    with pytest.raises(ValueError, match="input_ids has 3 rows and pad_token_id is None"):
        alone(ids)
