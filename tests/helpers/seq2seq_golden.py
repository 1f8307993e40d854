"""The golden folders of encoder-decoder models (golden/make_seq2seq.py), and what is tested with each family's.

Called by models/test_t5.py, test_longt5.py, test_bart.py, test_led.py, test_marian.py, test_whisper.py and
test_seq2seq.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from seq2seq_models import zeroed

GOLDEN = Path(__file__).parent.parent / "golden" / "seq2seq"
TOLERANCE = 1e-5
MASKS = ("attention_mask", "decoder_attention_mask")
STATES = ("logits", "encoder_last_hidden_state", "decoder_hidden_states", "cross_attentions")


def answers(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "answers.npz") as content:
        return dict(content)


def inputs(name: str) -> dict[str, np.ndarray]:
    """What forward takes."""
    names = ("input_ids", "input_features", "decoder_input_ids", "global_attention_mask", *MASKS)
    return {key: value for key, value in answers(name).items() if key in names}


def tensors(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def changed(name: str, target: Path, config: dict | None = None, change=None, generation: dict | None = None) -> Path:
    """A copy of a golden folder with other fields in its files; change(tensors) changes the weights in place."""
    from safetensors.numpy import save_file

    shutil.copytree(GOLDEN / name, target)
    for file, fields in (("config", config), ("generation_config", generation)):
        path = target / f"{file}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | (fields or {})))
    if change is not None:
        weights = tensors(target)
        change(weights)
        save_file({key: np.ascontiguousarray(value) for key, value in weights.items()}, target / "model.safetensors")
    return target


def check_forward(model, name: str, **expected: np.ndarray) -> None:
    """forward gives the golden answers (or those `expected`), with zeros where a mask is 0."""
    given, golden = inputs(name), answers(name) | expected
    output = model(**given, output_attentions=True, output_hidden_states=True)
    for key in STATES:
        theirs = golden[key] if isinstance(output[key], tuple) else golden[key][None]
        ours = output[key] if isinstance(output[key], tuple) else (output[key],)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, zeroed(key, other, given), atol=TOLERANCE, rtol=0)
    # Layer by layer and in one call of the engine: the same bits.
    plain = model(**given)
    assert plain.keys() == ["logits", "encoder_last_hidden_state"]
    for key in plain.keys():
        assert np.array_equal(plain[key], output[key])
    # From the encoder's output.
    mask = {key: value for key, value in given.items() if key == "attention_mask"}
    main = {key: value for key, value in given.items() if not key.startswith("decoder")}
    rest = {key: value for key, value in given.items() if key.startswith("decoder")}
    for encoded in (model.encode(**main), (plain.encoder_last_hidden_state,)):
        assert np.array_equal(model(encoder_outputs=encoded, **mask, **rest).logits, plain.logits)


def check_generate(model, name: str) -> None:
    """Greedy and beam search give the golden tokens."""
    golden = answers(name)
    main = {key: value for key, value in inputs(name).items() if not key.startswith("decoder")}
    assert np.array_equal(model.generate(**main, max_new_tokens=8), golden["greedy"])
    beams = {"num_beams": 3, "no_repeat_ngram_size": 2}
    assert np.array_equal(model.generate(**main, max_new_tokens=8, **beams), golden["beams"])


def check_rows(model, name: str) -> None:
    """A row alone, without its padding, has the bits that it has in the batch."""
    given = inputs(name)
    whole = model(**given).logits
    for b in range(len(whole)):
        row = {key: value[b : b + 1] for key, value in given.items()}
        assert np.array_equal(model(**row).logits, whole[b : b + 1])


def check_saved(model, name: str, target: Path) -> None:
    """save_pretrained writes what transformers wrote: the same tensors under the same names."""
    model.save_pretrained(target)
    ours, theirs = tensors(target), tensors(GOLDEN / name)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert np.array_equal(ours[key], theirs[key]), key
    again = type(model).from_pretrained(target)
    given = inputs(name)
    assert np.array_equal(again(**given).logits, model(**given).logits)
