"""Live comparisons (marker `oracle`) of decoders and their generation with transformers, in eager float32."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from decoder_cases import TOLERANCE
from expert_cases import write_four_bits

from transformer_fast import load_model
from transformer_fast.models.gpt2 import GPT2Config, GPT2LMHeadModel

pytestmark = pytest.mark.oracle

V = 50
GATED = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
GPT2 = {"vocab_size": V, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 2, "bos_token_id": 0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16, "rope_theta": 500000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [1.5, 2.0, 4.0],
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}
# Of heads of 8 columns, half of which are rotated; the longest texts of these tests need the long factors.
PHI3 = GATED | {"hidden_size": 32, "partial_rotary_factor": 0.5, "sliding_window": 6}
PHI3_LONG = PHI3 | {
    "original_max_position_embeddings": 9,
    "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0, 1.3], "long_factor": [1.5, 4.0]},
}
GRANITE = {"embedding_multiplier": 3.0, "logits_scaling": 0.5, "residual_multiplier": 0.4, "attention_multiplier": 0.2}
NEOX = {name: value for name, value in GATED.items() if name != "num_key_value_heads"} | {"hidden_size": 32}
GPTJ = GPT2 | {"rotary_dim": 4}
MOE = GATED | {"num_experts_per_tok": 2, "num_experts": 5, "moe_intermediate_size": 12, "norm_topk_prob": True}
GPT_OSS = GATED | {"num_local_experts": 5, "num_experts_per_tok": 3, "head_dim": 8, "sliding_window": 4}
TYPES = ["full_attention", "sliding_attention", "sliding_attention"]
CASES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2 gelu": ("GPT2LMHeadModel", "GPT2Config", GPT2 | {"n_head": 4, "activation_function": "gelu", "n_inner": 7}),
    "gpt2 unscaled": ("GPT2LMHeadModel", "GPT2Config", GPT2 | {"scale_attn_weights": False}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", GATED),
    "llama all heads": ("LlamaForCausalLM", "LlamaConfig", GATED | {"num_key_value_heads": 4, "mlp_bias": True}),
    "llama one kv head": ("LlamaForCausalLM", "LlamaConfig", GATED | {"num_key_value_heads": 1, "head_dim": 14}),
    "llama 3": ("LlamaForCausalLM", "LlamaConfig", GATED | {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama yarn": ("LlamaForCausalLM", "LlamaConfig", GATED | {"rope_parameters": YARN}),
    "llama longrope": ("LlamaForCausalLM", "LlamaConfig", GATED | {"rope_parameters": LONGROPE}),
    "llama dynamic": (
        "LlamaForCausalLM",
        "LlamaConfig",
        GATED | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "mistral": ("MistralForCausalLM", "MistralConfig", GATED | {"sliding_window": 5}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", GATED),
    "qwen2 windows": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        GATED | {"use_sliding_window": True, "sliding_window": 3, "layer_types": TYPES},
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", GATED | {"head_dim": 10, "attention_bias": True}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", GATED | {"head_dim": 8, "attention_bias": True}),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        GATED | {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 10, "attn_logit_softcapping": 1.5},
    ),
    "gemma2 plain": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        GATED | {"head_dim": 8, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GATED | {"head_dim": 8, "sliding_window": 4}),
    "gemma3 types": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        GATED | {"head_dim": 8, "sliding_window": 4, "layer_types": TYPES, "final_logit_softcapping": 3.0},
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", PHI3),
    "phi3 longrope": ("Phi3ForCausalLM", "Phi3Config", PHI3_LONG),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", GATED | {"attention_bias": True}),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", GATED | {"no_rope_layer_interval": 2, "attention_bias": True}),
    "smollm3 windows": (
        "SmolLM3ForCausalLM",
        "SmolLM3Config",
        GATED | {"no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 4, "mlp_bias": True},
    ),
    "granite": ("GraniteForCausalLM", "GraniteConfig", GATED | GRANITE | {"mlp_bias": True, "attention_bias": True}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", NEOX),
    "gpt_neox in turn": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        NEOX | {"use_parallel_residual": False, "attention_bias": False, "rotary_pct": 0.75, "hidden_act": "gelu_new"},
    ),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", GATED | {"sliding_window": 5}),
    "starcoder2 no bias": ("Starcoder2ForCausalLM", "Starcoder2Config", GATED | {"use_bias": False}),
    "phi": ("PhiForCausalLM", "PhiConfig", GATED | {"hidden_size": 32}),
    "phi norms": (
        "PhiForCausalLM",
        "PhiConfig",
        GATED | {"hidden_size": 32, "qk_layernorm": True, "partial_rotary_factor": 0.75},
    ),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", GPTJ),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", MOE),
    "qwen3_moe some layers": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        MOE
        | {"norm_topk_prob": False, "mlp_only_layers": [1], "attention_bias": True}
        | {"use_sliding_window": True, "sliding_window": 4, "num_experts_per_tok": 3},
    ),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", GATED | {"num_local_experts": 4}),
    "mixtral windows": (
        "MixtralForCausalLM",
        "MixtralConfig",
        GATED | {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 4, "hidden_act": "gelu"},
    ),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", GPT_OSS),
    "gpt_oss clamped": (
        "GptOssForCausalLM",
        "GptOssConfig",
        GPT_OSS
        | {"swiglu_alpha": 0.8, "swiglu_limit": 0.3, "attention_bias": False, "layer_types": TYPES}
        | {"rope_parameters": YARN},
    ),
    "gptj relu": ("GPTJForCausalLM", "GPTJConfig", GPTJ | {"n_inner": 7, "activation_function": "relu"}),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Case -> (transformers' model, ours from its folder), made when asked for."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    made = {}

    def pair(case):
        if case not in made:
            model_class, config_class, fields = CASES[case]
            torch.manual_seed(0)
            theirs = getattr(transformers, model_class)(getattr(transformers, config_class)(**fields)).eval()
            for parameter in theirs.parameters():
                parameter.data += torch.randn_like(parameter) * 0.15
            theirs.set_attn_implementation("eager")
            folder = tmp_path_factory.mktemp("model")
            theirs.save_pretrained(folder)
            made[case] = theirs, load_model(folder)
        return made[case]

    return pair


def close(got, expected):
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)


def masks(B, L):
    """No mask, padding on the left, on the right, on both sides."""
    left, right, both = (np.ones((B, L), np.int64) for _ in range(3))
    left[0, : L - 1], left[1, :3] = 0, 0
    right[0, 1:], right[2, -2:] = 0, 0
    both[0, :2], both[1, -4:], both[2, 0], both[2, -1] = 0, 0, 0, 0
    return [None, left, right, both]


@pytest.mark.parametrize("case", CASES)
def test_outputs(torch, pairs, case):
    theirs, ours = pairs(case)
    ids = np.random.default_rng(1).integers(0, V, (3, 11))
    for mask in masks(3, 11):
        tokens = np.ones((3, 11), bool) if mask is None else mask.astype(bool)
        given = None if mask is None else torch.from_numpy(mask)
        with torch.no_grad():
            expected = theirs(
                torch.from_numpy(ids),
                attention_mask=given,
                output_hidden_states=True,
                output_attentions=True,
                use_cache=False,
            )
        got = ours(ids, mask, output_hidden_states=True, output_attentions=True)
        close(got.logits[tokens], expected.logits.numpy()[tokens])
        for a, b in zip(got.hidden_states, expected.hidden_states, strict=True):
            close(a[tokens], b.numpy()[tokens])
        for a, b in zip(got.attentions, expected.attentions, strict=True):
            close(a.swapaxes(1, 2)[tokens], b.numpy().swapaxes(1, 2)[tokens])
        close(ours(ids, mask).logits, got.logits)


@pytest.mark.parametrize("case", ["gpt2", "llama 3", "mistral", "gemma3 types"])
def test_outputs_with_a_past(torch, pairs, case):
    theirs, ours = pairs(case)
    ids = np.random.default_rng(2).integers(0, V, (3, 11))
    for mask in masks(3, 11):
        given = torch.ones(3, 11, dtype=torch.int64) if mask is None else torch.from_numpy(mask)
        tokens = given.numpy().astype(bool)
        ids_t = torch.from_numpy(ids)
        with torch.no_grad():
            first = theirs(ids_t[:, :6], attention_mask=given[:, :6], use_cache=True)
            second = theirs(ids_t[:, 6:], attention_mask=given, past_key_values=first.past_key_values, use_cache=True)
        past = ours(ids[:, :6], None if mask is None else mask[:, :6], use_cache=True).past_key_values
        got = ours(ids[:, 6:], mask, past_key_values=past)
        close(got.logits[tokens[:, 6:]], second.logits.numpy()[tokens[:, 6:]])


SEARCHES = [
    {},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    {"suppress_tokens": [3, 4, 5], "begin_suppress_tokens": [6, 7], "bad_words_ids": [[8], [9, 10]], "min_length": 14},
    {"forced_eos_token_id": 7},
    {"num_beams": 3},
    {"num_beams": 4, "num_return_sequences": 3, "early_stopping": True},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0},
    {"num_beams": 3, "length_penalty": -1.0, "num_return_sequences": 2},
    {"num_beams": 2, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    {"num_beams": 3, "renormalize_logits": True, "suppress_tokens": [3, 4, 5], "early_stopping": True},
]


def compare_search(torch, theirs, ours, ids, mask, **options):
    options = {"max_new_tokens": 12, "pad_token_id": 1, "do_sample": False, **options}
    given = None if mask is None else torch.from_numpy(mask)
    expected = theirs.generate(torch.from_numpy(ids), attention_mask=given, **options).numpy()
    got = ours.generate(ids, mask, **options)
    assert got.tolist() == expected.tolist(), options


@pytest.mark.parametrize("case", CASES)
def test_searches(torch, pairs, case):
    theirs, ours = pairs(case)
    ids = np.random.default_rng(3).integers(3, V, (3, 6))
    for search, eos in itertools.product(SEARCHES[:1] + SEARCHES[4:6], [None, 7, [3, 8, 9, 10, 11, 12]]):
        compare_search(torch, theirs, ours, ids, masks(3, 6)[1], eos_token_id=eos, **search)


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_options_of_searches(torch, pairs, search):
    theirs, ours = pairs("llama")
    for seed, eos, pad in itertools.product(range(3), [7, [3, 8, 9, 10, 11, 12]], [1, 0]):
        ids = np.random.default_rng(seed).integers(3, V, (3, 6))
        for mask in masks(3, 6)[:2]:
            compare_search(torch, theirs, ours, ids, mask, eos_token_id=eos, **search, pad_token_id=pad)


def test_padding_that_nobody_mentions(torch, pairs):
    theirs, ours = pairs("llama")
    ids = np.random.default_rng(3).integers(3, V, (3, 6))
    ids[0, :4] = 1
    for options in ({"eos_token_id": 7}, {"eos_token_id": 1}, {"eos_token_id": [1, 2]}, {}):
        compare_search(torch, theirs, ours, ids, None, **options)


def test_encoder_decoders_without_a_mask(torch, tmp_path):
    """transformers guesses the mask from the padding id for decoders alone."""
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": V, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    for parameter in theirs.parameters():
        parameter.data += torch.randn_like(parameter) * 0.3
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    ids = np.random.default_rng(1).integers(2, V, (3, 6))
    ids[0, 3:] = 0
    for mask, search in itertools.product((None, (ids != 0).astype(np.int64)), SEARCHES[:1] + SEARCHES[4:7]):
        compare_search(torch, theirs, ours, ids, mask, **search, pad_token_id=0)


def test_stop_strings(torch, pairs):
    """Strings of one and of several tokens, that begin in the prompt, and that end within a token."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    theirs, ours = pairs("gpt2")
    words = [a + b for a in ("", "x", "y") for b in "abcdefghijklmnopqrstuvw"][:V]
    assert len(words) == V
    plain = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    plain.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain)
    stopped = 0
    for seed in range(4):
        ids = np.random.default_rng(seed).integers(0, V, (3, 6))
        options = {"max_new_tokens": 12, "pad_token_id": 1, "eos_token_id": None, "do_sample": False}
        free = ours.generate(ids, **options)
        text = plain.decode(free[0].tolist())
        prompt = len(plain.decode(ids[0].tolist()))
        for strings in (text[prompt + 3], text[prompt + 2 : prompt + 5], [text[prompt - 1 : prompt + 2], "zz"]):
            given = {**options, "stop_strings": strings, "eos_token_id": 49 if seed % 2 else None}
            expected = theirs.generate(torch.from_numpy(ids), tokenizer=tokenizer, **given).numpy()
            assert ours.generate(ids, tokenizer=tokenizer, **given).tolist() == expected.tolist(), strings
            assert ours.generate(ids, tokenizer=plain, **given).tolist() == expected.tolist(), strings
            stopped += (expected == 1)[:, 6:].any()
    assert stopped


def test_lengths(torch, pairs):
    theirs, ours = pairs("llama")
    ids = np.random.default_rng(3).integers(3, V, (2, 6))
    for options in ({"max_length": 9}, {"max_length": 9, "max_new_tokens": 2}, {}):
        options |= {"eos_token_id": None, "do_sample": False}
        assert ours.generate(ids, **options).tolist() == theirs.generate(torch.from_numpy(ids), **options).tolist()
    long = np.random.default_rng(3).integers(3, V, (2, 60))  # not beyond max_position_embeddings
    options = {"eos_token_id": None, "do_sample": False}
    assert ours.generate(long, **options).tolist() == theirs.generate(torch.from_numpy(long), **options).tolist()
    assert ours.generate(long, **options).shape == (2, 64)


def test_generation_config_of_a_folder(torch, pairs, tmp_path):
    theirs, _ = pairs("llama")
    before = theirs.generation_config
    try:
        theirs.generation_config = type(before)(
            eos_token_id=[7, 9],
            pad_token_id=1,
            num_beams=3,
            length_penalty=0.5,
            max_new_tokens=9,
            no_repeat_ngram_size=2,
        )
        theirs.save_pretrained(tmp_path)
        ids = np.random.default_rng(4).integers(3, V, (3, 6))
        expected = theirs.generate(torch.from_numpy(ids)).numpy()
    finally:
        theirs.generation_config = before
    assert load_model(tmp_path).generate(ids).tolist() == expected.tolist()


# ----------------------------------------------------------------------------------------------------------------------
# Sampling: the same distribution


WARPERS = [
    {},
    {"temperature": 0.6, "top_k": 0},
    {"temperature": 1.7, "top_k": 7},
    {"top_k": 0, "top_p": 0.7},
    {"top_k": 0, "min_p": 0.15},
    {"top_k": 0, "typical_p": 0.6},
    {"top_k": 0, "top_h": 0.4},
    {"top_k": 0, "epsilon_cutoff": 0.02},
    {"top_k": 0, "eta_cutoff": 0.05},
    {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.5},
]


def their_probabilities(torch, model, ids, options):
    """The probabilities that transformers draws from, by its own processors."""
    from transformers import GenerationConfig

    config = GenerationConfig(do_sample=True, max_length=99, **{"top_k": 50, **options})
    config._eos_token_tensor = None
    steps = model._get_logits_processor(config, input_ids_seq_length=ids.shape[1], model_kwargs={})
    with torch.no_grad():
        return torch.softmax(steps(ids, model(ids).logits[:, -1].float()), -1).numpy()


@pytest.mark.parametrize("options", WARPERS, ids=str)
def test_sampling_has_the_distribution_of_transformers(torch, pairs, options):
    from scipy.stats import chisquare

    theirs, ours = pairs("gpt2")
    row = np.random.default_rng(6).integers(3, V, (1, 5))
    expected = their_probabilities(torch, theirs, torch.from_numpy(row), options)[0]
    n = 6000
    drawn = ours.generate(
        row, do_sample=True, max_new_tokens=1, num_return_sequences=n, seed=1, eos_token_id=None, **options
    )
    counts = np.bincount(drawn[:, -1], minlength=V)
    assert not counts[expected == 0].any()
    likely = expected * n >= 5  # the others are counted together, as the test of chi-squared asks for
    groups = [np.append(values[likely], values[~likely].sum()).astype(np.float64) for values in (counts, expected)]
    observed, wanted = (values[groups[1] * n >= 5] for values in groups)
    assert len(observed) > 1 and chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_processors_give_the_scores_of_transformers(torch, pairs):
    """Not only the same distribution: the same probabilities, over many random scores."""
    from transformer_fast.generation import GenerationConfig as Config
    from transformer_fast.generation.logits import processors, softmax

    theirs, _ = pairs("gpt2")
    generator = np.random.default_rng(8)
    scores = (generator.standard_normal((40, V)) * 3).astype(np.float32)
    ids = generator.integers(0, V, (40, 6))
    from transformers import GenerationConfig

    for options, beams in itertools.product(WARPERS, (1, 3)):
        full = {"top_k": 50, "num_beams": beams, "do_sample": True, **options}
        config = GenerationConfig(max_length=99, **full)
        config._eos_token_tensor = torch.tensor([7, 9])
        expected = theirs._get_logits_processor(config, input_ids_seq_length=6, model_kwargs={})(
            torch.from_numpy(ids), torch.from_numpy(scores)
        )
        got = scores
        for step in processors(Config(eos_token_id=[7, 9], **full), 6, 99, None, None):
            got = step(ids, got)
        np.testing.assert_allclose(softmax(got), torch.softmax(expected, -1).numpy(), atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------------
# Labels, other checkpoints


LABELS = {
    "GPT2ForSequenceClassification": ("GPT2Config", GPT2 | {"pad_token_id": 1}),
    "LlamaForSequenceClassification": ("LlamaConfig", GATED),
    "MistralForSequenceClassification": ("MistralConfig", GATED | {"sliding_window": 4}),
    "Qwen2ForSequenceClassification": ("Qwen2Config", GATED),
    "Qwen3ForSequenceClassification": ("Qwen3Config", GATED),
    "Gemma2ForSequenceClassification": ("Gemma2Config", GATED | {"head_dim": 8}),
    "Gemma3TextForSequenceClassification": ("Gemma3TextConfig", GATED | {"head_dim": 8}),
    "Phi3ForSequenceClassification": ("Phi3Config", PHI3),
    "Olmo2ForSequenceClassification": ("Olmo2Config", GATED),
    "SmolLM3ForSequenceClassification": ("SmolLM3Config", GATED),
    "GPTNeoXForSequenceClassification": ("GPTNeoXConfig", NEOX),
    "Starcoder2ForSequenceClassification": ("Starcoder2Config", GATED),
    "PhiForSequenceClassification": ("PhiConfig", GATED | {"hidden_size": 32}),
    "Qwen3MoeForSequenceClassification": ("Qwen3MoeConfig", MOE),
    "MixtralForSequenceClassification": ("MixtralConfig", GATED),
    "GptOssForSequenceClassification": ("GptOssConfig", GPT_OSS),
    "GPTJForSequenceClassification": ("GPTJConfig", GPTJ | {"pad_token_id": 1}),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels(torch, tmp_path, name):
    import transformers

    config_class, fields = LABELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**fields, num_labels=3)
    theirs = getattr(transformers, name)(config).eval()
    for parameter in theirs.parameters():
        parameter.data += torch.randn_like(parameter) * 0.15
    theirs.set_attn_implementation("eager")
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert type(ours).__name__ == name and ours.config.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    ids = np.random.default_rng(1).integers(3, V, (3, 9))
    ids[0, 5:], ids[1, :4] = 1, 1
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids), attention_mask=torch.from_numpy((ids != 1).astype(np.int64))).logits
    close(ours(ids, ids != 1).logits, expected.numpy())


def test_half_precision_weights(torch, pairs, tmp_path):
    theirs, _ = pairs("qwen2")
    half = type(theirs)(theirs.config).to(torch.bfloat16)
    half.load_state_dict(theirs.state_dict())
    half.save_pretrained(tmp_path)
    expected = type(theirs).from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    ids = np.random.default_rng(1).integers(0, V, (2, 7))
    with torch.no_grad():
        close(load_model(tmp_path)(ids).logits, expected(torch.from_numpy(ids)).logits.numpy())


@pytest.mark.parametrize("case", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_experts_as_transformers_holds_them(torch, pairs, tmp_path, case):
    """Stacked, where its files number the experts otherwise."""
    theirs, ours = pairs(case)
    theirs.save_pretrained(tmp_path, save_original_format=False)
    ids = np.random.default_rng(1).integers(0, V, (2, 7))
    assert np.array_equal(load_model(tmp_path)(ids).logits, ours(ids).logits)


def test_experts_in_four_bits(torch, tmp_path):
    """The numbers that transformers reads from blocks of MXFP4, to the bit."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    from transformer_fast.models.common.mxfp4 import Mxfp4Stack

    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3, 5, 4, 16)).astype(np.uint8)
    scales = rng.integers(90, 160, (3, 5, 4)).astype(np.uint8)
    theirs = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales))
    ours = Mxfp4Stack(blocks, scales)
    for e in range(3):
        assert np.array_equal(np.asarray(ours[e].T, np.float32).T, theirs[e].float().numpy())


def test_a_model_with_experts_in_four_bits(torch, tmp_path):
    """Transformers expands them as well where no kernel for them is there."""
    import transformers
    from safetensors.numpy import load_file, save_file

    weights = write_four_bits(tmp_path) / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    settings = {"quantization_config": transformers.Mxfp4Config(dequantize=True), "dtype": torch.float32}
    theirs = transformers.GptOssForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", **settings).eval()
    ids = np.random.default_rng(1).integers(0, 40, (2, 9))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    close(load_model(tmp_path, compute_type="float32")(ids).logits, expected)
    error = np.abs(load_model(tmp_path)(ids).logits - expected).max()  # "auto": activations in 16 bits
    assert error < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    "case", ["gpt2", "llama 3", "gemma3", "phi3", "gpt_neox", "phi", "qwen3_moe", "mixtral", "gpt_oss"]
)
def test_transformers_reads_what_is_saved(torch, pairs, tmp_path, case):
    theirs, ours = pairs(case)
    ours.save_pretrained(tmp_path)
    again = type(theirs).from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, V, (2, 7)))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)


def test_a_fresh_model_is_saved_so_that_transformers_reads_it(torch, tmp_path):
    import transformers

    model = GPT2LMHeadModel(GPT2Config(V, 16, 8, 1, 2))
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = np.array([[1, 2, 3]])
    with torch.no_grad():
        close(model(ids).logits, theirs(torch.from_numpy(ids)).logits.numpy())
