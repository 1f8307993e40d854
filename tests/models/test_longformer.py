"""models/longformer.py against transformers' own numbers (golden); windows, global tokens, checks, heads."""

from __future__ import annotations

import encoder_checks as checks
import numpy as np
import pytest

from transformer_fast import load_model, nn
from transformer_fast.models.common.local_global import LocalGlobalTokens
from transformer_fast.models.longformer import (
    LongformerConfig,
    LongformerForMaskedLM,
    LongformerForMultipleChoice,
    LongformerForQuestionAnswering,
    LongformerForSequenceClassification,
    LongformerForTokenClassification,
    LongformerModel,
)

pytest.importorskip("safetensors")
pytest.importorskip("ml_dtypes")

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 14,
    "attention_window": [4, 2],
}
QUESTION = np.array([[0, 7, 8, 2, 2, 9, 10, 2], [0, 7, 2, 2, 9, 10, 11, 2]])


@pytest.fixture(scope="module")
def model():
    return load_model(checks.GOLDEN / "longformer", head=False)


@pytest.mark.parametrize(
    "folder, name",
    [("longformer", "LongformerForMaskedLM"), ("longformer-classifier", "LongformerForSequenceClassification")],
)
def test_golden_numbers_of_transformers(isa, folder, name):
    checks.golden(folder, name)


@pytest.mark.parametrize("folder", ["longformer", "longformer-classifier"])
def test_what_is_saved_is_loaded(tmp_path, folder):
    checks.round_trip(folder, tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


def test_bad_input(model):
    checks.bad_input(model, too_long=15, types=True)


def test_broken_tensors(tmp_path):
    checks.broken_tensors("longformer", tmp_path, "longformer.encoder.layer.1.attention.self.key_global.weight")


@pytest.mark.parametrize(
    "changes",
    [
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 8}},
        {"hidden_act": "mish"},
        {"num_attention_heads": 5},
        {"pad_token_id": 40},
        {"attention_window": 5},
        {"attention_window": [4, 3]},
        {"attention_window": [4]},
        {"attention_window": 0},
        {"sep_token_id": -1},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(LongformerModel, CONFIG, changes)


@pytest.mark.parametrize(
    "made",
    [
        LongformerModel,
        LongformerForMaskedLM,
        LongformerForSequenceClassification,
        LongformerForTokenClassification,
    ],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)


def made(model_class):
    nn.manual_seed(0)
    return model_class(LongformerConfig(**CONFIG))


def test_a_window_is_as_wide_as_the_layer_says():
    """A token of the far end changes what the windows of all layers, 2 and 1 places to each side, bridge together."""
    model, ids = made(LongformerModel), np.arange(6, 16)[None]
    other = ids.copy()
    other[0, -1] = 20
    changed = (model(ids)[0] != model(other)[0]).any(axis=-1)[0]
    assert changed.tolist() == [False] * 6 + [True] * 4


def test_distances_count_padding_between_tokens(model):
    ids = np.array([[7, 1, 1, 1, 1, 8, 9]])
    holes = model(ids, [[1, 0, 0, 0, 0, 1, 1]])[0][0, [0, 5, 6]]
    assert not np.allclose(holes, model([[7, 8, 9]])[0][0], atol=1e-3)
    ends = model(np.array([[1, 7, 8, 9, 1]]), [[0, 1, 1, 1, 0]])[0][0, 1:4]
    assert np.array_equal(ends, model([[7, 8, 9]])[0][0])


def test_a_row_with_global_tokens_has_the_same_bits_in_every_batch(isa, model):
    rng = np.random.default_rng(0)
    ids, mask, chosen = rng.integers(6, 30, (5, 12)), np.ones((5, 12), int), np.zeros((5, 12), int)
    mask[1, 9:], mask[2, :4], mask[3, [2, 5]] = 0, 0, 0
    chosen[0, [0, 1, 5]], chosen[2, [1, 7]], chosen[3], chosen[4, 11] = 1, 1, 1, 1
    together = model(ids, mask, global_attention_mask=chosen)
    for b in range(5):
        alone = model(ids[b : b + 1], mask[b : b + 1], global_attention_mask=chosen[b : b + 1])
        assert np.array_equal(alone.last_hidden_state[0], together.last_hidden_state[b]), b
    # A token that padding hides is not global.
    hidden = model(ids[2:3], mask[2:3], global_attention_mask=chosen[2:3] * mask[2:3])
    assert np.array_equal(hidden.last_hidden_state[0], together.last_hidden_state[2])
    packed = model.encode_packed(ids[0], [0, 12], global_attention_mask=chosen[0])
    assert np.array_equal(packed, together.last_hidden_state[0])


@pytest.mark.parametrize("keys", [False, True])
def test_ranges_are_what_the_definition_says(keys):
    """Random places, keys and global tokens against pair by pair."""
    rng = np.random.default_rng(0)
    cu_seqlens, counts = np.array([0, 7, 7, 8, 20]), [7, 0, 1, 12]
    places = np.concatenate([np.sort(rng.permutation(30)[:n]) for n in counts])
    seen = rng.random(20) < 0.8 if keys else np.ones(20, bool)
    chosen = seen & (rng.random(20) < 0.3)
    sequence = np.repeat(np.arange(4), counts)
    cu_keys = np.concatenate([[0], np.cumsum([(seen & (sequence == b)).sum() for b in range(4)])])
    given = (np.flatnonzero(seen), cu_keys) if keys else None
    tokens = LocalGlobalTokens(cu_seqlens, places, given, np.flatnonzero(chosen))
    for reach in (1, 3, 40):
        ranges = tokens.ranges(reach)
        assert ranges is tokens.ranges(reach)
        found = ranges.dense()[0, 0]
        for i in range(20):
            own = np.flatnonzero(seen & (sequence == sequence[i]))
            near = (np.abs(places[own] - places[i]) <= reach) | chosen[own]
            expected = near if seen[i] and not chosen[i] else np.zeros(len(own), bool)
            assert np.array_equal(found[i, : len(own)], expected) and not found[i, len(own) :].any()


def test_heads_choose_their_global_tokens():
    chosen = {
        LongformerForSequenceClassification: [[1, 0, 0, 0, 0, 0, 0, 0]] * 2,
        LongformerForQuestionAnswering: [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]],
        LongformerForMultipleChoice: [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]],
    }
    for model_class, mask in chosen.items():
        model, ids, mask = made(model_class), QUESTION, np.array(mask)
        if model_class is LongformerForMultipleChoice:
            ids, mask = ids[None], mask[None]
        by_itself, none = model(ids), model(ids, global_attention_mask=np.zeros_like(mask))
        assert np.array_equal(by_itself[0], model(ids, global_attention_mask=mask)[0])
        assert not np.array_equal(by_itself[0], none[0])


def test_packed_states_are_those_of_the_head():
    """What pipelines read, without padding, has the same global tokens."""
    model = made(LongformerForQuestionAnswering)
    found = model(QUESTION)
    scores = model.predictions(model.packed_states(QUESTION.reshape(-1), np.array([0, 8, 16])))
    assert np.array_equal(scores.reshape(2, 8, 2)[..., 0], found.start_logits)


def test_questions_need_three_separators():
    model = made(LongformerForQuestionAnswering)
    with pytest.raises(ValueError, match="row 1 of input_ids holds sep_token_id=2 1 times; needed: 3 times"):
        model([[0, 7, 2, 2, 8, 2], [0, 7, 8, 9, 10, 2]])
    assert model([[0, 7, 2]], global_attention_mask=[[1, 1, 0]]).start_logits.shape == (1, 3)


def test_bad_global_attention_masks(model):
    with pytest.raises(ValueError, match=r"global_attention_mask has shape \(1, 1\); needed: \(1, 2\)"):
        model([[7, 8]], global_attention_mask=[[1]])
    with pytest.raises(ValueError, match="global_attention_mask holds values other than 0 and 1"):
        model([[7, 8]], global_attention_mask=[[1, 2]])
    with pytest.raises(ValueError, match="global_attention_mask is given, but MPNetModel knows no global tokens"):
        load_model(checks.GOLDEN / "mpnet")([[7, 8]], global_attention_mask=[[1, 0]])
