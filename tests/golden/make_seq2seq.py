"""Makes the folder seq2seq: tiny T5, LongT5, BART, Marian and Whisper models as transformers saves them, with answers.

Needs the extra `oracle`. Run it from anywhere; with names it makes these folders alone:

    python tests/golden/make_seq2seq.py [t5 ...]

models/test_t5.py, test_longt5.py, test_bart.py, test_marian.py, test_whisper.py and files/test_audio.py read the files
without torch.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from seq2seq_models import (  # noqa: E402
    global_inputs,
    long_inputs,
    make_bart,
    make_led,
    make_longt5,
    make_marian,
    make_t5,
    make_whisper,
    sound,
    speech_inputs,
    text_inputs,
)

FOLDER = HERE / "seq2seq"
GREEDY = {"max_new_tokens": 8}
BEAMS = {"max_new_tokens": 8, "num_beams": 3, "no_repeat_ngram_size": 2}


def save(name: str, model, inputs: dict[str, np.ndarray], main: tuple[str, ...]) -> None:
    """The model's folder with answers.npz: inputs, outputs of forward, and tokens of greedy and beam search."""
    folder = FOLDER / name
    model.save_pretrained(folder)
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    start = {key: tensors[key] for key in main}
    with torch.no_grad():
        output = model(**tensors, output_attentions=True, output_hidden_states=True)
        answers = {
            "logits": output.logits,
            "encoder_last_hidden_state": output.encoder_last_hidden_state,
            "decoder_hidden_states": torch.stack(output.decoder_hidden_states),
            "cross_attentions": torch.stack(output.cross_attentions),
            "greedy": model.generate(**start, **GREEDY),
            "beams": model.generate(**start, **BEAMS),
        }
    answers = {key: value.numpy() for key, value in answers.items()}
    np.savez_compressed(folder / "answers.npz", **inputs, **answers)


def make_features() -> None:
    """Log-mel features, by transformers' NumPy code and by its torch code (float32)."""
    settings = {"feature_size": 20, "chunk_length": 1, "hop_length": 800}
    extractor = WhisperFeatureExtractor(**settings)
    extractor.save_pretrained(FOLDER / "whisper")
    padded = np.pad(sound(), (0, 16000 - len(sound())))
    exact = extractor._np_extract_fbank_features(padded[None], "cpu")
    features = extractor(sound(), sampling_rate=16000, return_tensors="np").input_features
    np.savez_compressed(FOLDER / "features.npz", exact=exact, features=features)


TEXT = (text_inputs, ("input_ids", "attention_mask"))
LONG = (long_inputs, ("input_ids", "attention_mask"))
# Folder -> the model; its inputs, and those of them that `generate` takes.
MODELS = {
    "t5": (make_t5, {}, *TEXT),
    "t5_gated": (make_t5, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, *TEXT),
    "longt5_local": (make_longt5, {"encoder_attention_type": "local", "feed_forward_proj": "gated-gelu"}, *LONG),
    "longt5_global": (make_longt5, {"tie_word_embeddings": False}, *LONG),
    "bart": (make_bart, {"settings": {"forced_bos_token_id": 0, "no_repeat_ngram_size": 3}}, *TEXT),
    "led": (make_led, {}, global_inputs, (*TEXT[1], "global_attention_mask")),
    "marian": (make_marian, {"scale_embedding": True, "activation_function": "swish"}, *TEXT),
    "whisper": (make_whisper, {}, speech_inputs, ("input_features",)),
}


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        make, options, inputs, main = MODELS[name]
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        save(name, make(**options), inputs(), main)
        if name == "whisper":
            make_features()
    print(sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()))
