"""integrations/torch.py: what it makes of every class, option and nesting computes what torch does (marker oracle)."""

from __future__ import annotations

import numpy as np
import pytest
from support import normal

from transformer_fast import nn

pytestmark = pytest.mark.oracle

BOUND = 1e-5


@pytest.fixture
def from_torch(torch):
    from transformer_fast.integrations import from_torch

    torch.manual_seed(0)
    # Fused layers of torch take any GELU for the exact one.
    torch.backends.mha.set_fastpath_enabled(False)
    yield from_torch
    torch.backends.mha.set_fastpath_enabled(True)


def arrays(value):
    """The arrays of a result, nested tuples laid flat."""
    if isinstance(value, (tuple, list)):
        return [array for item in value for array in arrays(item)]
    return [np.asarray(value.detach() if hasattr(value, "detach") else value)]


def trained(module):
    """The module in evaluation mode, with all parameters moved away from what they start with."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


def compare(from_torch, module, *inputs, **options):
    """Ours computes what torch computes, from arrays; ours."""
    import torch

    ours = from_torch(trained(module))
    tensors = [torch.from_numpy(x) for x in inputs]
    tensor_options = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    with torch.no_grad():
        expected = arrays(module(*tensors, **tensor_options))
    got = arrays(ours(*inputs, **options))
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=BOUND)
    assert list(ours.state_dict()) == [name for name, _ in module.named_parameters(remove_duplicate=False)]
    return ours


# Class -> variants of (arguments, options, shape of the input).
SIMPLE = {
    "Linear": [((6, 4), {}, (3, 6)), ((6, 4), {"bias": False}, (2, 3, 6))],
    "LayerNorm": [
        ((6,), {"eps": 1e-3}, (3, 6)),
        (((2, 6),), {}, (3, 2, 6)),
        ((6,), {"bias": False}, (3, 6)),
        ((6,), {"elementwise_affine": False}, (3, 6)),
    ],
    "RMSNorm": [((6,), {}, (3, 6)), ((6,), {"eps": 0.1}, (3, 6)), ((6,), {"elementwise_affine": False}, (3, 6))],
    "Conv1d": [
        ((4, 6, 3), {}, (2, 4, 11)),
        ((4, 6, 3), {"stride": 2, "padding": 1, "dilation": 2}, (2, 4, 11)),
        ((4, 6, 4), {"padding": "same", "groups": 2, "bias": False}, (4, 11)),
        ((4, 8, 3), {"padding": "valid", "groups": 4}, (2, 4, 11)),
    ],
    "Conv2d": [
        ((4, 6, (3, 2)), {}, (2, 4, 8, 9)),
        ((4, 6, 3), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}, (2, 4, 8, 9)),
        ((4, 4, (4, 3)), {"padding": "same", "groups": 4}, (4, 8, 9)),
    ],
    "ReLU": [((), {}, (3, 5)), ((True,), {}, (3, 5))],
    "GELU": [((), {}, (3, 5)), (("tanh",), {}, (3, 5))],
    "SiLU": [((), {}, (3, 5))],
    "Tanh": [((), {}, (3, 5))],
    "Sigmoid": [((), {}, (3, 5))],
    "Softmax": [((1,), {}, (3, 5, 2)), ((-1,), {}, (3, 5))],
    "Dropout": [((0.5,), {}, (3, 5))],
    "Identity": [((), {}, (3, 5))],
}
VARIANTS = [(name, *variant) for name, variants in SIMPLE.items() for variant in variants]


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), VARIANTS, ids=str)
def test_simple_classes(torch, from_torch, isa, name, arguments, options, shape):
    ours = compare(from_torch, getattr(torch.nn, name)(*arguments, **options), normal(*shape) + 0.0)
    assert type(ours).__name__ == name


def test_embedding(torch, from_torch):
    ours = compare(from_torch, torch.nn.Embedding(9, 4, padding_idx=-1), np.array([[1, 8], [0, 3]]))
    assert ours.padding_idx == 8


ATTENTIONS = [
    {},
    {"batch_first": True, "bias": False},
    {"add_zero_attn": True},
    {"add_bias_kv": True},
    {"kdim": 6, "vdim": 10},
    {"kdim": 6, "add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
]


@pytest.mark.parametrize("options", ATTENTIONS, ids=str)
def test_multihead_attention(torch, from_torch, options):
    key = normal(3, 5, options.get("kdim", 8), seed=1)
    value = normal(3, 5, options.get("vdim", 8), seed=2)
    query = normal(3, 5, 8) if options.get("batch_first") else normal(4, 5, 8)
    attention = torch.nn.MultiheadAttention(8, 2, 0.1, **options)
    compare(from_torch, attention, query, key, value)
    padding = np.zeros((3, 5) if options.get("batch_first") else (5, 3), bool)
    padding[:, -1] = True
    compare(from_torch, attention, query, key, value, key_padding_mask=padding, average_attn_weights=False)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}], ids=str
)
def test_recurrent(torch, from_torch, name, options):
    compare(from_torch, getattr(torch.nn, name)(6, 8, **options), normal(5, 3, 6))


def test_recurrent_with_projection(torch, from_torch):
    compare(from_torch, torch.nn.LSTM(6, 8, proj_size=3, num_layers=2, dropout=0.1), normal(5, 3, 6))


ACTIVATIONS = {
    "relu": lambda torch: "relu",
    "gelu": lambda torch: "gelu",
    "silu": lambda torch: torch.nn.functional.silu,
    "gelu by tanh": lambda torch: torch.nn.GELU("tanh"),
    "sigmoid": lambda torch: torch.nn.Sigmoid(),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer(torch, from_torch, activation, norm_first):
    options = {"activation": ACTIVATIONS[activation](torch), "norm_first": norm_first}
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, layer_norm_eps=1e-3, **options)
    compare(from_torch, layer, normal(3, 5, 8))
    compare(from_torch, layer, normal(3, 5, 8), src_mask=np.triu(np.ones((5, 5), bool), 1))


def test_encoder_layer_without_bias(torch, from_torch):
    compare(from_torch, torch.nn.TransformerEncoderLayer(8, 2, 12, bias=False), normal(5, 3, 8))


def test_norms_of_a_layer_may_differ(torch, from_torch):
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12)
    layer.norm2 = torch.nn.LayerNorm(8, eps=0.5)
    assert compare(from_torch, layer, normal(5, 3, 8)).norm2.eps == 0.5
    layer.norm2 = torch.nn.Linear(8, 8)
    with pytest.raises(NotImplementedError, match=r"module.norm2 became a Linear; needed: LayerNorm"):
        from_torch(layer)


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layer(torch, from_torch, norm_first):
    options = {"activation": torch.nn.functional.silu, "norm_first": norm_first, "bias": not norm_first}
    layer = torch.nn.TransformerDecoderLayer(8, 2, 12, batch_first=True, **options)
    tgt, memory = normal(3, 4, 8), normal(3, 6, 8, seed=1)
    compare(from_torch, layer, tgt, memory)
    padding = np.arange(6) >= np.array([[6], [2], [5]])
    causal = np.triu(np.ones((4, 4), bool), 1)
    compare(from_torch, layer, tgt, memory, tgt_mask=causal, memory_key_padding_mask=padding)


@pytest.mark.parametrize("norm", [False, True])
def test_stacks_of_layers(torch, from_torch, norm):
    T = torch.nn
    x, memory = normal(3, 4, 8), normal(3, 6, 8, seed=1)
    final = (T.RMSNorm(8) if norm else None,)
    encoder = T.TransformerEncoder(T.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2, *final)
    ours = compare(from_torch, encoder, x)
    assert len(ours.layers) == ours.num_layers == 2
    compare(from_torch, encoder, x, mask=np.triu(np.ones((4, 4), bool), 1))
    decoder = T.TransformerDecoder(T.TransformerDecoderLayer(8, 2, 12, batch_first=True), 3, *final)
    compare(from_torch, decoder, x, memory)
    encoder.layers[1] = encoder.layers[0]
    shared = compare(from_torch, encoder, x)
    assert shared.layers[0] is shared.layers[1]


@pytest.mark.parametrize("batch_first", [False, True])
def test_whole_transformer(torch, from_torch, batch_first):
    model = torch.nn.Transformer(8, 2, 2, 1, 12, activation="gelu", batch_first=batch_first, layer_norm_eps=1e-3)
    x, tgt = normal(3, 5, 8), normal(3, 4, 8, seed=1)
    if not batch_first:
        x, tgt = x.swapaxes(0, 1).copy(), tgt.swapaxes(0, 1).copy()
    causal = torch.nn.Transformer.generate_square_subsequent_mask(4).numpy()
    padding = np.arange(5) >= np.array([[5], [2], [4]])
    compare(from_torch, model, x, tgt)
    compare(from_torch, model, x, tgt, tgt_mask=causal, memory_key_padding_mask=padding)


def test_transformer_with_an_encoder_of_ones_own(torch, from_torch):
    T = torch.nn

    class Plain(T.Module):
        def __init__(self):
            super().__init__()
            self.linear = T.Linear(8, 8)

        def forward(self, src, **masks):
            return self.linear(src)

    class Ours(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear = linear

        def forward(self, src, **masks):
            return self.linear(src)

    model = trained(T.Transformer(8, 2, 1, 1, 12, custom_encoder=Plain()))
    ours = from_torch(model, custom={Plain: lambda module, translate: Ours(translate(module.linear))})
    x, tgt = normal(5, 3, 8), normal(4, 3, 8, seed=1)
    expected = model(torch.from_numpy(x), torch.from_numpy(tgt)).detach().numpy()
    np.testing.assert_allclose(ours(x, tgt), expected, atol=BOUND)


def test_nested_containers(torch, from_torch):
    T = torch.nn
    convolutions = T.Sequential(T.Conv1d(4, 8, 3, padding=1), T.GELU(), T.Dropout(), T.Conv1d(8, 6, 1, stride=2))
    rest = {"up": T.Linear(5, 8), "block": T.Sequential(T.LayerNorm(8), T.ReLU(), T.Identity()), "end": T.Softmax(-1)}
    model = T.Sequential()
    model.add_module("features", convolutions)
    for name, module in rest.items():
        model.add_module(name, module)
    ours = compare(from_torch, model, normal(2, 4, 9))
    assert isinstance(ours.features, nn.Sequential) and type(ours.block[0]) is nn.LayerNorm


def test_lists_and_dicts_of_modules(torch, from_torch):
    T = torch.nn
    blocks = trained(T.ModuleList([T.ModuleDict({"a": T.Linear(3, 2), "b": T.Embedding(4, 3)}), T.Tanh()]))
    ours = from_torch(blocks)
    assert type(ours) is nn.ModuleList and type(ours[0]) is nn.ModuleDict and type(ours[1]) is nn.Tanh
    x = normal(2, 3)
    expected = blocks[0]["a"](torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours[0]["a"](x), expected, atol=BOUND)
    assert list(ours.state_dict()) == list(blocks.state_dict())


def test_what_is_shared_stays_shared(torch, from_torch):
    T = torch.nn
    layer = T.Linear(4, 4)
    compare(from_torch, T.Sequential(layer, T.Tanh(), layer), normal(3, 4))
    tied = T.ModuleDict({"table": T.Embedding(9, 4), "head": T.Linear(4, 9, bias=False)})
    tied["head"].weight = tied["table"].weight
    ours = from_torch(tied)
    assert np.shares_memory(ours["table"].weight, ours["head"].weight)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_types_of_the_weights(torch, from_torch, name):
    mlp = trained(torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LayerNorm(8))).to(getattr(torch, name))
    ours = from_torch(mlp)
    x = normal(3, 6)
    expected = mlp.to(torch.float32)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(x), expected, atol=BOUND)
    assert {array.dtype for array in ours.parameters()} == {np.dtype(np.float32)}


def test_weights_are_copied(torch, from_torch):
    linear = torch.nn.Linear(6, 4)
    ours = from_torch(linear)
    before, x = ours.weight.copy(), normal(3, 6)
    result = ours(x)
    with torch.no_grad():
        linear.weight.zero_()
    assert np.array_equal(ours.weight, before) and np.array_equal(ours(x), result)
    with pytest.raises(ValueError, match="read-only"):
        ours.weight[:] = 0


def classifier(torch):
    """A user's own module, with a forward that nobody can read off its parts."""

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.encoder(x).mean(1))

    return Pooled


def test_unknown_classes_are_named_with_their_path(torch, from_torch):
    Pooled = classifier(torch)
    with pytest.raises(TypeError) as caught:
        from_torch(torch.nn.Sequential(torch.nn.ModuleList([Pooled()])))
    text = str(caught.value)
    assert text.startswith("module.0.0 is a ") and "Pooled, which from_torch does not know" in text
    assert "Linear, " in text and "MultiheadAttention" in text and "custom={Pooled: factory}" in text
    with pytest.raises(TypeError, match="module is a torch.nn.modules.batchnorm.BatchNorm1d"):
        from_torch(torch.nn.BatchNorm1d(3))
    with pytest.raises(TypeError, match="module is a dict; needed: a torch.nn.Module"):
        from_torch({})


def test_custom_classes(torch, from_torch):
    class Ours(nn.Module):
        def __init__(self, encoder, head):
            super().__init__()
            self.encoder, self.head = encoder, head

        def forward(self, x):
            return self.head(self.encoder(x).mean(1))

    Pooled = classifier(torch)
    custom = {Pooled: lambda module, translate: Ours(translate(module.encoder), translate(module.head))}
    model = trained(torch.nn.Sequential(Pooled(), torch.nn.Tanh()))
    ours = from_torch(model, custom=custom)
    x = normal(2, 5, 8)
    np.testing.assert_allclose(ours(x), model(torch.from_numpy(x)).detach().numpy(), atol=BOUND)
    with pytest.raises(TypeError, match=r"custom\[Pooled\] gave a int for module.0"):
        from_torch(model, custom={Pooled: lambda module, translate: 3})
    # Modules that a factory makes are gone after the call; the next one may stand where they stood.
    widths = iter(range(2, 50))
    fresh = {Pooled: lambda module, translate: translate(torch.nn.Linear(3, next(widths)))}
    made = from_torch(torch.nn.ModuleList(Pooled() for _ in range(40)), custom=fresh)
    assert [linear.out_features for linear in made] == list(range(2, 42))
    shouting = from_torch(torch.nn.ReLU(), custom={torch.nn.ReLU: lambda module, translate: nn.SiLU()})
    assert type(shouting) is nn.SiLU


def test_subclasses_that_compute_the_same_are_known_and_others_not(torch, from_torch):
    class Sized(torch.nn.Linear):
        def __init__(self, width):
            super().__init__(width, width)

        def describe(self):
            return "mine"

    class Scaled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Padded(torch.nn.Conv1d):
        def _conv_forward(self, input, weight, bias):
            return super()._conv_forward(input * 2, weight, bias)

    compare(from_torch, Sized(4), normal(3, 4))
    for module in (Scaled(4, 4), Padded(4, 4, 3)):
        with pytest.raises(TypeError, match="does not know"):
            from_torch(module)


def test_options_that_are_not_supported_are_refused_with_their_path(torch, from_torch):
    T = torch.nn
    refused = [
        (T.Embedding(4, 3, max_norm=1.0), r"module.0 \(Embedding\): max_norm=1.0"),
        (T.Conv1d(4, 4, 3, padding_mode="circular"), r"module.0 \(Conv1d\): padding_mode='circular'"),
        (T.TransformerEncoderLayer(8, 2, activation=lambda x: x), "activation is <function"),
    ]
    for module, text in refused:
        with pytest.raises(NotImplementedError, match=text):
            from_torch(T.Sequential(module))
    with pytest.raises(TypeError, match=r"module \(Softmax\): dim is None"):
        from_torch(T.Softmax())
    hooked = T.Linear(3, 3)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(NotImplementedError, match=r"module.0 \(Linear\) has forward hooks"):
        from_torch(T.Sequential(hooked))
    with pytest.raises(TypeError, match="module.weight is on the meta device"):
        from_torch(T.Linear(3, 3, device="meta"))


def same(from_torch, module, *inputs):
    """Ours computes what torch computes in evaluation mode, and torch's module stays as it was; ours."""
    import torch

    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    ours = from_torch(module)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    with torch.no_grad():
        expected = arrays(module.eval()(*map(torch.from_numpy, inputs)))
    for one, other in zip(arrays(ours(*inputs)), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=BOUND)
    return ours


def twice(torch):
    class Twice(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    return Twice()


# Changes of a module's weight (or of another parameter).
REWEIGHTED = {
    "weight_norm": lambda torch, m, name: torch.nn.utils.parametrizations.weight_norm(m, name),
    "spectral_norm": lambda torch, m, name: torch.nn.utils.parametrizations.spectral_norm(m, name),
    "of one's own": lambda torch, m, name: torch.nn.utils.parametrize.register_parametrization(m, name, twice(torch)),
    "older weight_norm": lambda torch, m, name: torch.nn.utils.weight_norm(m, name),
    "older spectral_norm": lambda torch, m, name: torch.nn.utils.spectral_norm(m, name),
    "pruning": lambda torch, m, name: torch.nn.utils.prune.random_unstructured(m, name, 0.5),
    "pruning of rows": lambda torch, m, name: torch.nn.utils.prune.ln_structured(m, name, 0.5, 2, 0),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("change", REWEIGHTED)
def test_weights_that_are_computed(torch, from_torch, change):
    T, change = torch.nn, REWEIGHTED[change]
    import torch.nn.utils.prune  # noqa: F401

    def moved(module):
        """As after some training: what the forward sees is not what stood there when the change was made."""
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        return module.train()

    linear = moved(change(torch, T.Linear(6, 4), "weight"))
    ours = same(from_torch, T.Sequential(linear, T.Tanh(), T.Linear(4, 4)), normal(3, 6))
    assert list(ours.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    same(from_torch, moved(change(torch, T.Conv1d(4, 6, 3), "weight")), normal(2, 4, 9))
    same(from_torch, moved(change(torch, T.Conv2d(4, 6, 3, bias=False), "weight")), normal(2, 4, 7, 8))
    same(from_torch, moved(change(torch, T.Embedding(9, 4), "weight")), np.array([[1, 8], [0, 3]]))
    layer = T.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    change(torch, layer.linear1, "weight")
    change(torch, layer.self_attn, "in_proj_weight")
    same(from_torch, moved(layer), normal(3, 5, 8))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_several_changes_of_weights(torch, from_torch):
    import torch.nn.utils.prune as prune

    T, x = torch.nn, normal(3, 6)
    both = prune.random_unstructured(prune.random_unstructured(T.Linear(6, 4), "weight", 0.4), "bias", 0.5)
    same(from_torch, prune.l1_unstructured(both, "weight", 3), x)
    chained = T.Linear(6, 4)
    for _ in range(2):
        T.utils.parametrize.register_parametrization(chained, "weight", twice(torch))
    T.utils.parametrize.register_parametrization(chained, "bias", twice(torch))
    same(from_torch, chained, x)
    same(from_torch, T.utils.parametrizations.orthogonal(T.Linear(6, 4)), x)
    on_top = prune.random_unstructured(T.utils.weight_norm(T.Linear(6, 4)), "weight_v", 0.4)
    with pytest.raises(NotImplementedError, match=r"\(Linear\) has forward hooks, .*WeightNorm, RandomUnstructured"):
        from_torch(on_top)
    removed = T.utils.remove_weight_norm(T.utils.weight_norm(T.Linear(6, 4)))
    same(from_torch, removed, x)


def test_what_is_set_on_an_object(torch, from_torch):
    T = torch.nn
    linear, convolution = T.Linear(3, 3), T.Conv1d(4, 4, 3)
    linear.forward = lambda x: x
    convolution._conv_forward = lambda input, weight, bias: input
    for module, name in ((linear, "forward"), (convolution, "_conv_forward")):
        with pytest.raises(NotImplementedError, match=rf"module.1 .{type(module).__name__}. has {name} set on the ob"):
            from_torch(T.Sequential(T.Tanh(), module))
    whole = T.Sequential(T.Tanh())
    whole.forward = lambda x: x
    with pytest.raises(NotImplementedError, match=r"module \(Sequential\) has forward set on the object"):
        from_torch(whole)


def test_hooks(torch, from_torch):
    T, x = torch.nn, normal(3, 4)

    def doubled(module, inputs):
        return (2 * inputs[0],)

    hooked = T.Linear(4, 4)
    hooked.register_forward_pre_hook(doubled)
    with pytest.raises(NotImplementedError, match=r"module.0 .Linear. has forward hooks.*doubled; needed"):
        from_torch(T.Sequential(hooked))
    with pytest.raises(NotImplementedError, match="hooks"):
        from_torch(T.Sequential(hooked), custom={T.Linear: lambda module, translate: nn.Linear(4, 4)})
    with_arguments = T.Linear(4, 4)
    with_arguments.register_forward_hook(lambda module, args, kwargs, output: output, with_kwargs=True)
    with pytest.raises(NotImplementedError, match="has forward hooks"):
        from_torch(with_arguments)
    handle = T.modules.module.register_module_forward_pre_hook(doubled)
    try:
        with pytest.raises(NotImplementedError, match="torch has forward hooks for all modules .*doubled"):
            from_torch(T.Linear(4, 4))
    finally:
        handle.remove()
    # What changes no result.
    plain = T.Linear(4, 4)
    plain.register_full_backward_hook(lambda module, before, after: None)
    plain.register_state_dict_post_hook(lambda *_: None)
    plain.register_buffer("seen", torch.zeros(3))
    same(from_torch, plain, x)


def test_parameters_that_ours_does_not_have_are_not_forgotten(torch, from_torch):
    linear = torch.nn.Linear(3, 3)
    linear.gain = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(NotImplementedError, match=r"has parameters \['bias', 'gain', 'weight'\]"):
        from_torch(linear)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12)
    layer.norm2 = None
    with pytest.raises(NotImplementedError, match=r"needed: .*'norm2'"):
        from_torch(layer)
