"""models/big_bird.py against transformers' own numbers (golden); its checkpoints, its checks, its heads, its blocks."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import encoder_checks as checks
import numpy as np
import pytest

from transformer_fast import load_model, nn
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.big_bird import (
    BigBirdConfig,
    BigBirdForMaskedLM,
    BigBirdForMultipleChoice,
    BigBirdForPreTraining,
    BigBirdForQuestionAnswering,
    BigBirdForSequenceClassification,
    BigBirdForTokenClassification,
    BigBirdModel,
)
from transformer_fast.models.common.block_sparse import BlockSparse
from transformer_fast.models.common.encoder import EncoderBatch

pytest.importorskip("safetensors")
pytest.importorskip("ml_dtypes")

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 64,
    "sep_token_id": 7,
}
# What google/bigbird-roberta-base has in its config.json.
REAL = {
    "architectures": ["BigBirdForPreTraining"],
    "attention_probs_dropout_prob": 0.1,
    "attention_type": "block_sparse",
    "block_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "gradient_checkpointing": False,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 4096,
    "model_type": "big_bird",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "num_random_blocks": 3,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "rescale_embeddings": False,
    "sep_token_id": 66,
    "transformers_version": "4.4.0.dev0",
    "type_vocab_size": 2,
    "use_bias": True,
    "use_cache": True,
    "vocab_size": 50358,
}
FOLDERS = {"big-bird": "BigBirdForMaskedLM", "big-bird-answers": "BigBirdForQuestionAnswering"}


def made(**changes):
    """A random encoder: 9 tokens and less are attended to throughout."""
    nn.manual_seed(0)
    config = BigBirdConfig(**CONFIG | {"num_hidden_layers": 2, "block_size": 1, "num_random_blocks": 2} | changes)
    model = BigBirdModel(config)
    rng = np.random.default_rng(0)
    state = {
        name: (a + 0.3 * rng.standard_normal(a.shape)).astype(np.float32) for name, a in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("folder", FOLDERS)
def test_golden_numbers_of_transformers(isa, folder):
    checks.golden(folder, FOLDERS[folder])


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_saved_is_loaded(tmp_path, folder):
    checks.round_trip(folder, tmp_path)


def test_packing_and_padding(isa):
    """Where all is attended to; beyond it see test_texts_alone_and_together."""
    checks.packing(made(block_size=2))


def test_bad_input():
    checks.bad_input(made(), too_long=65, types=True)
    with pytest.raises(IndexError, match="token_type_ids holds 2"):
        made()([[7, 8]], token_type_ids=[[0, 2]])


def test_broken_tensors(tmp_path):
    checks.broken_tensors("big-bird", tmp_path, "bert.encoder.layer.1.output.dense.bias")


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_type": "sparse"},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"hidden_act": "mish"},
        {"num_attention_heads": 5},
        {"block_size": 0},
        {"num_random_blocks": -1},
        {"use_bias": None},
        {"rescale_embeddings": 1},
        {"quantization_config": {"bits": 8}},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(BigBirdModel, CONFIG, changes)


def test_the_fields_of_a_real_folder():
    read = BigBirdModel.read_config(REAL, "config.json")
    assert read == BigBirdConfig(50358, 768, 12, 12, 3072, 4096) and read.longest_full == 704


def test_answers_need_the_end_of_a_question(tmp_path):
    load_model(checks.GOLDEN / "big-bird-answers").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"sep_token_id": None}), encoding="utf-8")
    assert type(load_model(tmp_path, head=False)) is BigBirdModel
    with pytest.raises(CheckpointError, match="sep_token_id is None; needed: the id that ends a question"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "made",
    [
        BigBirdModel,
        BigBirdForMaskedLM,
        BigBirdForPreTraining,
        BigBirdForSequenceClassification,
        BigBirdForTokenClassification,
        BigBirdForQuestionAnswering,
    ],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)


def test_choices():
    model = BigBirdForMultipleChoice(BigBirdConfig(**CONFIG))
    assert model([[[7, 8], [8, 9], [9, 9]]]).logits.shape == (1, 3)


# --- Blocks -----------------------------------------------------------------------------------------------------------


def counted(tokens, width, block_size, weight):
    """How often each query of a sequence counts each key, place by place; tokens: (width,) bool."""
    last = -(-width // block_size) - 1
    counts = np.zeros((width, width))
    for i, j in itertools.product(range(width), repeat=2):
        query, key = i // block_size, j // block_size
        if tokens[i] and tokens[j]:
            if query in (0, last):
                counts[i, j] = 1
            elif key == 0:
                counts[i, j] = weight
            else:
                counts[i, j] = key == last or abs(query - key) <= 1
    return counts


@pytest.mark.parametrize("weight", [1, 4])
@pytest.mark.parametrize("block_size, width", [(1, 8), (2, 15), (3, 19), (3, 24), (4, 21)])
def test_what_each_query_counts(block_size, width, weight):
    """All tokens; padding on the right, on the left, in both; holes; blocks of padding alone; no token at all."""
    rng = np.random.default_rng(0)
    tokens = np.ones((8, width), bool)
    tokens[1, width - 2 * block_size - 1 :] = tokens[2, : block_size + 1] = False
    tokens[3, [0, 4, width - 1]] = tokens[4, 2 * block_size : 4 * block_size] = tokens[5] = False
    tokens[6:] = rng.random((2, width)) < 0.5
    runs = tokens.copy()
    runs[:, 0] = True
    cu_seqlens = np.concatenate([[0], np.cumsum(runs.sum(axis=1))])
    cu_keys = np.concatenate([[0], np.cumsum(tokens.sum(axis=1))])
    places, keys = np.nonzero(runs)[1], (np.flatnonzero(tokens[runs]), cu_keys)
    batch = EncoderBatch(cu_seqlens, places, places, keys, width=width)
    sparse = BlockSparse.of(batch, np.full(8, width), block_size, weight)
    rows, starts = sparse.keys
    assert sparse.mask.shape == (1, 1, cu_seqlens[-1], np.diff(starts).max())
    for b in range(8):
        expected = counted(tokens[b], width, block_size, weight)
        seen = sparse.masks[b].dense()[0, 0] * np.exp(sparse.bias[b, 0, 0, : starts[b + 1] - starts[b]].astype(float))
        found = np.zeros((width, width))
        own = rows[starts[b] : starts[b + 1]]
        assert ((own >= cu_seqlens[b]) & (own < cu_seqlens[b + 1])).all() and tokens[b, places[own]].all()
        np.add.at(found, np.ix_(places[cu_seqlens[b] : cu_seqlens[b + 1]], places[own]), seen)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_texts_alone_and_together(isa):
    """Packed texts, sparse and not, in any order: the bits that each has alone, and that it has in an unpadded call."""
    model = made(block_size=2)  # 18 tokens and less are attended to throughout
    rng = np.random.default_rng(0)
    lengths = [40, 5, 18, 19, 0, 63, 1, 20]
    cu_seqlens = np.cumsum([0, *lengths])
    ids = rng.integers(6, 30, cu_seqlens[-1])
    together = model.encode_packed(ids, cu_seqlens)
    places = np.array([7, 2, 17, 18, 0, 62, 0, 3])
    filled = np.array(lengths) > 0
    starts = np.concatenate([[0], cu_seqlens[1:][filled]])
    pooled = model.encode_packed(ids, starts, pooled_rows=places[filled])
    np.testing.assert_allclose(pooled, together[starts[:-1] + places[filled]], atol=1e-5)
    for first, end, place, row in zip(starts[:-1], starts[1:], places[filled], pooled, strict=True):
        own = ids[first:end]
        assert np.array_equal(model.encode_packed(own, [0, len(own)]), together[first:end])
        assert np.array_equal(model(own[None]).last_hidden_state[0], together[first:end])
        assert np.array_equal(model.encode_packed(own, [0, len(own)], pooled_rows=place)[0], row)
    with pytest.raises(ValueError, match="pooled_rows"):
        model.encode_packed(ids, starts, pooled_rows=np.zeros(3, int))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.encode_packed(ids, cu_seqlens), range(8)):
            assert np.array_equal(found, together)


def test_the_width_of_a_call_decides(isa):
    """A padded call is sparse by its own L, and its last block is that of place L - 1, as in transformers."""
    model, full = made(), made(attention_type="original_full")
    ids = np.random.default_rng(0).integers(6, 30, (2, 12))
    mask = np.ones((2, 12), np.int64)
    mask[1, 6:] = 0
    short, alone = model(ids[1:, :6]).last_hidden_state, full(ids[1:, :6]).last_hidden_state
    assert np.array_equal(short, alone)
    padded = model(ids, mask).last_hidden_state
    assert not padded[1, 6:].any() and np.abs(padded[1, :6] - short[0]).max() > 1e-3
    assert np.array_equal(model(ids[1:], mask[1:]).last_hidden_state[0], padded[1])
    assert np.array_equal(model(ids[:1]).last_hidden_state[0], padded[0])
    assert np.array_equal(full(ids, mask).last_hidden_state[1:, :6], alone)


def test_reports_of_a_sparse_call(isa):
    """The same bits with reports; weights of the first block count once, and rows of the two ends add up to 1."""
    model = made(block_size=2, num_random_blocks=1)
    ids = np.random.default_rng(0).integers(6, 30, (1, 20))
    found = model(ids, **checks.REPORT)
    assert np.array_equal(found.last_hidden_state, model(ids).last_hidden_state)
    for weights in found.attentions:
        of_rows = weights[0].sum(axis=-1)
        np.testing.assert_allclose(of_rows[:, [0, 1, 18, 19]], 1, atol=1e-6)
        np.testing.assert_allclose(of_rows[:, 2:18] + weights[0, :, 2:18, :2].sum(axis=-1), 1, atol=1e-6)
        assert not weights[0, :, 8, [4, 5, 12, 13]].any() and weights[0, :, 8, [0, 6, 11, 19]].all()


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_the_question_is_no_answer():
    """Its logits, but for the first, are out of the question; what follows is of type 1, in calls and in pipelines."""
    nn.manual_seed(0)
    model = BigBirdForQuestionAnswering(BigBirdConfig(**CONFIG))
    ids = np.array([[9, 8, 7, 10, 7, 11], [9, 8, 10, 11, 12, 13], [7, 8, 9, 10, 11, 12]])
    types = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    found = model(ids)
    assert np.array_equal(found.start_logits, model(ids, token_type_ids=types).start_logits)
    assert np.abs(found.start_logits - model(ids, token_type_ids=1 - types).start_logits).max() > 1e-4
    question = (types == 0) & (np.arange(6) > 0)
    for logits in (found.start_logits, found.end_logits):
        assert (logits[question] < -9e5).all() and (np.abs(logits[~question]) < 1e3).all()
    packed = model.base.encode_packed(ids.reshape(-1), [0, 6, 12, 18])
    np.testing.assert_array_equal(packed.reshape(3, 6, -1), model.base(ids, token_type_ids=types).last_hidden_state)
    holes = np.array([[1, 0, 1, 1, 1, 1]] * 3)
    assert not model(ids, holes).start_logits[:, 1].any(), "0 where the mask is 0"
