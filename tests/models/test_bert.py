"""models/bert.py against transformers' own numbers (golden) and a plain float64 BERT; its checkpoints, its checks."""

from __future__ import annotations

import time
from pathlib import Path

import encoder_checks as checks
import numpy as np
import pytest
from model_folders import TINY_BERT, bert_tensors, write_bert, write_json

from transformer_fast import functional, load_model, reference
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import INDEX
from transformer_fast.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

ml_dtypes = pytest.importorskip("ml_dtypes")
save_file = pytest.importorskip("safetensors.numpy").save_file

GOLDEN = Path(__file__).parent.parent / "golden" / "bert"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def model(folder):
    return load_model(folder)


def plain_bert(ids, positions=None, types=None, visible=None):
    """BERT with the weights of `bert_tensors`, for one sequence, in float64: hidden states (L, h) and pooled (h,)."""
    state = {name: array.astype(np.float64) for name, array in bert_tensors().items()}
    positions = np.arange(len(ids)) if positions is None else positions
    types = np.zeros(len(ids), int) if types is None else types

    def linear(x, name, activation=None):
        return reference.linear(x, state[f"{name}.weight"], state[f"{name}.bias"], activation=activation)

    def norm(x, name):
        return reference.layer_norm(x, state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)

    tables = [state[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")]
    x = norm(tables[0][ids] + tables[1][positions] + tables[2][types], "embeddings.LayerNorm")
    for i in range(TINY_BERT["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        heads = [linear(x, f"{layer}.attention.self.{part}")[None] for part in ("query", "key", "value")]
        q, k, v = (reference.split_heads(part, TINY_BERT["num_attention_heads"]) for part in heads)
        context = reference.concat_heads(reference.scaled_dot_product_attention(q, k, v, visible))[0]
        x = norm(x + linear(context, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense", "gelu")
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x, linear(x[0], "pooler.dense", "tanh")


def ids_of(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(0, TINY_BERT["vocab_size"], shape)


MASK = np.ones((6, 9), int)
MASK[1, 5:] = 0  # padding on the right
MASK[2, :4] = 0  # on the left
MASK[3, [2, 3, 6]] = 0  # holes
MASK[4, 1:] = 0
MASK[5] = 0


# ----------------------------------------------------------------------------------------------------------------------
# Results


def test_golden_numbers_of_transformers(isa):
    """A checkpoint with a head, written by transformers: prefix `bert.`, no pooler, gelu_new."""
    model = load_model(GOLDEN, head=False)
    with np.load(GOLDEN / "answers.npz") as golden:
        mask = golden["attention_mask"]
        output = model(golden["input_ids"], mask, golden["token_type_ids"])
        expected = golden["last_hidden_state"] * mask[:, :, None]
        np.testing.assert_allclose(output.last_hidden_state, expected, atol=TOLERANCE)
    assert output.pooler_output is None and output.keys() == ["last_hidden_state"]


@pytest.mark.parametrize("dtype", [int, bool, np.float32, np.uint8])
def test_masks_of_every_kind(isa, model, dtype):
    ids, types = ids_of(6, 9), np.random.default_rng(1).integers(0, 2, (6, 9))
    output = model(ids, MASK.astype(dtype), types)
    assert output.last_hidden_state.dtype == output.pooler_output.dtype == np.float32
    for b, visible in enumerate(MASK.astype(bool)):
        hidden, pooled = plain_bert(ids[b], types=types[b], visible=visible)
        np.testing.assert_allclose(output.last_hidden_state[b, visible], hidden[visible], atol=TOLERANCE)
        assert not output.last_hidden_state[b, ~visible].any()
        np.testing.assert_allclose(output.pooler_output[b], pooled, atol=TOLERANCE)


def test_without_a_mask_and_with_positions(isa, model):
    ids, positions = ids_of(2, 9), np.random.default_rng(2).integers(0, 32, (2, 9))
    output = model(ids, position_ids=positions)
    for b in range(2):
        np.testing.assert_allclose(output[0][b], plain_bert(ids[b], positions[b])[0], atol=TOLERANCE)
    one_row = model(ids, position_ids=positions[:1])[0]
    assert np.array_equal(one_row, model(ids, position_ids=np.stack([positions[0]] * 2))[0])
    assert np.array_equal(one_row, model(ids, position_ids=positions[0])[0])
    assert np.array_equal(model(ids.astype(np.uint8))[0], model(ids.tolist())[0])


def test_packed_sequences_do_not_depend_on_each_other(isa, model):
    lengths = [1, 9, 0, 4, 32, 2]
    cu_seqlens = np.cumsum([0, *lengths])
    ids, types = ids_of(cu_seqlens[-1]), np.random.default_rng(3).integers(0, 2, cu_seqlens[-1])
    packed = model.encode_packed(ids, cu_seqlens, types)
    for first, last in zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True):
        alone = model.encode_packed(ids[first:last], np.array([0, last - first]), types[first:last])
        assert np.array_equal(packed[first:last], alone)
        if last > first:
            expected = plain_bert(ids[first:last], types=types[first:last])[0]
            np.testing.assert_allclose(alone, expected, atol=TOLERANCE)
            assert np.array_equal(model(ids[None, first:last], token_type_ids=types[None, first:last])[0][0], alone)


def test_threads_do_not_change_a_bit(model, threads):
    ids = ids_of(40, 9)
    got = model(ids)[0]
    functional.set_num_threads(1)
    assert np.array_equal(model(ids)[0], got)


def test_empty_batch(model):
    output = model(np.zeros((0, 5), int))
    assert output.last_hidden_state.shape == (0, 5, 24) and output.pooler_output.shape == (0, 24)
    assert model.encode_packed(np.zeros(0, int), np.zeros(1, int)).shape == (0, 24)


def test_a_fresh_model_has_random_weights():
    config = BertConfig(10, 8, 1, 2, 16, 12)
    output = BertModel(config)(np.array([[1, 2, 3]]))
    assert np.isfinite(output.last_hidden_state).all() and output.pooler_output.shape == (1, 8)
    assert BertModel(config, add_pooling_layer=False)(np.array([[1]])).pooler_output is None


# ----------------------------------------------------------------------------------------------------------------------
# Input checks


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        (([1, 2],), ValueError, r"input_ids has shape \(2,\); needed: \(B, L\)"),
        ((np.zeros((2, 0), int),), ValueError, r"input_ids has shape \(2, 0\)"),
        ((np.zeros((1, 3)),), TypeError, "input_ids has dtype float64"),
        ((np.zeros((1, 3), bool),), TypeError, "input_ids has dtype bool"),
        (([[1, 64]],), IndexError, "input_ids holds 64; needed: 0 to 63"),
        (([[-1, 3]],), IndexError, "input_ids holds -1"),
        ((np.zeros((1, 33), int),), ValueError, "a sequence has 33 tokens; needed: at most 32"),
        (([[1, 2]], [1, 1]), ValueError, r"attention_mask has shape \(2,\); needed: \(1, 2\)"),
        (([[1, 2]], np.ones((1, 1, 2, 2))), ValueError, r"attention_mask has shape \(1, 1, 2, 2\)"),
        (([[1, 2]], [[0, 2]]), ValueError, "attention_mask holds values other than 0 and 1"),
        (([[1, 2]], [[0.0, np.nan]]), ValueError, "attention_mask holds values other than"),
        (([[1, 2]], [["a", "b"]]), TypeError, "attention_mask has dtype"),
        (([[1, 2]], None, [[0, 2]]), IndexError, "token_type_ids holds 2; needed: 0 to 1"),
        (([[1, 2]], None, [[0]]), ValueError, r"token_type_ids has shape \(1, 1\); needed: \(1, 2\)"),
        (([[1, 2]], None, [[0.0, 1.0]]), TypeError, "token_type_ids has dtype"),
        (([[1, 2]], None, None, [[0, 32]]), IndexError, "position_ids holds 32; needed: 0 to 31"),
        (([[1, 2]], None, None, [[0], [1]]), ValueError, "position_ids has shape"),
    ],
)
def test_bad_input(model, arguments, error, text):
    with pytest.raises(error, match=text):
        model(*arguments)


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        (([[1, 2]], [0, 2]), ValueError, r"needed: input_ids \(T,\)"),
        (([1, 2], [1, 2]), ValueError, "starts at 0"),
        (([1, 2], [0, 2, 1]), ValueError, "never falls"),
        (([1, 2], []), (ValueError, TypeError), "cu_seqlens"),
        (([1, 2], [0, 3]), ValueError, "cu_seqlens ends at 3; needed: T=2"),
        (([1, 2], [0.0, 2.0]), TypeError, "cu_seqlens has dtype float64"),
        (([64], [0, 1]), IndexError, "input_ids holds 64"),
        (([1] * 33, [0, 33]), ValueError, "a sequence has 33 tokens"),
        (([1, 2], [0, 2], [0]), ValueError, r"token_type_ids has shape \(1,\)"),
    ],
)
def test_bad_packed_input(model, arguments, error, text):
    with pytest.raises(error, match=text):
        model.encode_packed(*arguments)


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints


def same(folder, model, tolerance=0.0):
    ids = ids_of(2, 5)
    got, expected = load_model(folder)(ids), model(ids)
    np.testing.assert_allclose(got[0], expected[0], atol=tolerance, rtol=0)
    np.testing.assert_allclose(got[1], expected[1], atol=tolerance, rtol=0)


def test_old_names_heads_and_position_ids(tmp_path, model):
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in bert_tensors(prefix="bert.").items()
    }
    extra = np.zeros(3, np.float32)
    heads = {"cls.predictions.bias": extra, "cls.seq_relationship.weight": extra, "classifier.bias": extra}
    heads |= {"qa_outputs.bias": extra, "bert.embeddings.position_ids": np.arange(32)[None]}
    same(write_bert(tmp_path / "old", tensors=old | heads), model)


def test_shards(tmp_path, model):
    tensors = list(bert_tensors().items())
    write_json(tmp_path / "config.json", TINY_BERT)
    parts = {"model-1.safetensors": dict(tensors[:20]), "model-2.safetensors": dict(tensors[20:])}
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    write_json(tmp_path / INDEX, {"weight_map": {name: file for file, part in parts.items() for name in part}})
    same(tmp_path, model)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 0), (np.float16, 0.05), (ml_dtypes.bfloat16, 0.3)], ids=str)
def test_other_float_types(tmp_path, model, dtype, tolerance):
    same(write_bert(tmp_path, tensors={n: a.astype(dtype) for n, a in bert_tensors().items()}), model, tolerance)


def test_float32_weights_are_not_copied(folder):
    model = load_model(folder)
    base = model.word_embeddings.weight
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)


def without(*names):
    return {name: array for name, array in bert_tensors().items() if name not in names}


ZEROS = np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
    "tensors, text",
    [
        (without("encoder.layer.1.output.dense.bias"), r"missing tensors: 'encoder\.layer\.1\.output\.dense\.bias'"),
        (without("pooler.dense.bias"), r"missing tensors: 'pooler\.dense\.bias'"),
        (bert_tensors() | {"surprise": ZEROS}, "does not use: 'surprise'"),
        (bert_tensors() | {"encoder.layer.0.adapter.weight": ZEROS}, r"does not use: 'encoder\.layer\.0\.adapter"),
        (bert_tensors() | {"pooler.dense.weight": ZEROS}, r"'pooler\.dense\.weight' has shape \(2, 2\); .* \(24, 24\)"),
        (
            bert_tensors() | {"encoder.layer.0.attention.self.key.weight": ZEROS},
            r"self\.key\.weight' has shape \(2, 2\)",
        ),
        (bert_tensors() | {"pooler.dense.bias": np.zeros(24, np.int32)}, r"'pooler\.dense\.bias' has type I32"),
        (bert_tensors() | {"bert.pooler.dense.bias": np.zeros(24, np.float32)}, r"both mean 'pooler\.dense\.bias'"),
        (bert_tensors({**TINY_BERT, "num_hidden_layers": 3}), "num_hidden_layers is 2, but .* holds 3 layers"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, tensors, text):
    with pytest.raises(CheckpointError, match=rf"safetensors.*{text}|{text}.*safetensors|config\.json.*{text}"):
        load_model(write_bert(tmp_path, tensors=tensors))


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"num_hidden_layers": 2**29}, "num_hidden_layers is 536870912, but .* holds 2 layers"),
        ({"hidden_size": 3 * 2**27}, "has shape"),
        ({"intermediate_size": 2**29, "max_position_embeddings": 2**29}, "has shape"),
        ({"vocab_size": 65}, r"word_embeddings\.weight' has shape \(64, 24\); needed by config.json: \(65, 24\)"),
        ({"model_type": "mamba"}, r"config\.json: model_type is 'mamba'; supported: .*\bbert"),
        ({"model_type": None}, "model_type is None"),
        ({"model_type": ["bert"]}, "model_type is"),
    ],
    ids=str,
)
def test_absurd_configs_fail_at_once(tmp_path, changes, text):
    folder = write_bert(tmp_path, {**TINY_BERT, **changes}, bert_tensors())
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=text):
        load_model(folder)
    assert time.perf_counter() - start < 1


# ----------------------------------------------------------------------------------------------------------------------
# Heads


def test_golden_classifier(isa):
    checks.golden("bert", "BertForSequenceClassification")


def test_what_is_saved_is_loaded(tmp_path):
    checks.round_trip("bert", tmp_path)
    assert load_model(tmp_path).config.labels == ("low", "middle", "high")


def test_broken_heads(tmp_path):
    checks.broken_tensors("bert", tmp_path, "classifier.weight")


def test_packing_and_padding(isa, model):
    checks.packing(model)


HEADS = [
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
]


@pytest.mark.parametrize("made", HEADS)
def test_fresh_heads(made, tmp_path):
    fields = {name: value for name, value in TINY_BERT.items() if name in BertConfig.__dataclass_fields__}
    checks.fresh(made, fields)
    model = made(BertConfig(**fields))
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is made
    for options in ({}, {"output_attentions": True, "output_hidden_states": True}):
        one, other = model(ids_of(2, 5), **options), again(ids_of(2, 5), **options)
        assert one.keys() == other.keys() and np.array_equal(one[0], other[0])
        assert (one.attentions is None) == (one.hidden_states is None) == (not options)


def test_an_output_layer_with_a_weight_of_its_own(tmp_path):
    """An untied model, and a tied one whose file holds a weight of its own all the same, as in transformers."""
    fields = {name: value for name, value in TINY_BERT.items() if name in BertConfig.__dataclass_fields__}
    for tied in (True, False):
        model = BertForMaskedLM(BertConfig(**fields | {"tie_word_embeddings": tied}))
        model.decoder.weight = model.decoder.weight + 1
        model.save_pretrained(tmp_path)
        again = load_model(tmp_path)
        assert np.array_equal(again.decoder.weight, model.decoder.weight)
        assert np.array_equal(again.base.word_embeddings.weight, model.base.word_embeddings.weight)


def test_choices():
    fields = {name: value for name, value in TINY_BERT.items() if name in BertConfig.__dataclass_fields__}
    model, ids = BertForMultipleChoice(BertConfig(**fields)), ids_of(2, 3, 5)
    found = model(ids, output_hidden_states=True)
    assert found.logits.shape == (2, 3) and found.hidden_states[0].shape == (6, 5, 24)
    for c in range(3):
        assert np.array_equal(model(ids[:, c : c + 1]).logits[:, 0], found.logits[:, c])
    with pytest.raises(ValueError, match=r"input_ids has shape \(3, 5\); needed: \(B, C, L\)"):
        model(ids[0])
    with pytest.raises(ValueError, match=r"attention_mask has shape \(3, 5\); needed: \(B, C, L\), the same for all"):
        model(ids, np.ones((3, 5)))


def test_answers_need_two_labels():
    fields = {name: value for name, value in TINY_BERT.items() if name in BertConfig.__dataclass_fields__}
    with pytest.raises(ValueError, match="num_labels is 3; needed: 2"):
        BertForQuestionAnswering(BertConfig(**fields, num_labels=3))


def test_padding_has_no_logits():
    fields = {name: value for name, value in TINY_BERT.items() if name in BertConfig.__dataclass_fields__}
    model = BertForTokenClassification(BertConfig(**fields))
    logits = model(ids_of(6, 9), MASK).logits
    assert not logits[MASK == 0].any() and logits[MASK == 1].all()
