"""nn/transformer.py and transformer_decoder.py: against the same layer in plain float64 and torch's numbers (golden);
stacks, causal masks, padding, and the one call that whole encoders run in."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from support import assert_close, assert_same_bits

from transformer_fast import functional, nn, reference
from transformer_fast.nn.masks import split_causal, square_subsequent_mask

GOLDEN = Path(__file__).parent.parent / "golden" / "nn.npz"
LAYERS = GOLDEN.with_name("layers.npz")


def wide(state, prefix):
    return [state.get(f"{prefix}.{kind}") for kind in ("weight", "bias")]


def plain_layer(layer, x, norm_first, activation):
    """One sequence (L, d_model), in float64."""
    state = {name: array.astype(np.float64) for name, array in layer.state_dict().items()}
    x = x.astype(np.float64)

    def attention(x):
        projected = reference.linear(x, state["self_attn.in_proj_weight"], state.get("self_attn.in_proj_bias"))
        q, k, v = (
            reference.split_heads(part[None], layer.self_attn.num_heads) for part in np.split(projected, 3, axis=-1)
        )
        heads = reference.scaled_dot_product_attention(q, k, v)
        return reference.linear(reference.concat_heads(heads)[0], *wide(state, "self_attn.out_proj"))

    def ffn(x):
        hidden = reference.linear(x, *wide(state, "linear1"), activation=activation)
        return reference.linear(hidden, *wide(state, "linear2"))

    def norm(x, name):
        return reference.layer_norm(x, *wide(state, name))

    if norm_first:
        x = x + attention(norm(x, "norm1"))
        return x + ffn(norm(x, "norm2"))
    x = norm(x + attention(x), "norm1")
    return norm(x + ffn(x), "norm2")


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_against_plain_numpy(isa, norm_first, bias, activation):
    nn.manual_seed(0)
    options = {"activation": activation, "norm_first": norm_first, "bias": bias}
    layer = nn.TransformerEncoderLayer(24, 3, 40, batch_first=True, **options)
    x = np.random.default_rng(1).standard_normal((2, 7, 24)).astype(np.float32)
    expected = np.stack([plain_layer(layer, row, norm_first, activation) for row in x])
    assert_close(layer(x), expected, 1e-5)
    assert_close(layer(x[0]), expected[0], 1e-5)
    turned = nn.TransformerEncoderLayer(24, 3, 40, **options)
    turned.load_state_dict(layer.state_dict())
    assert_close(turned(np.ascontiguousarray(x.swapaxes(0, 1))), expected.swapaxes(0, 1), 1e-5)


def test_an_activation_may_be_a_function():
    nn.manual_seed(0)
    one = nn.TransformerEncoderLayer(24, 3, 40, activation="gelu")
    other = nn.TransformerEncoderLayer(24, 3, 40, activation=functional.gelu)
    other.load_state_dict(one.state_dict())
    x = np.random.default_rng(1).standard_normal((5, 2, 24)).astype(np.float32)
    np.testing.assert_allclose(other(x), one(x), atol=2e-6)


CASES = ["post", "pre", "causal", "padding"]


@pytest.mark.parametrize("case", CASES)
def test_golden_numbers_of_torch(isa, case):
    """Made by golden/make_golden.py with torch.nn.TransformerEncoderLayer(16, 2, 24)."""
    with np.load(GOLDEN) as golden:
        state = {name.removeprefix("layer."): golden[name] for name in golden.files if name.startswith("layer.")}
        layer = nn.TransformerEncoderLayer(16, 2, 24, activation="gelu", norm_first=case == "pre")
        layer.load_state_dict(state)
        options = {}
        if case == "causal":
            options = {"src_mask": golden["causal_mask"]}
            np.testing.assert_allclose(layer(golden["x"], is_causal=True), golden["causal"], atol=5e-6)
        elif case == "padding":
            options = {"src_key_padding_mask": golden["padding_mask"]}
        np.testing.assert_allclose(layer(golden["x"], **options), golden[case], atol=5e-6)


def test_golden_numbers_of_multihead_attention(isa):
    with np.load(GOLDEN) as golden:
        attention = nn.MultiheadAttention(16, 2)
        prefix = "layer.self_attn."
        attention.load_state_dict({n.removeprefix(prefix): golden[n] for n in golden.files if n.startswith(prefix)})
        output, weights = attention(golden["x"], golden["memory"], golden["memory"], golden["memory_padding_mask"])
        np.testing.assert_allclose(output, golden["cross"], atol=5e-6)
        np.testing.assert_allclose(weights, golden["cross_weights"], atol=5e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Stacks


def stack(num_layers=3, norm=True, **options):
    nn.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, 40, **options)
    encoder = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(24) if norm else None)
    rng = np.random.default_rng(1)
    encoder.load_state_dict(
        {
            name: array + rng.standard_normal(array.shape).astype(np.float32) / 10
            for name, array in encoder.state_dict().items()
        }
    )
    return encoder


def one_by_one(encoder, x, **options):
    for layer in encoder.layers:
        x = layer(x, **options)
    return x if encoder.norm is None else encoder.norm(x)


def states(golden, prefix):
    return {name.removeprefix(prefix): golden[name] for name in golden.files if name.startswith(prefix)}


@pytest.mark.parametrize("name", ["post", "pre"])
def test_golden_numbers_of_transformer(name, isa):
    """Made by golden/make_layers.py with torch.nn.Transformer(8, 2, 2, 2, 12)."""
    model = nn.Transformer(8, 2, 2, 2, 12, activation="gelu", norm_first=name == "pre")
    with np.load(LAYERS) as golden:
        state = states(golden, "transformer.")
        assert list(model.state_dict()) == list(state)
        model.load_state_dict(state)
        masks = {k: golden[k] for k in ("tgt_mask", "src_key_padding_mask", "memory_key_padding_mask")}
        src, tgt, expected = golden["src"], golden["tgt"], golden[name]
        np.testing.assert_allclose(model(src, tgt, **masks), expected, atol=5e-6)
        turned = nn.Transformer(8, 2, 2, 2, 12, activation="gelu", norm_first=name == "pre", batch_first=True)
        turned.load_state_dict(state)
        got = turned(src.swapaxes(0, 1), tgt.swapaxes(0, 1), **masks)
        np.testing.assert_allclose(got.swapaxes(0, 1), expected, atol=5e-6)
        alone = model(src[:, 0], tgt[:, 0], tgt_is_causal=True)
        np.testing.assert_allclose(alone, expected[:, 0], atol=5e-6)


def test_golden_numbers_of_nested_tensors(isa):
    """Where torch takes nested tensors, padding is 0 before the final norm."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8))
    with np.load(LAYERS) as golden:
        encoder.load_state_dict(states(golden, "transformer.encoder."))
        padding = golden["src_key_padding_mask"]
        got = encoder(golden["src"].swapaxes(0, 1), src_key_padding_mask=padding)
        np.testing.assert_allclose(got, golden["nested"], atol=5e-6)
        np.testing.assert_array_equal(got[padding], np.broadcast_to(encoder.norm.bias, got[padding].shape))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_one_call_has_the_bits_of_layer_by_layer(batch_first, norm_first, causal, isa, threads):
    encoder = stack(batch_first=batch_first, norm_first=norm_first, activation="gelu")
    for shape in ((9, 5, 24), (70, 3, 24), (1, 1, 24), (33, 24), (0, 2, 24), (2, 0, 24)):
        x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        assert_same_bits(encoder(x, is_causal=causal), one_by_one(encoder, x, is_causal=causal))
    assert encoder._encoder._kept.encoders.keys() == {causal}


def test_padding_is_left_out_of_one_call(isa):
    encoder = stack(batch_first=True)
    x = np.random.default_rng(2).standard_normal((4, 9, 24)).astype(np.float32)
    lengths = np.array([9, 4, 1, 0])
    padding = np.arange(9) >= lengths[:, None]
    x[padding] = np.nan
    got = encoder(x, src_key_padding_mask=padding)
    for b, length in enumerate(lengths):
        assert_same_bits(got[b, :length], encoder(x[b, :length]))
    assert (got[padding] == encoder.norm.bias).all()


@pytest.mark.parametrize(
    "options",
    [{"norm_first": True}, {"bias": False}, {"activation": "silu"}, {"batch_first": False}, {"nested": False}],
)
def test_padding_where_torch_takes_no_nested_tensors(options):
    """Then positions of padding are computed like others; tokens are the same either way."""
    nested = options.get("nested", True)
    encoder = stack(**{"batch_first": True} | {name: value for name, value in options.items() if name != "nested"})
    encoder.enable_nested_tensor = nested
    shape = (4, 9, 24) if encoder.layers[0].self_attn.batch_first else (9, 4, 24)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    padding = np.arange(9) >= np.array([[9], [4], [1], [8]])
    got = encoder(x, src_key_padding_mask=padding)
    np.testing.assert_array_equal(got, one_by_one(encoder, x, src_key_padding_mask=padding))
    assert np.abs(got).min(axis=-1).all()


def test_padding_before_or_between_tokens():
    encoder = stack(batch_first=True, norm=False)
    x = np.random.default_rng(2).standard_normal((2, 5, 24)).astype(np.float32)
    padding = np.array([[True, False, False, True, False], [False] * 5])
    got = encoder(x, src_key_padding_mask=padding)
    np.testing.assert_allclose(got[0][~padding[0]], encoder(x[0][~padding[0]]), atol=5e-6)
    np.testing.assert_allclose(got[1], encoder(x[1]), atol=5e-6)


def test_what_one_call_cannot_do_runs_layer_by_layer():
    x = np.random.default_rng(2).standard_normal((7, 2, 24)).astype(np.float32)
    own = stack(activation=lambda y: functional.relu(y))
    named = stack(activation="relu")
    np.testing.assert_allclose(own(x), named(x), atol=5e-6)
    mixed = stack()
    mixed.layers[1].activation = "gelu"
    np.testing.assert_array_equal(mixed(x), one_by_one(mixed, x))
    assert np.abs(mixed(x) - named(x)).max() > 1e-3

    class Doubled(nn.TransformerEncoderLayer):
        def forward(self, *args, **options):
            return 2 * super().forward(*args, **options)

    doubled = nn.TransformerEncoder(Doubled(24, 4, 40), 1)
    doubled.load_state_dict(stack(1, norm=False).state_dict())
    np.testing.assert_array_equal(doubled(x), 2 * stack(1, norm=False)(x))


def test_a_new_weight_and_another_isa_reach_the_one_call():
    encoder, x = stack(), np.random.default_rng(2).standard_normal((7, 2, 24)).astype(np.float32)
    first = encoder(x)
    encoder.layers[2].linear1.weight = encoder.layers[2].linear1.weight * 2
    assert_same_bits(encoder(x), one_by_one(encoder, x))
    assert np.abs(encoder(x) - first).max() > 1e-3
    before = functional.get_isa()
    try:
        for isa in functional.available_isas():
            functional.set_isa(isa)
            assert_same_bits(encoder(x), one_by_one(encoder, x))
    finally:
        functional.set_isa(before)


def test_each_layer_has_parameters_of_its_own():
    nn.manual_seed(0)
    for made in (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12), 3),
        nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12), 3),
    ):
        np.testing.assert_array_equal(made.layers[0].linear1.weight, made.layers[1].linear1.weight)
        made.layers[1].linear1.weight = np.zeros((12, 8), np.float32)
        assert made.layers[0].linear1.weight.any() and made.layers[2].linear1.weight.any()
    fresh = nn.Transformer(8, 2, 2, 2, 12).encoder.layers
    assert (fresh[0].linear1.weight != fresh[1].linear1.weight).all()
    assert np.abs(fresh[0].linear1.weight).max() <= np.sqrt(6 / 20)


@pytest.mark.parametrize("num_layers", [0, 1, 5])
def test_depth(num_layers):
    x = np.random.default_rng(2).standard_normal((7, 2, 24)).astype(np.float32)
    encoder = stack(num_layers, norm=False)
    assert len(encoder.layers) == num_layers
    np.testing.assert_array_equal(encoder(x), one_by_one(encoder, x))
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(24, 4, 40), num_layers)
    assert decoder(x, x).shape == x.shape


# ---------------------------------------------------------------------------------------------------------------------
# Masks


@pytest.mark.parametrize("dtype", [np.float32, bool])
@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_causal_masks_are_recognised(dtype, size):
    mask = square_subsequent_mask(size, dtype)
    assert split_causal(mask, None) == (None, True)
    assert split_causal(mask, False) == (None, True)
    for i, j in {(0, 0), (size - 1, 0), (0, size - 1), (size // 2, size // 2)}:
        other = mask.copy()
        other[i, j] = not other[i, j] if dtype is bool else 1.0
        left, causal = split_causal(other, None)
        assert left is other and not causal
    assert split_causal(np.stack([mask] * 2), None)[1] is False
    assert split_causal(mask[:, :-1], None)[1] is False
    assert split_causal(None, None) == (None, False)


def test_causal_as_flag_or_mask():
    encoder, x = stack(), np.random.default_rng(2).standard_normal((7, 2, 24)).astype(np.float32)
    flag = encoder(x, is_causal=True)
    for mask in (nn.Transformer.generate_square_subsequent_mask(7), np.triu(np.ones((7, 7), bool), 1)):
        assert_same_bits(encoder(x, mask), flag)
        per_head = np.stack([mask] * 8)
        np.testing.assert_allclose(encoder(x, per_head), flag, atol=5e-6)
    for length in (1, 4):
        np.testing.assert_allclose(encoder(x[:length], is_causal=True), flag[:length], atol=5e-6)
    band = np.abs(np.arange(7) - np.arange(7)[:, None]) > 2
    np.testing.assert_allclose(
        encoder(x, band, is_causal=True), encoder(x, band | np.triu(np.ones((7, 7), bool), 1)), atol=5e-6
    )


def test_generate_square_subsequent_mask():
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    inf = np.inf
    np.testing.assert_array_equal(mask, [[0, -inf, -inf], [0, 0, -inf], [0, 0, 0]])
    assert mask.dtype == np.float32
    with pytest.raises(ValueError, match="sz"):
        nn.Transformer.generate_square_subsequent_mask(-1)


# ---------------------------------------------------------------------------------------------------------------------
# The decoder, and the whole


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_without_a_visible_memory_is_an_encoder(norm_first):
    """Values of 0 leave the residual alone; then a decoder layer is an encoder layer with one norm more."""
    nn.manual_seed(0)
    decoder = nn.TransformerDecoderLayer(24, 4, 40, norm_first=norm_first)
    encoder = nn.TransformerEncoderLayer(24, 4, 40, norm_first=norm_first)
    state = decoder.state_dict()
    encoder.load_state_dict(
        {name: state[name.replace("norm2", "norm3") if norm_first else name] for name in encoder.state_dict()}
    )
    x, memory = (np.random.default_rng(s).standard_normal((5, 2, 24)).astype(np.float32) for s in (1, 2))
    hidden = np.ones((2, 5), bool)
    got = decoder(x, memory, memory_key_padding_mask=hidden, tgt_is_causal=True)
    if norm_first:
        np.testing.assert_allclose(got, encoder(x, is_causal=True), atol=5e-6)
    else:
        # Weights of a fresh norm are 1 and 0: normalising twice is normalising once, but for eps.
        np.testing.assert_allclose(got, encoder(x, is_causal=True), atol=5e-5)


def test_custom_encoder_and_decoder():
    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, *args, **options):
            self.seen.append(options)
            return args[0]

    encoder, decoder = Echo(), Echo()
    model = nn.Transformer(8, 2, custom_encoder=encoder, custom_decoder=decoder)
    src, tgt, mask = np.zeros((5, 1, 8), np.float32), np.ones((3, 1, 8), np.float32), np.zeros((1, 5), bool)
    assert model(src, tgt, src_key_padding_mask=mask, memory_is_causal=True) is tgt
    assert encoder.seen == [{"mask": None, "src_key_padding_mask": mask, "is_causal": None}]
    assert decoder.seen[0]["memory_is_causal"] is True and decoder.seen[0]["memory_key_padding_mask"] is None
    assert not model.state_dict()


def test_bad_input():
    x = np.zeros((5, 2, 24), np.float32)
    encoder, model = stack(), nn.Transformer(24, 4, 1, 1, 40)
    for wrong in (x[..., :20], x[0, 0], x[None]):
        with pytest.raises(ValueError, match="src has shape"):
            encoder(wrong)
        with pytest.raises(ValueError, match="src has shape"):
            model(wrong, x)
    with pytest.raises(ValueError, match="tgt has shape"):
        model(x, x[:, 0])
    with pytest.raises(TypeError, match="float64"):
        encoder(x.astype(np.float64))
    with pytest.raises(ValueError, match="attn_mask"):
        encoder(x, np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match="key_padding_mask"):
        encoder(x, src_key_padding_mask=np.zeros((5, 2), bool))
    with pytest.raises(TypeError, match="attn_mask"):
        encoder(x, np.zeros((5, 5)))
    with pytest.raises(ValueError, match="batch"):
        model(x, np.zeros((5, 3, 24), np.float32))
    with pytest.raises(ValueError, match="copies"):
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), -1)


def test_copies_compute_the_same():
    encoder, x = stack(), np.random.default_rng(2).standard_normal((7, 2, 24)).astype(np.float32)
    expected = encoder(x)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert_same_bits(other(x), expected)
