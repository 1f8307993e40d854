"""nn/packed.py: one engine call and layer by layer give the same bits; what is collected is what reference says."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from transformer_fast import functional, nn, reference

H, h, INNER = 3, 24, 40
LENGTHS = [5, 1, 9, 0, 4]
CU = np.cumsum([0, *LENGTHS])


def values(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def encoder(norm_first=False, layers=3, **options):
    nn.manual_seed(0)
    made = nn.PackedEncoder(layers, h, H, INNER, "gelu", 1e-6, norm_first, **options)
    state = {name: array + values(*array.shape) * 0.2 for name, array in made.state_dict().items()}
    made.load_state_dict(state)
    return made


def tokens_of(lengths=LENGTHS, L=None):
    return np.arange(L or max(lengths)) < np.array(lengths)[:, None]


def plain(encoder, x, **options):
    """One sequence (L, h) in float64, layer by layer: the states and the weights (H, L, L)."""
    states, weights = [x.astype(np.float64)], []
    for layer in encoder:
        p = {name: array.astype(np.float64) for name, array in layer.state_dict().items()}

        def linear(x, name, activation=None, p=p):
            return reference.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"), activation=activation)

        def norm(x, name, p=p):
            return reference.layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"], 1e-6)

        def attention(x, linear=linear):
            heads = (reference.split_heads(part[None], H) for part in np.split(linear(x, "attention.in_proj"), 3, 1))
            found, w = reference.scaled_dot_product_attention(*heads, return_weights="heads", **options)
            weights.append(w[0])
            return linear(reference.concat_heads(found)[0], "attention.out_proj")

        def ffn(x, linear=linear):
            return linear(linear(x, "feed_forward.linear1", "gelu"), "feed_forward.linear2")

        x = states[-1]
        if encoder.norm_first:
            x = x + attention(norm(x, "attention_norm"))
            x = x + ffn(norm(x, "feed_forward_norm"))
        else:
            x = norm(x + attention(x), "attention_norm")
            x = norm(x + ffn(x), "feed_forward_norm")
        states.append(x)
    return states, weights


OPTIONS = [
    {},
    {"is_causal": True},
    {"relative_bias": values(H, 17)},
    {"is_causal": True, "relative_bias": values(1, 17)},
    {"attn_mask": values(5, H, 9, 9)},
    {"attn_mask": np.tri(9, 9, 1, dtype=bool)[None, None]},
    {"attn_mask": np.tri(9, 9, 1, dtype=bool)},
    {"attn_mask": values(5, 1, 1, 9)},
    {"attn_mask": np.tri(9, 9, 1, dtype=bool)[None, None], "relative_bias": values(H, 17)},
    {"attn_mask": values(1, H, 9, 9), "relative_bias": values(1, 17)},
]


def own_options(options, b, L):
    """The options of a batch of sequences of up to 9 tokens for sequence b of L tokens."""
    own = dict(options)
    if "relative_bias" in own:
        own["relative_bias"] = own["relative_bias"][:, 9 - L : 9 + L - 1]
    if "attn_mask" in own:
        own["attn_mask"] = np.broadcast_to(own["attn_mask"], (5, H, 9, 9))[b, :, :L, :L]
    return own


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_states_and_weights(isa, norm_first, options):
    model, x = encoder(norm_first), values(CU[-1], h)
    before, tokens = x.copy(), tokens_of(L=11)
    collect = nn.Collector(tokens, hidden_states=True, attentions=True)
    got = model(x, CU, collect=collect, **options)
    assert np.array_equal(x, before)
    assert np.array_equal(got, model(x, CU, **options)), "the same bits, whatever is collected"
    assert len(collect.hidden_states) == 4 and len(collect.attentions) == 3
    for state in collect.hidden_states:
        assert state.shape == (5, 11, h) and not state[~tokens].any()
    assert np.array_equal(collect.hidden_states[0][tokens], x)
    assert np.array_equal(collect.hidden_states[3][tokens], got)
    for b, L in enumerate(LENGTHS):
        states, weights = plain(model, x[CU[b] : CU[b + 1]], **own_options(options, b, L)) if L else ([], [])
        for state, expected in zip(collect.hidden_states, states, strict=False):
            np.testing.assert_allclose(state[b, :L], expected, atol=2e-5)
        for found, expected in zip(collect.attentions, weights, strict=False):
            np.testing.assert_allclose(found[b, :, :L, :L], expected, atol=1e-5)
        for found in collect.attentions:
            assert not found[b, :, L:].any() and not found[b, :, :, L:].any()


@pytest.mark.parametrize("norm_first", [False, True])
def test_rows_that_are_not_attended(isa, norm_first):
    """Left padding whose first place runs, as a pooler needs it."""
    model = encoder(norm_first)
    tokens = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
    computed = tokens.copy()
    computed[:, 0] = True
    cu, cu_keys = (np.concatenate([[0], np.cumsum(mask.sum(axis=1))]) for mask in (computed, tokens))
    x = values(cu[-1], h)
    keys = np.flatnonzero(tokens[computed]), cu_keys
    collect = nn.Collector(tokens, computed, hidden_states=True, attentions=True)
    got = model(x, cu, keys, collect=collect)
    assert np.array_equal(got, model(x, cu, keys))
    states, weights = plain(model, x[1:4])
    np.testing.assert_allclose(got[1:4], states[-1], atol=2e-5)
    for found, expected in zip(collect.attentions, weights, strict=True):
        np.testing.assert_allclose(found[0, :, 2:, 2:], expected, atol=1e-5)
        assert not found[0, :, :2].any() and not found[0, :, :, :2].any() and not found[2].any()
    assert not collect.hidden_states[-1][~tokens].any()


FILLED = [5, 1, 9, 2, 4]
CU_FILLED = np.cumsum([0, *FILLED])
PLACES = [0, np.array([4, 0, 3, 1, 2])]


@pytest.mark.parametrize("places", PLACES, ids=["first", "anywhere"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_pooled_rows(isa, norm_first, options, places):
    """One row of each sequence through the last layer: as all rows, but for the order of its sums."""
    model, x = encoder(norm_first), values(CU_FILLED[-1], h)
    before = x.copy()
    got = model(x, CU_FILLED, pooled_rows=places, **options)
    assert got.shape == (5, h) and np.array_equal(x, before)
    np.testing.assert_allclose(got, model(x, CU_FILLED, **options)[CU_FILLED[:-1] + places], atol=1e-5)
    out = np.empty_like(got)
    assert model(x, CU_FILLED, pooled_rows=places, out=out, **options) is out and np.array_equal(out, got)
    # What is reported is of all rows, and changes nothing.
    shown, expected = (nn.Collector(tokens_of(FILLED), hidden_states=True, attentions=True) for _ in range(2))
    assert np.array_equal(model(x, CU_FILLED, pooled_rows=places, collect=shown, **options), got)
    model(x, CU_FILLED, collect=expected, **options)
    assert np.array_equal(shown.hidden_states, expected.hidden_states)
    assert np.array_equal(shown.attentions, expected.attentions)


@pytest.mark.parametrize("places", PLACES, ids=["first", "anywhere"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_pooled_rows_have_the_same_bits_in_one_call_and_layer_by_layer(isa, causal, norm_first, places):
    """A padded text among others decides which of both runs: it must not decide the others' results."""
    model, x = encoder(norm_first), values(CU_FILLED[-1], h)
    all_rows = np.arange(len(x)), CU_FILLED
    options = {"is_causal": causal, "pooled_rows": places}
    assert np.array_equal(model(x, CU_FILLED, **options), model(x, CU_FILLED, all_rows, **options))


def test_a_pooled_row_that_is_not_attended(isa):
    model, x = encoder(), values(10, h)
    cu, keys = np.array([0, 4, 10]), (np.array([1, 2, 3, 4, 5, 6, 7, 8, 9]), np.array([0, 3, 9]))
    got = model(x, cu, keys, pooled_rows=0)
    np.testing.assert_allclose(got, model(x, cu, keys)[[0, 4]], atol=1e-5)
    assert np.array_equal(got[1], model(x[4:], np.array([0, 6]), pooled_rows=0)[0])


def test_pooled_rows_that_do_not_fit():
    model, x = encoder(), values(CU[-1], h)
    with pytest.raises(ValueError, match="pooled_rows has 0 for sequence 3; needed: a row below its length, 0"):
        model(x, CU, pooled_rows=0)
    with pytest.raises(ValueError, match="pooled_rows has 5 for sequence 0"):
        model(x, CU, (np.arange(len(x)), CU), pooled_rows=np.array([5, 0, 0, 0, 0]))


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"attn_mask": np.zeros((9, 8), np.float32)}, ValueError, r"attn_mask has shape \(9, 8\)"),
        ({"attn_mask": np.zeros((9, 9), int)}, TypeError, "attn_mask has dtype int64"),
        ({"relative_bias": values(H, 25)}, ValueError, r"relative_bias has shape \(3, 25\)"),
        ({"relative_bias": [[1, 2]]}, TypeError, "relative_bias has dtype int64"),
        ({"keys": (np.arange(21), np.array([0, 5, 6, 15, 17]))}, ValueError, "cu_seqlens_k reaches from 0 to 17"),
        (
            {"keys": (np.arange(21), np.array([0, 5, 21]))},
            ValueError,
            "keys have 2 sequences; needed: as many as hidden, 5",
        ),
        ({"keys": (np.arange(21), CU_FILLED), "cu_seqlens": [0, 4, 30]}, ValueError, "cu_seqlens reaches from 0 to 30"),
        ({"keys": (np.arange(21), CU_FILLED), "cu_seqlens": CU_FILLED * 1.0}, TypeError, "cu_seqlens has dtype float"),
        ({"pooled_rows": [0, 0]}, ValueError, r"pooled_rows has shape \(2,\)"),
        ({"pooled_rows": 0.0}, TypeError, "pooled_rows has dtype float64"),
        ({"pooled_rows": np.full(5, 2**63, np.uint64)}, ValueError, "pooled_rows reaches 9223372036854775808"),
        ({"out": np.zeros((5, h))}, TypeError, "out has dtype float64"),
        ({"out": np.zeros((21, h), np.float32)}, ValueError, r"out has shape \(21, 24\); needed: \(5, 24\)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_what_pooled_rows_refuse(layers, options, error, message):
    """However many layers there are: the last one alone sees other arguments than the rest."""
    model, x = encoder(layers=layers), values(CU_FILLED[-1], h)
    call = {"cu_seqlens": CU_FILLED, "pooled_rows": 0} | options
    with pytest.raises(error, match=message):
        model(x, **call)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_pooled_rows_do_not_go_over_the_input(layers):
    model, x = encoder(layers=layers), values(CU_FILLED[-1], h)
    for keys in (None, (np.arange(21), CU_FILLED)):
        with pytest.raises(ValueError, match=r"out overlaps (x|hidden)"):
            model(x, CU_FILLED, keys, pooled_rows=0, out=x[:5])


@pytest.mark.parametrize("layers", [0, 1])
def test_pooled_rows_of_no_sequences(layers):
    for keys in (None, (np.arange(0), [0])):
        assert encoder(layers=layers)(values(0, h), [0], keys, pooled_rows=[]).shape == (0, h)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}], ids=str)
def test_out_may_be_the_input(options):
    model, x = encoder(), values(CU[-1], h)
    expected = model(x, CU, **options)
    assert model(x, CU, out=x, **options) is x
    assert np.array_equal(x, expected)


def test_without_bias_and_without_layers():
    x = values(CU[-1], h)
    model = encoder(bias=False)
    assert not any(name.endswith(("in_proj.bias", "linear1.bias")) for name in model.state_dict())
    assert np.array_equal(model(x, CU), model(x, CU, collect=nn.Collector(tokens_of())))
    assert np.array_equal(encoder(layers=0)(x, CU), x)
    assert np.array_equal(encoder(layers=0)(x, [0, 9, len(x)], pooled_rows=[8, 0]), x[[8, 9]])


def test_new_weights_and_copies_are_used():
    model, x = encoder(), values(CU[-1], h)
    before = model(x, CU)
    other = copy.deepcopy(model)
    model[0].feed_forward.linear1.weight = values(INNER, h)
    assert not np.array_equal(model(x, CU), before) and np.array_equal(other(x, CU), before)


def test_bad_input():
    model = encoder()
    with pytest.raises(ValueError, match="embed_dim"):
        nn.PackedEncoder(1, 24, 5, 40, "gelu", 1e-5)
    with pytest.raises(ValueError, match="x has shape"):
        model(values(5, 23), np.array([0, 5]))
    with pytest.raises(ValueError, match="cu_seqlens"):
        model(values(5, h), np.array([0, 4]))


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_mask_of_key_ranges(isa, norm_first):
    """As the same mask, dense, with all rows and with one of each sequence; the same bits, whatever is collected."""
    model, x = encoder(norm_first), values(CU_FILLED[-1], h)
    seen = np.zeros((5, 9, 9), bool)
    for b, n in enumerate(FILLED):
        seen[b, :n, :n] = (values(n, n, seed=b) > 0) | np.eye(n, dtype=bool)
    mask = functional.KeyRanges.packed(
        [functional.KeyRanges.from_dense(own[:n, :n]) for own, n in zip(seen, FILLED, strict=True)]
    )
    found, expected = (nn.Collector(tokens_of(FILLED), hidden_states=True, attentions=True) for _ in range(2))
    got = model(x, CU_FILLED, mask=mask, collect=found)
    np.testing.assert_allclose(got, model(x, CU_FILLED, attn_mask=seen[:, None], collect=expected), atol=1e-5)
    np.testing.assert_allclose(found.attentions, expected.attentions, atol=1e-5)
    assert np.array_equal(got, model(x, CU_FILLED, mask=mask))
    for places in PLACES:
        one = model(x, CU_FILLED, mask=mask, pooled_rows=places)
        np.testing.assert_allclose(one, got[CU_FILLED[:-1] + places], atol=1e-5)
    with pytest.raises(ValueError, match=r"mask has shape \(1, 1, 20, 9\); needed: \(1, 3 or 1, 21, 9\)"):
        model(x, CU_FILLED, mask=mask.of_rows(slice(20)))
