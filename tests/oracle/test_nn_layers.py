"""Live comparisons (marker `oracle`) with torch.nn: encoders, decoders, Transformer, LSTM and GRU over the product of
their options, and the recurrent encoder-decoder with the same thing written in torch."""

from __future__ import annotations

import itertools
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

from transformer_fast import functional, nn
from transformer_fast.generation import generate

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")]

TOLERANCE = 1e-5
B, LQ, LK = 3, 7, 5
SIZES = [(24, 4, 37), (15, 3, 8), (7, 1, 1)]  # d_model, nhead, dim_feedforward


def pair(theirs, ours, noise=0.1):
    """Both with the same random parameters, in torch's order and names."""
    import torch

    for parameter in theirs.parameters():
        parameter.data += torch.randn_like(parameter) * noise
    state = {name: tensor.detach().numpy() for name, tensor in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    return theirs.eval(), ours


def agree(theirs, ours, *arrays, atol=TOLERANCE, **options):
    """Equal up to the tolerance, except where torch has NaN (queries without a key, which get zeros here)."""
    import torch

    def tensor(value):
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(*map(tensor, arrays), **{name: tensor(value) for name, value in options.items()}).numpy()
    got = ours(*arrays, **options)
    assert got.shape == expected.shape and got.dtype == np.float32
    known = ~np.isnan(expected)
    assert known.any()
    np.testing.assert_allclose(got[known], expected[known], rtol=0, atol=atol)


@contextmanager
def slow_path(torch):
    """torch without its fused layers, which turn float masks into booleans."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def masks(length, columns, heads):
    """Name -> attention mask; no query loses all of its keys."""
    rng = np.random.default_rng(5)
    causal = ~np.tri(length, columns, dtype=bool)
    some = rng.random((length, columns)) < 0.3
    some[:, 0] = False
    return {
        "none": None,
        "causal": causal,
        "causal-float": np.where(causal, np.float32(-np.inf), np.float32(0)),
        "bool": some,
        "float": rng.standard_normal((length, columns)).astype(np.float32),
        "heads": rng.random((B * heads, length, columns)) < 0.2,
    }


PADDINGS = {
    "none": None,
    "behind": np.arange(LQ) >= np.array([[7], [4], [2]]),
    "all": np.zeros((B, LQ), bool),
    "holes": np.array([[False] * 7, [False, False, True] * 2 + [False], [False, True, True, False, False, True, True]]),
    "float": np.where(np.arange(LQ) >= np.array([[7], [4], [2]]), np.float32(-np.inf), np.float32(0.5)),
}
OPTIONS = list(itertools.product((False, True), (False, True), (False, True), ("relu", "gelu")))


def turned(array, batch_first):
    return np.ascontiguousarray(array.swapaxes(0, 1)) if batch_first else array


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("norm_first", "batch_first", "bias", "activation"), OPTIONS)
@pytest.mark.parametrize(("d_model", "heads", "inner"), SIZES)
def test_encoder(d_model, heads, inner, norm_first, batch_first, bias, activation, torch):
    options = {"activation": activation, "norm_first": norm_first, "batch_first": batch_first, "bias": bias}
    x = turned(normal(LQ, B, d_model), batch_first)
    torch.manual_seed(0)
    for depth, norm in ((1, False), (3, True)):
        theirs = torch.nn.TransformerEncoder(
            torch.nn.TransformerEncoderLayer(d_model, heads, inner, **options),
            depth,
            torch.nn.LayerNorm(d_model) if norm else None,
            enable_nested_tensor=depth == 1,
        )
        layer = nn.TransformerEncoderLayer(d_model, heads, inner, **options)
        last = nn.LayerNorm(d_model) if norm else None
        theirs, ours = pair(theirs, nn.TransformerEncoder(layer, depth, last, enable_nested_tensor=depth == 1))
        for name, mask in masks(LQ, LQ, heads).items():
            if mask is not None and mask.dtype == np.float32:
                with slow_path(torch):
                    agree(theirs, ours, x, mask=mask)
            else:
                agree(theirs, ours, x, mask=mask)
            if name == "bool":
                agree(theirs, ours, x, mask=mask, src_key_padding_mask=PADDINGS["behind"])
        for name, padding in PADDINGS.items():
            if name == "float":
                with slow_path(torch):
                    agree(theirs, ours, x, src_key_padding_mask=padding)
            else:
                agree(theirs, ours, x, src_key_padding_mask=padding)
        agree(theirs.layers[0], ours.layers[0], x)
        agree(theirs, ours, np.ascontiguousarray(x[0] if batch_first else x[:, 0]))
        causal = masks(LQ, LQ, heads)["causal-float"]
        agree(theirs, ours, x, mask=causal, is_causal=True)


@pytest.mark.parametrize(("norm_first", "batch_first", "bias", "activation"), OPTIONS)
@pytest.mark.parametrize(("d_model", "heads", "inner"), SIZES)
def test_decoder(d_model, heads, inner, norm_first, batch_first, bias, activation, torch):
    options = {"activation": activation, "norm_first": norm_first, "batch_first": batch_first, "bias": bias}
    x, memory = turned(normal(LQ, B, d_model), batch_first), turned(normal(LK, B, d_model), batch_first)
    torch.manual_seed(0)
    for depth, norm in ((1, False), (2, True)):
        theirs = torch.nn.TransformerDecoder(
            torch.nn.TransformerDecoderLayer(d_model, heads, inner, **options),
            depth,
            torch.nn.LayerNorm(d_model) if norm else None,
        )
        layer = nn.TransformerDecoderLayer(d_model, heads, inner, **options)
        theirs, ours = pair(theirs, nn.TransformerDecoder(layer, depth, nn.LayerNorm(d_model) if norm else None))
        own, cross = masks(LQ, LQ, heads), masks(LQ, LK, heads)
        for name in own:
            agree(theirs, ours, x, memory, tgt_mask=own[name], memory_mask=cross[name])
        for name in ("none", "behind", "holes"):
            padding = PADDINGS[name]
            at_memory = None if padding is None else np.ascontiguousarray(padding[:, :LK])
            given = {"tgt_key_padding_mask": padding, "memory_key_padding_mask": at_memory}
            agree(theirs, ours, x, memory, **given)
            agree(theirs, ours, x, memory, tgt_mask=own["causal"], memory_mask=cross["bool"], **given)
        flags = {"tgt_mask": own["causal-float"], "memory_mask": cross["causal"]}
        agree(theirs, ours, x, memory, **flags, tgt_is_causal=True, memory_is_causal=True)
        one = [np.ascontiguousarray(a[0] if batch_first else a[:, 0]) for a in (x, memory)]
        agree(theirs, ours, *one, tgt_mask=own["causal"])


@pytest.mark.parametrize(("norm_first", "batch_first", "bias", "activation"), OPTIONS)
def test_transformer(norm_first, batch_first, bias, activation, torch):
    options = {"activation": activation, "norm_first": norm_first, "batch_first": batch_first, "bias": bias}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.nn.Transformer(20, 2, 2, 2, 33, **options)
    theirs, ours = pair(theirs, nn.Transformer(20, 2, 2, 2, 33, **options))
    src, tgt = turned(normal(LQ, B, 20), batch_first), turned(normal(LK, B, 20), batch_first)
    mask = nn.Transformer.generate_square_subsequent_mask(LK)
    np.testing.assert_array_equal(mask, torch.nn.Transformer.generate_square_subsequent_mask(LK).numpy())
    agree(theirs, ours, src, tgt)
    agree(theirs, ours, src, tgt, tgt_mask=mask)
    for padding in (PADDINGS["behind"], PADDINGS["holes"]):
        # With nested tensors torch's memory has the norm of zeros where padding is: it shows if nothing hides it.
        agree(theirs, ours, src, tgt, tgt_mask=mask, src_key_padding_mask=padding)
        agree(theirs, ours, src, tgt, src_key_padding_mask=padding, memory_key_padding_mask=padding)
    agree(theirs, ours, src, tgt, src_mask=masks(LQ, LQ, 2)["bool"], memory_mask=masks(LK, LQ, 2)["heads"])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_activation_as_a_function(activation, torch):
    function = getattr(torch.nn.functional, activation)
    theirs = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(24, 4, 37, activation=function), 2)
    layer = nn.TransformerEncoderLayer(24, 4, 37, activation=getattr(functional, activation))
    agree(*pair(theirs, nn.TransformerEncoder(layer, 2)), normal(LQ, B, 24))


def test_layers_of_a_usual_size(torch):
    for batch_first in (False, True):
        options = {"batch_first": batch_first}
        theirs = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(512, 8, 2048, **options), 2)
        ours = nn.TransformerEncoder(nn.TransformerEncoderLayer(512, 8, 2048, **options), 2)
        agree(*pair(theirs, ours, noise=0.01), turned(normal(65, 2, 512), batch_first))


# ---------------------------------------------------------------------------------------------------------------------
# Recurrent layers

CELLS = [("LSTM", 0), ("LSTM", 3), ("GRU", 0)]
SWITCHES = list(itertools.product((1, 2), *[(False, True)] * 3))


def flat(result):
    output, last = result
    return [output, *(last if isinstance(last, tuple) else (last,))]


def as_arrays(state):
    return tuple(tensor.numpy() for tensor in state) if isinstance(state, tuple) else state.numpy()


def same(theirs, ours):
    for one, other in zip(flat(theirs), flat(ours), strict=True):
        assert tuple(one.shape) == other.shape
        np.testing.assert_allclose(other, one.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("kind", "proj_size"), CELLS)
@pytest.mark.parametrize(("num_layers", "bias", "batch_first", "bidirectional"), SWITCHES)
@pytest.mark.parametrize(("input_size", "hidden_size", "steps"), [(5, 7, 6), (1, 33, 40), (17, 16, 1), (40, 4, 2)])
def test_recurrent(
    kind, proj_size, num_layers, bias, batch_first, bidirectional, input_size, hidden_size, steps, torch
):
    options = dict(num_layers=num_layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    if proj_size:
        options["proj_size"] = proj_size
    torch.manual_seed(0)
    theirs, ours = pair(
        getattr(torch.nn, kind)(input_size, hidden_size, **options),
        getattr(nn, kind)(input_size, hidden_size, **options),
    )
    x = torch.randn(B, steps, input_size) if batch_first else torch.randn(steps, B, input_size)
    rows = num_layers * (2 if bidirectional else 1)
    state = torch.randn(rows, B, proj_size or hidden_size)
    if kind == "LSTM":
        state = (state, torch.randn(rows, B, hidden_size))
    lengths = np.minimum([1, steps, (steps + 1) // 2], steps)
    pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for hx in (None, state):
            given = None if hx is None else as_arrays(hx)
            same(theirs(x, hx), ours(x.numpy(), given))
            packed = pack(x, torch.from_numpy(lengths), batch_first=batch_first, enforce_sorted=False)
            output, last = theirs(packed, hx)
            expected = (pad(output, batch_first=batch_first)[0], last)
            same(expected, ours(x.numpy(), given, lengths=lengths))
        alone = x[0] if batch_first else x[:, 0]
        one = state[0][:, 0] if kind == "LSTM" else state[:, 0]
        one = (one.contiguous(), state[1][:, 0].contiguous()) if kind == "LSTM" else one.contiguous()
        same(theirs(alone, one), ours(alone.numpy(), as_arrays(one)))


# ---------------------------------------------------------------------------------------------------------------------
# Generation


def test_recurrent_seq2seq(torch):
    """The same network in torch: packed encoder, Bahdanau's scores written out, a cell a step."""
    nn.manual_seed(0)
    model = nn.RecurrentSeq2Seq(30, 40, 8, 12, num_layers=2)
    p = {name: torch.from_numpy(np.array(array)) for name, array in model.state_dict().items()}
    encoder = torch.nn.GRU(8, 12, num_layers=2, batch_first=True, bidirectional=True)
    encoder.load_state_dict({n.removeprefix("encoder."): a for n, a in p.items() if n.startswith("encoder.")})
    decoder = torch.nn.GRU(8 + 24, 12, num_layers=2, batch_first=True)
    decoder.load_state_dict({n.removeprefix("decoder."): a for n, a in p.items() if n.startswith("decoder.")})
    linear = torch.nn.functional.linear
    rng = np.random.default_rng(0)
    source, target, lengths = rng.integers(0, 30, (3, 6)), rng.integers(0, 40, (3, 4)), torch.tensor([6, 2, 4])
    mask = torch.arange(6) < lengths[:, None]
    with torch.no_grad():
        embedded = p["source_embedding.weight"][torch.from_numpy(source)]
        packed = torch.nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, last = encoder(packed)
        states, _ = torch.nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
        last = torch.cat([last[0::2], last[1::2]], dim=-1)
        h = torch.tanh(linear(last, p["bridge.weight"], p["bridge.bias"]))
        keys = linear(states, p["attention.key_proj.weight"])
        expected, weights = [], []
        for i in range(4):
            query = linear(h[-1], p["attention.query_proj.weight"], p["attention.query_proj.bias"])
            scores = torch.tanh(query[:, None] + keys) @ p["attention.v"]
            weights.append(scores.masked_fill(~mask, -torch.inf).softmax(-1))
            context = (weights[-1][:, None] @ states)[:, 0]
            word = p["target_embedding.weight"][torch.from_numpy(target[:, i])]
            output, h = decoder(torch.cat([word, context], dim=-1)[:, None], h)
            features = torch.cat([output[:, 0], context, word], dim=-1)
            expected.append(linear(features, p["output_projection.weight"], p["output_projection.bias"]))
    logits, attentions = model(source, target, mask.numpy(), output_attentions=True)
    np.testing.assert_allclose(logits, torch.stack(expected, 1).numpy(), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(attentions, torch.stack(weights, 1).numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_greedy_tokens(batch_first, norm_first, torch):
    """torch computes the whole target again at each step."""
    torch.manual_seed(1)
    options = {"batch_first": batch_first, "norm_first": norm_first}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = pair(
            torch.nn.Transformer(32, 4, 2, 2, 64, **options), nn.Transformer(32, 4, 2, 2, 64, **options)
        )
    words, words_too = pair(torch.nn.Embedding(50, 32), nn.Embedding(50, 32))
    output, output_too = pair(torch.nn.Linear(32, 50), nn.Linear(32, 50))
    model = nn.TransformerGenerator(ours, words_too, words_too, output_too, nn.SinusoidalPositionalEncoding(32))
    table = torch.from_numpy(nn.SinusoidalPositionalEncoding(32).table(np.arange(40)))
    source = torch.randint(0, 50, (B, 9))
    padding = torch.arange(9) >= torch.tensor([[9], [5], [1]])
    target = torch.ones(B, 1, dtype=torch.int64)

    def embed(ids):
        x = words(ids) + table[: ids.shape[1]]
        return x if batch_first else x.transpose(0, 1)

    with torch.no_grad():
        for _ in range(15):
            mask = torch.nn.Transformer.generate_square_subsequent_mask(target.shape[1])
            masked = {"tgt_mask": mask, "src_key_padding_mask": padding, "memory_key_padding_mask": padding}
            hidden = theirs(embed(source), embed(target), **masked)
            logits = output(hidden if batch_first else hidden.transpose(0, 1))
            target = torch.cat([target, logits[:, -1:].argmax(-1)], dim=1)
    got = generate(model, source.numpy(), ~padding.numpy(), decoder_start_token_id=1, max_new_tokens=15)
    np.testing.assert_array_equal(got, target.numpy())
    assert len(np.unique(got)) > 3
