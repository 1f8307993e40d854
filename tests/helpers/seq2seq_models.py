"""Tiny encoder-decoder models of transformers with random weights, one a family, and inputs for them.

golden/make_seq2seq.py and oracle/test_seq2seq.py make models with these; torch and transformers are imported when they
are called.
"""

from __future__ import annotations

import numpy as np

VOCAB = 24
SIZES = {
    "vocab_size": VOCAB,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
}
T5_SIZES = {"vocab_size": VOCAB, "d_model": 8, "d_kv": 6, "d_ff": 12, "num_layers": 2, "num_heads": 2}
LONG_T5_SIZES = {"local_radius": 4, "global_block_size": 4, "encoder_attention_type": "transient-global"}
BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10}
SPEECH = {"num_mel_bins": 6, "max_source_positions": 8, "max_target_positions": 20}


def _random(model):
    """Random weights; Marian's sinusoids stay what they are."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if not (type(model).__name__.startswith("Marian") and "embed_positions" in name):
            middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.data = middle + 0.4 * torch.randn(parameter.shape, generator=generator)
    for name, buffer in model.named_buffers():
        if name == "final_logits_bias":
            buffer += 0.3 * torch.randn(buffer.shape, generator=generator)
    model.set_attn_implementation("eager")
    return model.eval()


def make_t5(**options):
    from transformers import T5Config, T5ForConditionalGeneration

    return _random(
        T5ForConditionalGeneration(T5Config(**(T5_SIZES | BUCKETS | {"decoder_start_token_id": 0} | options)))
    )


def make_longt5(**options):
    from transformers import LongT5Config, LongT5ForConditionalGeneration

    sizes = T5_SIZES | LONG_T5_SIZES | BUCKETS | {"decoder_start_token_id": 0}
    model = _random(LongT5ForConditionalGeneration(LongT5Config(**(sizes | options))))
    # Scores are not scaled, and rounding grows with them: with queries of this size this library and torch are within
    # 1e-5 of float64; with those of _random this library was up to 3.6e-5 from it, torch up to 2e-5.
    for name, parameter in model.named_parameters():
        if name.endswith(".q.weight"):
            parameter.data *= model.config.d_kv**-0.5
    return model


def make_mt5(**options):
    from transformers import MT5Config, MT5ForConditionalGeneration

    return _random(MT5ForConditionalGeneration(MT5Config(**(T5_SIZES | BUCKETS | options))))


def make_bart(settings: dict | None = None, **options):
    """settings: further entries of the generation config."""
    from transformers import BartConfig, BartForConditionalGeneration

    model = _random(BartForConditionalGeneration(BartConfig(**(SIZES | {"max_position_embeddings": 16} | options))))
    return _set(model, settings or {})


def make_led(**options):
    from transformers import LEDConfig, LEDForConditionalGeneration

    sizes = {"max_encoder_position_embeddings": 16, "max_decoder_position_embeddings": 16, "attention_window": 4}
    return _random(LEDForConditionalGeneration(LEDConfig(**(SIZES | sizes | options))))


def make_marian(**options):
    from transformers import MarianConfig, MarianMTModel

    last = options.get("decoder_vocab_size", VOCAB) - 1
    ids = {"pad_token_id": last, "decoder_start_token_id": last, "max_position_embeddings": 16}
    return _random(MarianMTModel(MarianConfig(**(SIZES | ids | options))))


def make_whisper(settings: dict | None = None, **options):
    """settings: further entries of the generation config."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    ids = {"pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0, "decoder_start_token_id": 1}
    config = WhisperConfig(**(SIZES | SPEECH | ids | {"begin_suppress_tokens": [8, 0]} | options))
    model = _random(WhisperForConditionalGeneration(config))
    languages = {
        "lang_to_id": {"<|en|>": 16, "<|de|>": 17, "<|fr|>": 18},
        "task_to_id": {"transcribe": 19, "translate": 20},
        "no_timestamps_token_id": VOCAB - 1,
        "is_multilingual": True,
        "suppress_tokens": [5, 6],
        "begin_suppress_tokens": [8, 0],
    }
    return _set(model, languages if settings is None else settings)


def _set(model, settings: dict):
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.generation_config._from_model_config = False  # else transformers may forget them
    return model


def text_inputs() -> dict[str, np.ndarray]:
    """Three rows of sources and targets with padding on either side."""
    rng = np.random.default_rng(0)
    mask, target_mask = np.ones((3, 7), np.int64), np.ones((3, 5), np.int64)
    mask[1, 4:], mask[2, :2] = 0, 0
    target_mask[1, 3:], target_mask[2, :1] = 0, 0
    return {
        "input_ids": rng.integers(3, 20, (3, 7)),
        "attention_mask": mask,
        "decoder_input_ids": rng.integers(3, 20, (3, 5)),
        "decoder_attention_mask": target_mask,
    }


def long_inputs() -> dict[str, np.ndarray]:
    """Four rows of 23 tokens: whole, with padding after, before and between the source's tokens."""
    rng = np.random.default_rng(0)
    mask, target_mask = np.ones((4, 23), np.int64), np.ones((4, 5), np.int64)
    mask[1, 14:], mask[2, :6], mask[3, [0, 7, 9, 10, 22]] = 0, 0, 0
    target_mask[1, 3:], target_mask[2, :1] = 0, 0
    return {
        "input_ids": rng.integers(3, 20, mask.shape),
        "attention_mask": mask,
        "decoder_input_ids": rng.integers(3, 20, target_mask.shape),
        "decoder_attention_mask": target_mask,
    }


def global_inputs() -> dict[str, np.ndarray]:
    """text_inputs, and source tokens that see all: the first of each row, padding among them, and a second one."""
    chosen = np.zeros((3, 7), np.int64)
    chosen[:, 0] = chosen[2, 5] = 1
    return text_inputs() | {"global_attention_mask": chosen}


def speech_inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((3, SPEECH["num_mel_bins"], 2 * SPEECH["max_source_positions"])).astype(np.float32)
    return {"input_features": features, "decoder_input_ids": text_inputs()["decoder_input_ids"]}


def sound(seconds: float = 0.7, rate: int = 16000) -> np.ndarray:
    """A gliding tone with some noise, (n,) float32."""
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(2).standard_normal(len(t))
    return (0.4 * np.sin(2 * np.pi * (200 + 900 * t) * t) + 0.02 * noise).astype(np.float32)


def zeroed(name: str, expected: np.ndarray, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """transformers' output `name` with zeros where the mask of its rows is 0, as this library has it."""
    if expected.ndim == 5:
        return _zeroed_blocks(expected, inputs.get("attention_mask", np.ones_like(inputs["input_ids"])))
    side = "attention_mask" if name.startswith("encoder") else "decoder_attention_mask"
    if side not in inputs:
        return expected
    rows = inputs[side].astype(bool)
    return expected * (rows[:, None, :, None] if expected.ndim == 4 else rows[:, :, None])


def _zeroed_blocks(weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """LongT5's encoder_attentions (B, blocks, H, length, keys), zeros for queries that are padding or fill a block."""
    B, blocks, _, length, _ = weights.shape
    rows = np.zeros((B, blocks * length), bool)
    rows[:, : mask.shape[1]] = mask
    return weights * rows.reshape(B, blocks, 1, length, 1)
