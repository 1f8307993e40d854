"""nn/transformer.py against the same layer written in plain float64, and against torch's own numbers (golden)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import assert_close

from transformer_fast import functional, nn, reference

GOLDEN = Path(__file__).parent.parent / "golden" / "nn.npz"


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
