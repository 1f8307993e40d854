"""models/deberta_v2.py against transformers' own numbers (golden); disentangled attention against its formula."""

from __future__ import annotations

import copy
import threading

import encoder_checks as checks
import numpy as np
import pytest

from transformer_fast import functional as F
from transformer_fast import load_model, nn
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import read_json_object
from transformer_fast.models.common import disentangled_attention
from transformer_fast.models.common.disentangled_attention import DisentangledAttention, Distances, Tables, log_buckets
from transformer_fast.models.common.encoder import EncoderBatch
from transformer_fast.models.deberta_v2 import (
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DebertaV2ForMultipleChoice,
    DebertaV2ForQuestionAnswering,
    DebertaV2ForSequenceClassification,
    DebertaV2ForTokenClassification,
    DebertaV2Model,
)

pytest.importorskip("safetensors")
pytest.importorskip("ml_dtypes")

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 12,
    "relative_attention": True,
    "position_buckets": 6,
    "pos_att_type": "c2p|p2c",
}
FOLDERS = {"deberta-v2": "DebertaV2ForTokenClassification", "deberta-v3": "DebertaV2ForMaskedLM"}


@pytest.fixture(scope="module", params=FOLDERS)
def model(request):
    return load_model(checks.GOLDEN / request.param, head=False)


@pytest.mark.parametrize("folder", FOLDERS)
def test_golden_numbers_of_transformers(isa, folder):
    checks.golden(folder, FOLDERS[folder])


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_saved_is_loaded(tmp_path, folder):
    checks.round_trip(folder, tmp_path)


def test_packing_and_padding(isa, model):
    checks.packing(model)


def test_bad_input():
    checks.bad_input(load_model(checks.GOLDEN / "deberta-v2", head=False), too_long=13, types=True)


def test_without_tables_of_positions_and_types():
    """Texts may be longer than what the model was trained on; types that tokenizers make are without effect."""
    model = load_model(checks.GOLDEN / "deberta-v3", head=False)
    ids = np.arange(6, 26)[None]
    assert model.max_length == 12
    np.testing.assert_array_equal(model(ids, token_type_ids=np.full((1, 20), 7))[0], model(ids)[0])
    with pytest.raises(TypeError, match="token_type_ids has dtype float64"):
        model(ids, token_type_ids=np.zeros((1, 20)))


@pytest.mark.parametrize("folder", FOLDERS)
def test_broken_tensors(tmp_path, folder):
    checks.broken_tensors(folder, tmp_path, "deberta.encoder.layer.1.attention.output.dense.weight")


@pytest.mark.parametrize(
    "changes",
    [
        {"pruned_heads": {"0": [1]}},
        {"quantization_config": {"bits": 8}},
        {"hidden_act": "mish"},
        {"num_attention_heads": 5},
        {"pos_att_type": "c2p|p2p"},
        {"pos_att_type": ["p2c", "P2C"]},
        {"norm_rel_ebd": "batch_norm"},
        {"position_buckets": 1},
        {"position_buckets": 22},
        {"position_buckets": 8.0},
        {"max_relative_positions": 4.5},
        {"attention_head_size": 3},
        {"conv_kernel_size": 4},
        {"type_vocab_size": -1},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(DebertaV2Model, CONFIG, changes)


@pytest.mark.parametrize("changes", [{"conv_act": "mish"}, {"conv_groups": 5}], ids=str)
def test_what_is_refused_of_a_convolution(changes):
    checks.refused(DebertaV2Model, CONFIG | {"conv_kernel_size": 3}, changes)
    DebertaV2Config(**CONFIG | changes)  # there is none


@pytest.mark.parametrize("made", [DebertaV2ForSequenceClassification, DebertaV2ForMultipleChoice])
@pytest.mark.parametrize("changes", [{"pooler_hidden_act": "mish"}, {"pooler_hidden_size": 10}], ids=str)
def test_what_heads_with_a_pooler_refuse(made, changes):
    config = DebertaV2Config(**CONFIG | changes)
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is .*(needed|supported)"):
        made(config)
    DebertaV2ForTokenClassification(config)


def test_a_head_of_words_needs_their_width(tmp_path):
    with pytest.raises(ValueError, match="embedding_size is 8; needed without legacy: hidden_size=12"):
        DebertaV2ForMaskedLM(DebertaV2Config(**CONFIG, embedding_size=8, legacy=False))
    DebertaV2ForMaskedLM(DebertaV2Config(**CONFIG, embedding_size=8)).save_pretrained(tmp_path)
    content = read_json_object(tmp_path / "config.json")
    assert content["legacy"] is True
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text().replace('"legacy": true', '"legacy": false')
    )
    with pytest.raises(CheckpointError, match="config.json: embedding_size is 8"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "made",
    [
        DebertaV2Model,
        DebertaV2ForMaskedLM,
        DebertaV2ForSequenceClassification,
        DebertaV2ForTokenClassification,
        DebertaV2ForQuestionAnswering,
    ],
)
@pytest.mark.parametrize("changes", [{}, {"legacy": False, "conv_kernel_size": 3}, {"pos_att_type": None}], ids=str)
def test_fresh_models(made, changes):
    checks.fresh(made, CONFIG | changes)


def test_choices():
    nn.manual_seed(0)
    model = DebertaV2ForMultipleChoice(DebertaV2Config(**CONFIG))
    ids = np.array([[[7, 8, 9], [7, 9, 8]]])
    one = [model(ids[:, i : i + 1]).logits[0, 0] for i in range(2)]
    np.testing.assert_array_equal(model(ids).logits, [one])


def test_distances_count_padding_between_tokens(model):
    """Holes change distances, as in transformers; padding at the ends does not, but in a table of positions."""
    ids = np.array([[7, 1, 1, 8, 9]])
    holes = model(ids, [[1, 0, 0, 1, 1]])[0][0, [0, 3, 4]]
    assert not np.allclose(holes, model([[7, 8, 9]])[0][0], atol=1e-3)
    positions = {"position_ids": [[0, 0, 1, 2, 0]]}
    ends = model(np.array([[1, 7, 8, 9, 1]]), [[0, 1, 1, 1, 0]], **positions)[0][0, 1:4]
    assert np.array_equal(ends, model([[7, 8, 9]])[0][0])


def test_a_first_place_that_is_padding(model):
    """It runs for a head that reads it, and the tokens do not notice."""
    ids, mask = np.array([[1, 1, 7, 8, 9], [6, 7, 8, 9, 10]]), np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    found, plain = model.encode(ids, mask, first=True), model.encode(ids, mask)
    np.testing.assert_array_equal(found.rows, plain.rows)
    assert np.isfinite(found.first).all() and found.first[0].any()
    np.testing.assert_array_equal(found.first[1], plain.rows[3])
    alone = model.encode(ids, mask, first=True, rows=False).first
    np.testing.assert_allclose(alone, found.first, atol=checks.TOLERANCE)


def test_tables_follow_their_parts():
    """What is kept of the relative embeddings is made again when a weight changes, and copies do not share it."""
    nn.manual_seed(0)
    model = DebertaV2Model(DebertaV2Config(**CONFIG))
    ids = np.array([[7, 8, 9, 10]])
    before = model(ids)[0]
    twin = copy.deepcopy(model)
    model.relative_embeddings.weight = model.relative_embeddings.weight * 2 + 1
    after = model(ids)[0]
    assert not np.allclose(before, after)
    np.testing.assert_array_equal(twin(ids)[0], before)
    found, starts = [None] * 4, threading.Barrier(4)

    def call(i):
        starts.wait()
        found[i] = fresh(ids)[0]

    fresh = copy.deepcopy(model)
    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(one, after) for one in found)


# ----------------------------------------------------------------------------------------------------------------------
# disentangled_attention.py


def attended(query, key, value, distances, tables, scale, places, key_places):
    """The formula in float64, for one sequence: (Lq, H, D)."""
    apart = places[:, None] - key_places
    place = log_buckets(apart, distances.buckets, distances.farthest) if distances.buckets else apart
    rows = 2 * distances.span - 1 - np.clip(place + distances.span, 0, 2 * distances.span - 1)
    query, key, value = (x.astype(np.float64) for x in (query, key, value))
    scores = np.einsum("ihd,jhd->hij", query, key) * scale
    if tables.key is not None:
        scores += np.einsum("ihd,hijd->hij", query, tables.key[:, rows].astype(np.float64))
    if tables.query is not None:
        scores += np.einsum("jhd,hijd->hij", key, tables.query[:, rows].astype(np.float64))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hij,jhd->ihd", weights / weights.sum(axis=-1, keepdims=True), value)


@pytest.mark.parametrize("terms", ["key", "query", "both"])
@pytest.mark.parametrize("distances", [Distances(8, 8, 100), Distances(5, 0, 5), Distances(200, 0, 200)], ids=str)
def test_formula(isa, terms, distances):
    """Sequences with and without holes, each with all its rows and with one."""
    rng = np.random.default_rng(3)
    lengths, H, D, scale = [70, 0, 1, 30], 2, 4, 0.4
    starts = np.cumsum([0, *lengths])
    places = np.concatenate([np.arange(70), [5], np.sort(rng.choice(80, 30, replace=False))])
    query, key, value = rng.standard_normal((3, starts[-1], H, D)).astype(np.float32)
    both = rng.standard_normal((2, H, 2 * distances.span, D)).astype(np.float32)
    tables = Tables(both[0] if terms != "query" else None, both[1] if terms != "key" else None)
    expected = np.concatenate(
        [
            attended(*(x[a:b] for x in (query, key, value)), distances, tables, scale, places[a:b], places[a:b])
            for a, b in zip(starts, starts[1:], strict=False)
            if a < b
        ]
    ).reshape(-1, H * D)
    batch = EncoderBatch(starts, places, places)
    got = DisentangledAttention(batch, distances, scale).run(query, key, value, tables)
    np.testing.assert_allclose(got, expected, atol=2e-6, rtol=0)
    starts = starts[[0, 2, 3, 4]]  # each has a row
    pooled = starts[:-1] + [40, 0, 7]
    batch = EncoderBatch(starts, places, places)
    got = DisentangledAttention(batch, distances, scale, pooled).run(query[pooled], key, value, tables)
    np.testing.assert_allclose(got, expected[pooled], atol=2e-6, rtol=0)


def test_rows_do_not_depend_on_what_runs_together(isa, monkeypatch):
    """Which sequences and how many heads a call of attention has changes no bit of a row."""
    rng = np.random.default_rng(4)
    starts, H, D = np.cumsum([0, 150, 0, 3, 64, 200]), 3, 8
    query, key, value = rng.standard_normal((3, starts[-1], H, D)).astype(np.float32)
    tables, distances = Tables(*rng.standard_normal((2, H, 80, D)).astype(np.float32)), Distances(40, 40, 100)

    def run(starts):
        return DisentangledAttention(EncoderBatch(starts, None, None), distances, 0.4).run(
            *(x[: starts[-1]] for x in (query, key, value)), tables
        )

    whole = run(starts)
    for rows, numbers in ((1, 2**23), (1024, 1), (1024, 40 * 2 * 417 * 2), (100, 40)):
        monkeypatch.setattr(disentangled_attention, "_ROWS", rows)
        monkeypatch.setattr(disentangled_attention, "_NUMBERS", numbers)
        assert np.array_equal(run(starts), whole)
    assert np.array_equal(run(starts[:2]), whole[:150])


def test_memory_of_a_long_sequence(monkeypatch):
    """Fewer heads run together as sequences become longer: their terms stay below a number, and nothing is L x L."""
    monkeypatch.setattr(disentangled_attention, "_NUMBERS", 2**15)
    sizes, attention = [], F.varlen_attention

    def noted(query, *arguments, distance_scores, **options):
        sizes.append((query.shape[1], distance_scores.of_query.size + distance_scores.of_key.size))
        return attention(query, *arguments, distance_scores=distance_scores, **options)

    monkeypatch.setattr(disentangled_attention.F, "varlen_attention", noted)
    x = np.random.default_rng(5).standard_normal((400, 5, 4)).astype(np.float32)
    tables = Tables(*np.ones((2, 5, 16, 4), np.float32))
    batch = EncoderBatch(np.array([0, 400]), np.arange(400), None)
    DisentangledAttention(batch, Distances(8, 8, 100), 0.3).run(x, x, x, tables)
    assert sizes == [(2, 2 * 400 * 2 * 16), (2, 2 * 400 * 2 * 16), (1, 2 * 400 * 16)]
