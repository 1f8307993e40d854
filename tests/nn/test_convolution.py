"""nn/convolution.py against sums written out in float64."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from support import assert_close, normal

from transformer_fast import functional, nn
from transformer_fast.nn import convolution


def plain(conv, x):
    """Conv1d or Conv2d in float64, place by place."""
    axes = len(conv.kernel_size)
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        pads = [(total // 2, total - total // 2) for total in totals]
    else:
        pads = [(0, 0)] * axes if conv.padding == "valid" else [(n, n) for n in conv.padding]
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    steps = list(zip(x.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True))
    places = [range((n - d * (k - 1) - 1) // s + 1) for n, k, s, d in steps]
    result = np.zeros((len(x), conv.out_channels, *map(len, places)))
    inputs, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    for place in itertools.product(*places):
        window = x[
            (..., *(slice(p * s, p * s + d * (k - 1) + 1, d) for p, (_, k, s, d) in zip(place, steps, strict=True)))
        ]
        for out in range(conv.out_channels):
            first = out // outputs * inputs
            product = (window[:, first : first + inputs] * conv.weight[out]).sum(axis=tuple(range(1, axes + 2)))
            result[(slice(None), out, *place)] = product + (0 if conv.bias is None else conv.bias[out])
    return result


ONE_AXIS = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": "same"},
    {"padding": "same", "dilation": 3},
    {"padding": "valid", "bias": False},
    {"dilation": 2, "stride": 3},
    {"groups": 2},
    {"groups": 6, "padding": 2},  # one kernel a channel
]


@pytest.mark.parametrize("options", ONE_AXIS, ids=str)
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_one_axis(isa, options, kernel):
    nn.manual_seed(0)
    conv = nn.Conv1d(6, 12, kernel, **options)
    x = normal(2, 6, 17)
    assert_close(conv(x), plain(conv, x), 2e-6)
    assert_close(conv(x[1]), plain(conv, x)[1], 2e-6)


TWO_AXES = [
    {},
    {"stride": (2, 1), "padding": (0, 2)},
    {"padding": "same", "dilation": (1, 2)},
    {"groups": 3, "stride": 2},
    {"groups": 6, "padding": 1, "bias": False},
]


@pytest.mark.parametrize("options", TWO_AXES, ids=str)
def test_two_axes(isa, options):
    nn.manual_seed(0)
    conv = nn.Conv2d(6, 6, (3, 2), **options)
    x = normal(2, 6, 7, 9)
    assert_close(conv(x), plain(conv, x), 2e-6)
    assert_close(conv(x[0]), plain(conv, x)[0], 2e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_activation_is_applied_to_the_result(groups):
    conv = nn.Conv1d(4, 4, 3, groups=groups)
    x = normal(2, 4, 9)
    for name in ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh"):
        plainly = np.ascontiguousarray(conv(x))
        expected = functional.gelu(plainly, "tanh") if name == "gelu_tanh" else getattr(functional, name)(plainly)
        np.testing.assert_allclose(conv(x, activation=name), expected, atol=1e-6)
    with pytest.raises(ValueError, match="activation is 'swish'"):
        conv(x, activation="swish")


def test_input_in_any_layout_and_without_batch_rows():
    conv = nn.Conv2d(3, 4, 3)
    x = normal(2, 3, 8, 10)
    expected = conv(x)
    assert np.array_equal(conv(np.asfortranarray(x)), expected)
    assert np.array_equal(conv(np.ascontiguousarray(x[..., ::-1])[..., ::-1]), expected)
    assert conv(x[:0]).shape == (0, 4, 6, 8)


@pytest.mark.parametrize("block", [1, 500, 3000])
def test_blocks_of_places_do_not_change_a_bit(monkeypatch, block):
    one, two = nn.Conv1d(4, 6, 3, groups=2, padding=1), nn.Conv2d(3, 5, 3, stride=2)
    x, image = normal(5, 4, 11), normal(3, 3, 15, 12)
    expected = one(x), two(image)
    monkeypatch.setattr(convolution, "_BLOCK", block)
    assert np.array_equal(one(x), expected[0]) and np.array_equal(two(image), expected[1])


def test_a_new_weight_is_seen_and_copies_compute_the_same():
    conv, x = nn.Conv1d(2, 3, 3), normal(1, 2, 9)
    before = conv(x)
    conv.weight = 2 * conv.weight
    assert not np.array_equal(conv(x), before)
    assert np.array_equal(copy.deepcopy(conv)(x), conv(x))


def test_what_does_not_fit_is_named():
    conv = nn.Conv1d(4, 8, 3)
    with pytest.raises(ValueError, match=r"input has shape \(2, 5, 9\); needed: .* 4 channels"):
        conv(normal(2, 5, 9))
    with pytest.raises(ValueError, match="axes of at least"):
        conv(normal(2, 4, 2))
    with pytest.raises(TypeError, match="input has dtype float64"):
        conv(np.zeros((2, 4, 9)))
    with pytest.raises(ValueError, match="groups a divisor of both"):
        nn.Conv1d(4, 8, 3, groups=3)
    with pytest.raises(ValueError, match="needed: stride 1"):
        nn.Conv1d(4, 8, 3, stride=2, padding="same")
    with pytest.raises(ValueError, match="padding is 'full'"):
        nn.Conv1d(4, 8, 3, padding="full")
    with pytest.raises(ValueError, match="kernel_size is"):
        nn.Conv2d(4, 8, (3, 3, 3))
    with pytest.raises(ValueError, match="stride is 0"):
        nn.Conv2d(4, 8, 3, stride=0)
    with pytest.raises(NotImplementedError, match="padding_mode='circular'"):
        nn.Conv2d(4, 8, 3, padding_mode="circular")


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 3, 9, 14), (0, 3, 8, 12)])
def test_patches_are_a_convolution_flattened(isa, shape):
    nn.manual_seed(0)
    embed, conv = nn.PatchEmbedding(3, 5, (4, 6)), nn.Conv2d(3, 5, (4, 6), stride=(4, 6))
    conv.load_state_dict(embed.state_dict())
    x = normal(*shape)
    expected = conv(x).reshape(len(x), 5, 4).swapaxes(1, 2)
    assert_close(embed(x), expected.astype(np.float64), 2e-6)
    out = np.empty((len(x), 4, 5), np.float32)
    assert embed(x, out=out) is out and np.array_equal(out, embed(x))


def test_an_image_smaller_than_a_patch_is_refused():
    embed = nn.PatchEmbedding(3, 5, 4)
    with pytest.raises(ValueError, match="at least 4"):
        embed(normal(1, 3, 3, 8))
    with pytest.raises(ValueError, match="3 channels|B, 3"):
        embed(normal(1, 4, 8, 8))
