"""integrations/huggingface.py: models of transformers give with our attention what they give with their own."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.oracle

BOUND = 1e-5
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
GROUPED = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0}

# Model class -> configuration; each with something that another one does not have.
MODELS = {
    "BertModel": SIZES,
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60},
    "LlamaForCausalLM": GROUPED,
    "MistralForCausalLM": {**GROUPED, "sliding_window": 4},
    "Gemma2ForCausalLM": {**GROUPED, "head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 2.0},
    "GptOssForCausalLM": {
        **GROUPED,
        "head_dim": 8,
        "sliding_window": 4,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
    "T5ForConditionalGeneration": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": 60,
    },
}
DECODERS = [name for name in MODELS if name.endswith(("LMHeadModel", "CausalLM"))]


@pytest.fixture(scope="module")
def name():
    pytest.importorskip("transformers")
    from transformer_fast.integrations import register_attention

    return register_attention()


def make(model: str):
    """A small model with random weights, in evaluation mode, with transformers' plain attention."""
    import torch
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, model)
    made = cls(cls.config_class(**MODELS[model])).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    made.set_attn_implementation("eager")
    return made


def inputs(model: str):
    """Three texts of 9, 5 and 1 tokens, padded in front for those that go on writing."""
    import torch

    ids = torch.from_numpy(np.random.default_rng(0).integers(1, 60, (3, 9)))
    mask = torch.arange(9) < torch.tensor([[9], [5], [1]])
    mask = (mask.flip(1) if model in DECODERS else mask).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def result(model, **given):
    import torch

    if "T5" in type(model).__name__:
        given["decoder_input_ids"] = given["input_ids"][:, :4]
    with torch.no_grad():
        return model(**given)[0]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_models(torch, name, model, padded):
    made, given = make(model), inputs(model)
    if not padded:
        given = {"input_ids": torch.where(given["attention_mask"] > 0, given["input_ids"], 7)}
    expected = result(made, **given)
    made.set_attn_implementation(name)
    got = result(made, **given)
    seen = given["attention_mask"].bool() if padded and "T5" not in model else torch.ones(expected.shape[:2]).bool()
    np.testing.assert_allclose(got[seen], expected[seen], rtol=0, atol=BOUND)


def test_the_attention_is_ours(torch, name, monkeypatch):
    from transformer_fast.integrations import huggingface

    calls, attend = [], huggingface.F.scaled_dot_product_attention

    def counted(*args, **options):
        calls.append(options)
        return attend(*args, **options)

    monkeypatch.setattr(huggingface.F, "scaled_dot_product_attention", counted)
    made = make("Gemma2ForCausalLM")
    made.set_attn_implementation(name)
    result(made, **inputs("Gemma2ForCausalLM"))
    assert [options["softcap"] for options in calls] == [2.0, 2.0] and all(options["enable_gqa"] for options in calls)


@pytest.mark.parametrize("model", DECODERS)
def test_writing_with_a_cache(torch, name, model):
    made, given = make(model), inputs(model)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    expected = made.generate(**given, **options)
    made.set_attn_implementation(name)
    assert torch.equal(made.generate(**given, **options), expected)


@pytest.fixture
def attend(name):
    from transformer_fast.integrations.huggingface import attention_forward

    return attention_forward


def operands(torch, dtype="float32", Lq=5):
    torch.manual_seed(0)
    shapes = [(2, 4, Lq, 8), (2, 2, 7, 8), (2, 2, 7, 6)]
    return [torch.randn(*shape).to(getattr(torch, dtype)) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("bias", [False, True])
def test_types_masks_and_weights(torch, attend, dtype, mask, bias):
    query, key, value = operands(torch, dtype)
    torch.manual_seed(1)
    masks = {None: None, "bool": torch.rand(2, 1, 5, 7) > 0.4, "float": torch.randn(2, 1, 5, 7).to(query.dtype)}
    given = masks[mask]
    if mask == "bool":
        given[..., 0] = True
    position_bias = torch.randn(1, 4, 5, 7).to(query.dtype) if bias else None
    output, weights = attend(
        torch.nn.Module(),
        query,
        key,
        value,
        given,
        scaling=0.5,
        is_causal=True,
        position_bias=position_bias,
        output_attentions=True,
    )
    scores = 0.5 * query.double() @ key.double().repeat_interleave(2, 1).mT
    if bias:
        scores += position_bias
    if mask == "float":
        scores += given
    hidden = ~torch.ones(5, 7, dtype=torch.bool).tril() if mask is None else ~given if mask == "bool" else None
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    expected = scores.softmax(-1)
    bound = {"float32": 1e-6, "float64": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    assert output.dtype == query.dtype and output.is_contiguous() and output.shape == (2, 5, 4, 6)
    torch.testing.assert_close(weights.double(), expected, rtol=0, atol=bound)
    mixed = (expected @ value.double().repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(output.double(), mixed, rtol=0, atol=2 * bound)


def test_when_order_and_window_apply(torch, attend):
    query, key, value = operands(torch)
    module = torch.nn.Module()
    full, _ = attend(module, query, key, value, None, is_causal=False)
    causal, _ = attend(module, query, key, value, None)  # a module that says nothing is causal
    assert not torch.equal(full, causal)
    module.is_causal = False
    assert torch.equal(attend(module, query, key, value, None)[0], full)
    everything = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    torch.testing.assert_close(attend(module, query, key, value, everything, is_causal=True)[0], full)
    last, _ = attend(module, query[:, :, 4:], key, value, None, is_causal=True)
    torch.testing.assert_close(last, full[:, 4:])
    windowed, _ = attend(module, query, key, value, None, is_causal=True, sliding_window=2)
    rows, columns = torch.arange(5)[:, None], torch.arange(7)
    band = (columns <= rows) & (columns > rows - 2)
    torch.testing.assert_close(windowed, attend(module, query, key, value, band)[0])


def test_what_is_refused(torch, attend):
    query, key, value = operands(torch)
    module = torch.nn.Module()
    with pytest.raises(ValueError, match="dropout_p"):
        attend(module, query, key, value, None, dropout=0.1)
    with pytest.raises(RuntimeError, match=r"needed: torch.no_grad\(\)"):
        attend(module, query.requires_grad_(), key, value, None)
    query = query.detach()
    with pytest.raises(ValueError, match="needed: the CPU"):
        attend(module, query.to("meta"), key, value, None)
    with pytest.raises(ValueError, match="cache is given"):
        attend(module, query, key, value, None, cache=object())
