"""models/longt5.py and common/local_attention.py: transformers' numbers (golden), float64 over dense arrays, checks."""

from __future__ import annotations

import numpy as np
import pytest
from seq2seq_golden import GOLDEN, TOLERANCE, answers, changed, check_forward, check_generate, check_rows, check_saved
from seq2seq_golden import inputs as golden_inputs

from transformer_fast import functional as F
from transformer_fast import load_model, reference
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.common.local_attention import (
    LocalAttention,
    TransientGlobalAttention,
    block_ids,
    spans,
)
from transformer_fast.models.longt5 import (
    LongT5Config,
    LongT5EncoderModel,
    LongT5ForConditionalGeneration,
    LongT5Model,
)
from transformer_fast.nn import RelativePositionBias
from transformer_fast.nn.sequences import PackedSequences

pytest.importorskip("ml_dtypes")
pytest.importorskip("safetensors")

H, D = 2, 8


@pytest.fixture(scope="module", params=["longt5_local", "longt5_global"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return load_model(GOLDEN / name)


def test_golden(model, name, isa):
    assert isinstance(model, LongT5ForConditionalGeneration)
    check_forward(model, name)
    check_generate(model, name)


def test_rows(model, name):
    check_rows(model, name)


def test_columns_after_all_rows_change_nothing(model, name):
    given = {key: value for key, value in golden_inputs(name).items() if not key.startswith("decoder")}
    wider = {key: np.pad(value, ((0, 0), (0, 9))) for key, value in given.items()}
    narrow = model.encode(**given).last_hidden_state
    assert np.array_equal(model.encode(**wider).last_hidden_state[:, : narrow.shape[1]], narrow)


def test_threads(model, name):
    before = F.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            F.set_num_threads(threads)
            results.append(model(**golden_inputs(name)).logits)
    finally:
        F.set_num_threads(before)
    assert np.array_equal(*results)


def test_saved(model, name, tmp_path):
    check_saved(model, name, tmp_path / "saved")


def test_without_head(model, name):
    given = golden_inputs(name)
    body = load_model(GOLDEN / name, head=False)
    assert isinstance(body, LongT5Model)
    assert np.array_equal(body(**given).last_hidden_state, model.model(**given).last_hidden_state)


def test_encoder_alone(name, tmp_path):
    """Of a whole file, and of one that holds nothing else."""
    given, expected = golden_inputs(name), answers(name)["encoder_last_hidden_state"]
    ids, mask = given["input_ids"], given["attention_mask"]

    def encoder_alone(weights):
        for key in [key for key in weights if key.startswith(("decoder", "lm_head"))]:
            del weights[key]

    fields = {"architectures": ["LongT5EncoderModel"], "is_encoder_decoder": False}
    for folder in (GOLDEN / name, changed(name, tmp_path / "m", fields, encoder_alone)):
        encoder = LongT5EncoderModel.from_pretrained(folder)
        output = encoder(ids, mask, output_attentions=True, output_hidden_states=True)
        np.testing.assert_allclose(output.last_hidden_state, expected * mask[:, :, None], atol=TOLERANCE, rtol=0)
        # 5 blocks of 5 queries hold 23 tokens; 5 whole blocks of 4 tokens.
        assert [weights.shape for weights in output.attentions] == [(4, 5, 2, 5, 15 + 5 * ("global" in name))] * 2
        assert len(output.hidden_states) == 3
        for weights in output.attentions:
            of_queries = weights.sum(axis=-1).swapaxes(2, 3).reshape(4, 25, 2)[:, :23]
            np.testing.assert_allclose(of_queries, np.repeat(mask[:, :, None], 2, axis=2), atol=1e-6)
    assert isinstance(load_model(tmp_path / "m"), LongT5EncoderModel)
    assert isinstance(load_model(tmp_path / "m", head=False), LongT5EncoderModel)
    encoder.save_pretrained(tmp_path / "saved")
    assert np.array_equal(load_model(tmp_path / "saved")(ids, mask).last_hidden_state, output.last_hidden_state)


def test_long_rows_take_memory_of_their_length(model):
    """3000 x 3000 scores of two heads would be 72 MB; those of the side tokens are a quarter of that."""
    import tracemalloc

    ids = np.full((1, 3000), 3)
    tracemalloc.start()
    model.encode(ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


# ----------------------------------------------------------------------------------------------------------------------
# Which side token a token belongs to


def counted_block_ids(row: list[bool], size: int) -> list[int]:
    """block_ids of a row, token by token."""
    whole = sum(1 for end in range(size - 1, len(row), size) if row[end])
    return [min(column // size, whole - 1) if token else -1 for column, token in enumerate(row)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 16, 30])
def test_block_ids(size):
    rng = np.random.default_rng(size)
    tokens = rng.random((20, 50)) < 0.7
    tokens[0], tokens[1], tokens[2, :20], tokens[3, 10:] = True, False, False, False
    assert block_ids(tokens, size).tolist() == [counted_block_ids(row, size) for row in tokens.tolist()]


def test_orphans_join_the_last_whole_block():
    tokens = np.ones((1, 11), bool)
    assert block_ids(tokens, 4).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]
    assert block_ids(tokens, 12).tolist() == [[-1] * 11]


def test_blocks_are_counted_in_float32():
    """As transformers counts: 100 times the float32 nearest to 1/100 is not 1 wherever it is summed up."""
    found = block_ids(np.ones((1, 5000), bool), 100)[0]
    assert (found != np.arange(5000) // 100).sum() == 7 and (np.diff(found) >= 0).all()


# ----------------------------------------------------------------------------------------------------------------------
# Attention against float64 over dense arrays


def make_bias(seed: int) -> RelativePositionBias:
    bias = RelativePositionBias(8, 20, H)
    bias.weight = np.random.default_rng(seed).standard_normal((8, H)).astype(np.float32)
    return bias


def bias_of(bias: RelativePositionBias, distances: np.ndarray) -> np.ndarray:
    """(H, *distances.shape)."""
    n = int(np.abs(distances).max(initial=0)) + 1
    return bias.table(n, n)[:, distances + n - 1]


def row_kinds(L: int) -> np.ndarray:
    """Rows without padding; with it after, before, between and around the tokens; with one token, and with none."""
    rng = np.random.default_rng(L)
    tokens = np.ones((8, L), bool)
    tokens[1, L // 3 :], tokens[2, : L // 2], tokens[3] = False, False, rng.random(L) < 0.6
    tokens[4, : L // 4], tokens[4, L - L // 4 :], tokens[5, 1:], tokens[6] = False, False, False, False
    tokens[7, : 2 * L // 3] = rng.random(2 * L // 3) < 0.2
    return tokens


@pytest.mark.parametrize("radius", [0, 3, 40])
@pytest.mark.parametrize("size", [None, 1, 5, 16])
@pytest.mark.parametrize("L", [1, 15, 16, 17, 130])
def test_attention(L, size, radius, isa):
    tokens = row_kinds(L)
    packing = PackedSequences(spans(tokens))
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((packing.cu_seqlens[-1], H, D), dtype=np.float32) for _ in range(3))
    out, near, far = np.empty_like(query), make_bias(1), make_bias(2)
    ids = block_ids(tokens, size or 1)
    if size is None:
        side_key = side_value = np.zeros((0, H, D), np.float32)
        counts = np.zeros(len(tokens), int)
        LocalAttention(tokens, packing, radius, near)(query, key, value, out)
    else:
        counts = ids.max(axis=1) + 1
        attend = TransientGlobalAttention(tokens, packing, radius, near, size=size, side_bias=far)
        rows = rng.standard_normal((packing.cu_seqlens[-1], 6), dtype=np.float32)
        sums = attend.sums(rows)
        side_key, side_value = (rng.standard_normal((len(sums), H, D), dtype=np.float32) for _ in range(2))
        attend(query, key, value, out, side_key, side_value)
    starts = np.concatenate([[0], np.cumsum(counts)])
    for b, own in enumerate(tokens):
        columns, packed = np.flatnonzero(own), packing.pack(np.arange(tokens.size).reshape(tokens.shape))
        place = np.searchsorted(packed, b * L + columns)
        of_side = slice(*starts[b : b + 2])
        if size is not None:
            expected = [rows[place][ids[b, columns] == s].sum(axis=0, dtype=np.float64) for s in range(counts[b])]
            np.testing.assert_allclose(sums[of_side], np.reshape(expected, (-1, 6)), atol=1e-5)
        distances = columns - columns[:, None]
        scores = np.where(np.abs(distances) <= radius, bias_of(near, distances).astype(np.float64), -np.inf)
        side_scores = bias_of(far, np.arange(counts[b]) - ids[b, columns][:, None])
        keys, values = (
            np.concatenate(parts).swapaxes(0, 1).astype(np.float64)
            for parts in ((key[place], side_key[of_side]), (value[place], side_value[of_side]))
        )
        exact = reference.scaled_dot_product_attention(
            query[place].swapaxes(0, 1).astype(np.float64),
            keys,
            values,
            np.concatenate([scores, side_scores], axis=-1),
            scale=1.0,
        )
        np.testing.assert_allclose(out[place], exact.swapaxes(0, 1), atol=1e-5)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("L, radius", [(130, 30), (300, 5), (1000, 127)])
def test_bits_of_a_row_do_not_depend_on_the_batch(L, radius, size, isa):
    """Of rows without gaps a matrix engine computes the window; those with gaps, lists of ranges, it does not take."""
    tokens = row_kinds(L)
    arrays = np.random.default_rng(0).standard_normal((3, *tokens.shape, H, 64), dtype=np.float32)
    side = np.random.default_rng(1).standard_normal((L // 16, H, 64), dtype=np.float32)

    def run(rows: slice) -> np.ndarray:
        packing = PackedSequences(spans(tokens[rows]))
        query, key, value = (packing.pack(array[rows]) for array in arrays)
        out, options = np.empty_like(query), (tokens[rows], packing, radius, make_bias(1))
        if size is None:
            LocalAttention(*options)(query, key, value, out)
            return packing.unpack(out)
        attend = TransientGlobalAttention(*options, size=size, side_bias=make_bias(2))
        counts = block_ids(tokens[rows], size).max(axis=1) + 1
        own = np.concatenate([side[:count] for count in counts])
        attend(query, key, value, out, own, own)
        return packing.unpack(out)

    whole = run(slice(None))
    for b in range(len(tokens)):
        assert np.array_equal(run(slice(b, b + 1))[0], whole[b])


@pytest.mark.parametrize("own, calls", [([], 0), ([0, 1, 2], 1), ([3, 7], 1), ([0, 3, 7, 1, 2], 3), ([6], 1)])
def test_rows_with_gaps_have_calls_of_their_own(own, calls, monkeypatch):
    """Of whatever level this machine has: which options a row is attended with follows from the row alone."""
    tokens = row_kinds(40)[own]
    packing = PackedSequences(spans(tokens))
    rows = np.zeros((packing.cu_seqlens[-1], H, D), np.float32)
    seen = []

    def record(query, key, value, starts, keys, **options):
        seen.append(("mask" in options, len(starts) - 1))
        return varlen_attention(query, key, value, starts, keys, **options)

    varlen_attention = F.varlen_attention
    monkeypatch.setattr(F, "varlen_attention", record)
    LocalAttention(tokens, packing, 3, make_bias(1))(rows, rows, rows, np.empty_like(rows))
    assert len(seen) == calls
    assert [has_lists for has_lists, n in seen for _ in range(n)] == [row in (3, 7) for row in own]


def test_hidden_rows_are_never_looked_at():
    tokens = row_kinds(40)
    packing = PackedSequences(spans(tokens))
    hidden = ~packing.pack(tokens)
    assert hidden.any()
    results = []
    for filler in (0, np.nan):
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal((len(hidden), H, D), dtype=np.float32) for _ in range(3)]
        for array in arrays:
            array[hidden] = filler
        attend = TransientGlobalAttention(tokens, packing, 3, make_bias(1), size=4, side_bias=make_bias(2))
        side = attend.sums(arrays[0].reshape(len(hidden), -1)).reshape(-1, H, D)
        out = np.empty_like(arrays[0])
        attend(*arrays, out, side, side)
        results.append(out[~hidden])
    assert np.isfinite(results[0]).all() and np.array_equal(*results)


# ----------------------------------------------------------------------------------------------------------------------
# What is refused, and what is not


@pytest.mark.parametrize(
    "field, value",
    [
        ("encoder_attention_type", "global"),
        ("encoder_attention_type", None),
        ("local_radius", -1),
        ("local_radius", 2.5),
        ("global_block_size", 0),
        ("is_encoder_decoder", False),
        ("is_decoder", True),
        ("relative_attention_num_buckets", 7),
        ("num_layers", 3),
        ("num_decoder_layers", 1),
        ("attention_window", 4),
    ],
)
def test_refused_config(tmp_path, field, value):
    with pytest.raises(CheckpointError, match=field):
        load_model(changed("longt5_global", tmp_path / "m", {field: value}))


@pytest.mark.parametrize(
    "folder, other, tensor",
    [
        ("longt5_global", "local", "LocalSelfAttention"),
        ("longt5_local", "transient-global", "TransientGlobalSelfAttention"),
    ],
)
def test_tensors_of_the_other_kind(tmp_path, folder, other, tensor):
    with pytest.raises(CheckpointError, match=tensor):
        load_model(changed(folder, tmp_path / "m", {"encoder_attention_type": other}))


def test_refused_decoder_mask_with_a_gap(model):
    with pytest.raises(ValueError, match="decoder_attention_mask has a gap in row 1"):
        model([[3, 4, 5]] * 2, None, [[3, 4, 5]] * 2, [[1, 1, 0], [1, 0, 1]])


def test_row_of_padding_alone(model):
    output = model([[3] * 9, [5] * 9], [[1] * 9, [0] * 9], [[3], [4]])
    assert np.isfinite(output.logits).all() and not output.encoder_last_hidden_state[1].any()
    assert not model.encode([[5] * 9], [[0] * 9]).last_hidden_state.any()


def test_fresh_model():
    sizes = {"vocab_size": 11, "d_model": 8, "d_kv": 3, "d_ff": 9, "num_layers": 1, "num_heads": 2}
    for kind in ("local", "transient-global"):
        model = LongT5ForConditionalGeneration(LongT5Config(**sizes, encoder_attention_type=kind))
        assert model([[3, 4] * 20], decoder_input_ids=[[0]]).logits.shape == (1, 1, 11)
