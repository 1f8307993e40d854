"""Live comparisons (marker `oracle`): every option of transformers' GenerationConfig in a generation_config.json.

The folder loads; then the option is followed with transformers' tokens, or it has no effect, or `generate` refuses it
by name, and can be told otherwise. GPT-2, and BART for what asks for an encoder. What sampling draws from is compared
in test_decoders.py.
"""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from seq2seq_models import VOCAB, make_bart

from transformer_fast import load_model

pytestmark = pytest.mark.oracle

BASE = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2, "max_new_tokens": 12}
BART = BASE | {"decoder_start_token_id": 2, "max_new_tokens": 9}
IDS = np.random.default_rng(2).integers(3, VOCAB, (2, 5))

BEAMS = {"num_beams": 3}
ENDINGS = {"eos_token_id": [1, 9, 11, 14, 17, 20]}  # many, so that rows end early
DRAWN = {"do_sample": True, "top_k": 0}

# Option -> what folders say. transformers and ours generate the same tokens.
FOLLOWED = {
    "max_length": [{"max_new_tokens": None, "max_length": 9}],
    "max_new_tokens": [{"max_new_tokens": 4}],
    "min_length": [{"min_length": 14, **ENDINGS}],
    "min_new_tokens": [{"min_new_tokens": 8, **ENDINGS}],
    "early_stopping": [
        {"early_stopping": True} | BEAMS | ENDINGS,
        {"early_stopping": "never"} | BEAMS | ENDINGS,
        {"early_stopping": True},
    ],
    "max_time": [{"max_time": -1.0}, {"max_time": 1e6}, {"max_time": -1.0} | BEAMS],
    "do_sample": [{"do_sample": True, "top_k": 1}, {"do_sample": False}],
    "num_beams": [BEAMS],
    # Each with and without effect; with it, one token is left to draw.
    "temperature": [{"temperature": 0.0}, {"temperature": 1e-4, **DRAWN}],
    "top_k": [{"top_k": 3}, {"do_sample": True, "top_k": 1}],
    "top_p": [{"top_p": 0.3}, {"top_p": 0.0, **DRAWN}],
    "min_p": [{"min_p": 0.3}, {"min_p": 1.0, **DRAWN}],
    "top_h": [{"top_h": 0.3}, {"top_h": 1e-6, **DRAWN}],
    "typical_p": [{"typical_p": 0.3}, {"typical_p": 1e-6, **DRAWN}],
    "epsilon_cutoff": [{"epsilon_cutoff": 0.1}, {"epsilon_cutoff": 0.99, **DRAWN}],
    "eta_cutoff": [{"eta_cutoff": 0.1}, {"eta_cutoff": 0.1, "do_sample": True, "top_k": 1}],
    "repetition_penalty": [{"repetition_penalty": 1.7}, {"repetition_penalty": 0.6}],
    "encoder_repetition_penalty": [
        {"encoder_repetition_penalty": 3.0},
        {"encoder_repetition_penalty": 0.4},
        {"encoder_repetition_penalty": 2.0} | BEAMS,
    ],
    "length_penalty": [
        {"length_penalty": -2.0} | BEAMS | ENDINGS,
        {"length_penalty": 4.0} | BEAMS | ENDINGS,
        {"length_penalty": 3.0},
    ],
    "no_repeat_ngram_size": [{"no_repeat_ngram_size": 2}],
    "encoder_no_repeat_ngram_size": [{"encoder_no_repeat_ngram_size": n} | b for n in (1, 2) for b in ({}, BEAMS)],
    "bad_words_ids": [{"bad_words_ids": [[5], [7, 8], [4, 9]]}],
    "renormalize_logits": [{"renormalize_logits": True, "repetition_penalty": 1.4} | BEAMS],
    "forced_bos_token_id": [{"forced_bos_token_id": 7}],
    "forced_eos_token_id": [{"forced_eos_token_id": 9}, {"forced_eos_token_id": [9, 10]}],
    "remove_invalid_values": [{"remove_invalid_values": True, "bad_words_ids": [[5]]}],
    "exponential_decay_length_penalty": [
        {"exponential_decay_length_penalty": [2, 1.9]},
        {"exponential_decay_length_penalty": [1, 1.3], "eos_token_id": [1, 6]} | BEAMS,
    ],
    "suppress_tokens": [{"suppress_tokens": list(range(4, 20))}, {"suppress_tokens": [-1]}],
    "begin_suppress_tokens": [{"begin_suppress_tokens": list(range(4, 20))}, {"begin_suppress_tokens": [-1]}],
    "sequence_bias": [
        {"sequence_bias": [[[5], 3.0], [[6], -2.0], [[4, 7], -5.0], [[8, 9], 4.0]]},
        {"sequence_bias": [[[5], 3.0], [[5, 5], -9.0], [[5, 5, 6], 2.5]]} | BEAMS,
    ],
    "num_return_sequences": [{"num_return_sequences": 2} | BEAMS],
    "pad_token_id": [{"pad_token_id": 3, **ENDINGS}],
    "bos_token_id": [{"bos_token_id": 4}],
    "eos_token_id": [{"eos_token_id": [5, 9, 12, 15]}, {"eos_token_id": 12}],
    "decoder_start_token_id": [{"decoder_start_token_id": 4}, {"decoder_start_token_id": [4, 7]}],
}

# Option -> what folders say: transformers generates what it generates without it, and so does ours.
WITHOUT_EFFECT = {
    "use_cache": [{"use_cache": False}],
    "cache_implementation": [{"cache_implementation": "dynamic"}],
    "max_cache_len": [{"max_cache_len": 64}],
    "output_attentions": [{"output_attentions": True}],
    "output_hidden_states": [{"output_hidden_states": True}],
    "output_scores": [{"output_scores": True}],
    "output_logits": [{"output_logits": True}],
    "num_assistant_tokens": [{"num_assistant_tokens": 5}],
    "num_assistant_tokens_schedule": [{"num_assistant_tokens_schedule": "heuristic"}],
    "assistant_confidence_threshold": [{"assistant_confidence_threshold": 0.3}],
    "max_matching_ngram_size": [{"max_matching_ngram_size": 2}],
    "assistant_lookbehind": [{"assistant_lookbehind": 4}],
    "target_lookbehind": [{"target_lookbehind": 4}],
    "assistant_ensemble_weight": [{"assistant_ensemble_weight": 0.5}],
    "speculation_type": [{"speculation_type": "dflash"}],
    "disable_compile": [{"disable_compile": True}],
    "diversity_penalty": [{"diversity_penalty": 0.5}],
    "prefill_chunk_size": [{"prefill_chunk_size": 2}],
    "transformers_version": [{"transformers_version": "5.0.0"}],
    "_from_model_config": [{"_from_model_config": True}],
    # Also options that are refused where they have an effect.
    "penalty_alpha": [{"penalty_alpha": 0.6, "top_k": 1}],
    "num_beam_groups": [{"num_beam_groups": 2}],
    "low_memory": [{"low_memory": True}],
    "dola_layers": [{"dola_layers": "low", "num_beams": 2}],
}

# How transformers computes; it refuses these settings of a tiny model, or a folder with them.
COMPUTING = {
    "cache_config": {"cache_config": {"nbits": 4}},
    "compile_config": {"compile_config": {"mode": "default"}},
    "continuous_batching_config": {"continuous_batching_config": {}},
    "use_mtp": {"use_mtp": True},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "assistant_early_exit": {"assistant_early_exit": 1},
}

# Option -> (what a folder says, what a call says to switch it off).
REFUSED = {
    "token_healing": ({"token_healing": True}, {"token_healing": False}),
    "guidance_scale": ({"guidance_scale": 1.5}, {"guidance_scale": None}),
    "watermarking_config": ({"watermarking_config": {"bias": 2.0}}, {"watermarking_config": None}),
    "return_dict_in_generate": ({"return_dict_in_generate": True}, {"return_dict_in_generate": False}),
    "is_assistant": ({"is_assistant": True}, {"is_assistant": None}),
    "penalty_alpha": ({"penalty_alpha": 0.6, "top_k": 4}, {"penalty_alpha": 0.0}),
    "dola_layers": ({"dola_layers": "low"}, {"dola_layers": None}),
    "num_beam_groups": ({"num_beam_groups": 3} | BEAMS, {"num_beam_groups": 1}),
    "low_memory": ({"low_memory": True} | BEAMS, {"low_memory": None}),
    "constraints": ({"constraints": [[5]]}, {"constraints": None}),
    "force_words_ids": ({"force_words_ids": [[5]]}, {"force_words_ids": None}),
    "stop_strings": ({"stop_strings": ["a"]}, {"stop_strings": None}),
}

ENCODER_ONLY = {"decoder_start_token_id"}


def cases(table):
    return [pytest.param(name, said, id=f"{name}-{i}") for name, all in table.items() for i, said in enumerate(all)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Family -> (a folder, what its generation_config.json says without the option, the ids to generate from)."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    gpt2 = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 2}
    torch.manual_seed(0)
    decoder = transformers.GPT2LMHeadModel(transformers.GPT2Config(**gpt2)).eval()
    for parameter in decoder.parameters():
        parameter.data += torch.randn_like(parameter) * 0.15
    made = {}
    for name, model, base in (("gpt2", decoder, BASE), ("bart", make_bart(), BART)):
        made[name] = tmp_path_factory.mktemp(name), base
        model.save_pretrained(made[name][0])
    return made


def say(folders, family: str, said: dict) -> object:
    """The family's folder, whose generation_config.json says so."""
    folder, base = folders[family]
    content = {name: value for name, value in (base | said).items() if value is not None}
    (folder / "generation_config.json").write_text(json.dumps(content))
    return folder


def theirs(torch, family: str, folder) -> list[list[int]]:
    import transformers

    cls = transformers.GPT2LMHeadModel if family == "gpt2" else transformers.BartForConditionalGeneration
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = cls.from_pretrained(folder, attn_implementation="eager").eval()
        return model.generate(torch.from_numpy(IDS), attention_mask=torch.ones_like(torch.from_numpy(IDS))).tolist()


@pytest.mark.parametrize("family", ["gpt2", "bart"])
@pytest.mark.parametrize(("name", "said"), cases(FOLLOWED))
def test_followed(torch, folders, family, name, said):
    if family == "gpt2" and name in ENCODER_ONLY:
        pytest.skip("an option of encoder-decoders")
    folder = say(folders, family, said)
    model = load_model(folder)
    assert model.generate(IDS, np.ones_like(IDS)).tolist() == theirs(torch, family, folder)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
@pytest.mark.parametrize(("name", "said"), cases(WITHOUT_EFFECT))
def test_without_effect(torch, folders, family, name, said):
    if name == "dola_layers" or (name, family) == ("prefill_chunk_size", "bart"):
        expected = None  # transformers wants code from the hub; or does not do it
    else:
        expected = theirs(torch, family, say(folders, family, said))
    plain = load_model(say(folders, family, {key: said[key] for key in ("num_beams",) if key in said}))
    got = load_model(say(folders, family, said)).generate(IDS).tolist()
    assert got == plain.generate(IDS).tolist()
    assert expected is None or got == expected


@pytest.mark.parametrize("name", COMPUTING)
def test_ways_of_computing(folders, name):
    plain = load_model(say(folders, "gpt2", {})).generate(IDS)
    assert np.array_equal(load_model(say(folders, "gpt2", COMPUTING[name])).generate(IDS), plain)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(folders, family, name):
    said, call = REFUSED[name]
    model = load_model(say(folders, family, said))
    with pytest.raises((NotImplementedError, ValueError), match=name):
        model.generate(IDS)
    beams = {key: said[key] for key in ("num_beams",) if key in said}
    plain = load_model(say(folders, family, beams)).generate(IDS)
    assert np.array_equal(model.generate(IDS, **call), plain)


def test_each_option_of_transformers_is_one_of_these(torch):
    from transformers import GenerationConfig

    known = FOLLOWED.keys() | WITHOUT_EFFECT.keys() | COMPUTING.keys() | REFUSED.keys()
    assert set(vars(GenerationConfig())) - known == set()
