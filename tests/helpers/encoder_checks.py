"""What the tests of every encoder of text ask (models/test_bert.py, test_roberta.py, ...); each calls these functions.

A family gives the folder of its golden model (golden/make_encoders.py), its classes, and a small config of its own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from transformer_fast import functional, load_model, nn
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import read_json_object
from transformer_fast.models.common.config import read_config

GOLDEN = Path(__file__).parent.parent / "golden" / "encoders"
TOLERANCE = 1e-5
REPORT = {"output_attentions": True, "output_hidden_states": True}


def golden(name: str, class_name: str) -> None:
    """Hidden states, attentions and logits of transformers; and zeros where padding is."""
    model = load_model(GOLDEN / name)
    assert type(model).__name__ == class_name
    with np.load(GOLDEN / name / "answers.npz") as file:
        answers = dict(file)
    fields = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {field: answers.pop(field) for field in fields if field in answers}
    keep = inputs["attention_mask"].astype(bool)
    found = model(**inputs, **REPORT)
    got = {name: found[name] for name in found.keys()}
    got["hidden_states"] = np.stack(got["hidden_states"])
    got |= {name: value[-1] for name, value in got.items() if name.endswith("attentions")}
    assert got.keys() == answers.keys()
    plain = model(**inputs)
    assert all(np.array_equal(plain[name], got[name]) for name in plain.keys()), "the same bits, whatever is reported"
    answers["attentions"] *= keep[:, None, :, None]
    if "global_attentions" in answers:
        # A row without global tokens has fillers there.
        answers["global_attentions"] *= (keep & keep[:, :1])[:, None, :, None]
    elif answers["attentions"].shape[-1] == keep.shape[1]:
        answers["attentions"] *= keep[:, None, None, :]
    for name, array in answers.items():
        places = array.shape[-3:-1] if name == "hidden_states" else array.shape[:2]
        if not name.endswith("attentions") and places == keep.shape:
            array *= keep if array.ndim == 2 else keep[..., None]
        np.testing.assert_allclose(got[name], array, atol=TOLERANCE, rtol=0, err_msg=name)


def round_trip(name: str, folder: Path) -> None:
    """What is saved is loaded again to the bit, over its own files too; tied weights are written once."""
    model = load_model(GOLDEN / name)
    model.save_pretrained(folder)
    for _ in range(2):
        again = load_model(folder)
        assert type(again) is type(model) and again.config == model.config
        assert again.state_dict().keys() == model.state_dict().keys()
        assert all(np.array_equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
        again.save_pretrained(folder)
    before, after = (read_json_object(place / "config.json") for place in (GOLDEN / name, folder))
    assert after.pop("dtype") == "float32" and before.pop("dtype") == "bfloat16"
    assert before == after
    header = (folder / "model.safetensors").read_bytes()
    names = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")]).keys() - {"__metadata__"}
    assert names == tensor_names(GOLDEN / name)


def tensor_names(folder: Path) -> set[str]:
    return set(Checkpoint.open(folder).tensors)


def packing(model, low: int = 6) -> None:
    """The same rows alone, packed, padded on either side and with holes: equal bits, on every number of threads."""
    rng = np.random.default_rng(0)
    limit, lengths = model.config.vocab_size, [0, 1, 7, 0, 3, 9]
    cu_seqlens = np.cumsum([0, *lengths])
    ids = rng.integers(low, limit, cu_seqlens[-1])
    packed = model.encode_packed(ids, cu_seqlens)
    left, right = np.zeros((2, 6, 9), np.int64)
    mask = np.zeros((6, 9), np.int64)
    for b, (first, n) in enumerate(zip(cu_seqlens, lengths, strict=False)):
        own = ids[first : first + n]
        assert np.array_equal(model.encode_packed(own, np.array([0, n])), packed[first : first + n])
        left[b, 9 - n :], right[b, :n], mask[b, :n] = own, own, 1
    expected = np.zeros((6, 9, packed.shape[1]), np.float32)
    expected[mask == 1] = packed
    found = model(right, mask)[0]
    assert np.array_equal(found, expected)
    threads = functional.get_num_threads()
    functional.set_num_threads(1)
    assert np.array_equal(model(right, mask)[0], found)
    functional.set_num_threads(threads)
    # Positions may count padding on the left, but nothing else may know of it.
    positions = model._positions(ids, cu_seqlens)
    padded = np.zeros((6, 9), np.int64)
    padded[mask[:, ::-1] == 1] = positions
    shifted = model(left, mask[:, ::-1], position_ids=padded)[0]
    np.testing.assert_allclose(shifted[mask[:, ::-1] == 1], packed, atol=TOLERANCE)
    # One row of each text through the last layer: as all, but for the order of sums, which no other text decides.
    filled, starts = [b for b, n in enumerate(lengths) if n], cu_seqlens[[0, 2, 3, 5, 6]]
    places = np.array([0, 3, 2, 8])
    pooled = model.encode_packed(ids, starts, pooled_rows=places)
    np.testing.assert_allclose(pooled, packed[starts[:-1] + places], atol=TOLERANCE)
    for row, b, place in zip(pooled, filled, places, strict=True):
        own = ids[cu_seqlens[b] : cu_seqlens[b + 1]]
        assert np.array_equal(model.encode_packed(own, np.array([0, len(own)]), pooled_rows=place)[0], row)
    first = model.encode(right, mask, first=True, rows=False).first
    np.testing.assert_allclose(first, model.encode(right, mask, first=True).first, atol=TOLERANCE)
    assert np.array_equal(first[1:2], model.encode(ids[:1][None], first=True, rows=False).first)
    assert model.encode_packed(np.zeros(0, int), np.zeros(1, int)).shape == (0, packed.shape[1])
    assert model(np.zeros((0, 4), int))[0].shape == (0, 4, packed.shape[1])


def bad_input(model, *, too_long: int | None = None, types: bool = False) -> None:
    """Errors that name the argument."""
    with pytest.raises(IndexError, match=f"input_ids holds {model.config.vocab_size}"):
        model([[model.config.vocab_size]])
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2,\)"):
        model([[7, 8]], [1, 1])
    ragged = r"has rows of different lengths \(row 0 has 2, row 2 has 1\); needed: rows"
    with pytest.raises(ValueError, match=f"input_ids {ragged}"):
        model([[7, 8], [8, 7], [8]])
    with pytest.raises(ValueError, match=f"attention_mask {ragged}"):
        model([[7, 8]] * 3, [[1, 1], [1, 1], [1]])
    with pytest.raises(ValueError, match="first and rows are both False"):
        model.encode([[7]], rows=False)
    with pytest.raises(ValueError, match="cu_seqlens ends at 3"):
        model.encode_packed([7, 8], [0, 3])
    if too_long is not None:
        ids = np.full((1, too_long), 7)
        for call in (lambda: model(ids), lambda: model.encode_packed(ids[0], [0, too_long])):
            with pytest.raises(ValueError, match=f"a sequence has {too_long} tokens; needed: at most {too_long - 1}"):
                call()
        assert model(ids[:, 1:])[0].shape[1] == too_long - 1
    if not types:
        with pytest.raises(ValueError, match="token_type_ids is given, but .* knows no token types"):
            model([[7, 8]], token_type_ids=[[0, 0]])


def refused(model_class: type, config: dict, changes: dict) -> None:
    """A config that asks for what is not there: an error that names the field."""
    (name,) = changes
    source = Path("model/config.json")
    read_config(model_class.config_class, config, source, model_class.neutral)
    with pytest.raises(CheckpointError, match=rf"^model.config\.json: .*{name}.*(needed|supported): "):
        read_config(model_class.config_class, config | changes, source, model_class.neutral)


def fresh(model_class: type, config: dict) -> None:
    """A model made by hand runs; a tied output layer is the words' own."""
    nn.manual_seed(0)
    model = model_class(model_class.config_class(**config))
    assert np.isfinite(model([[7, 8]])[0]).all()
    if hasattr(model, "decoder") and model.config.tie_word_embeddings:
        assert np.shares_memory(model.decoder.weight, model.base.word_embeddings.weight)


def broken_tensors(name: str, folder: Path, ours: str, layers: str = "num_hidden_layers") -> None:
    """Missing, unused and misshapen tensors are named, and so is a wrong number of layers; layers: the field of it."""
    from safetensors.numpy import save_file

    load_model(GOLDEN / name).save_pretrained(folder)
    config = read_json_object(folder / "config.json")
    tensors = {key: tensor.array().copy() for key, tensor in Checkpoint.open(folder).tensors.items()}

    def fails(changed: dict, text: str, **fields) -> None:
        (folder / "config.json").write_text(json.dumps(config | fields))
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=text):
            load_model(folder)

    assert ours in tensors
    fails({k: v for k, v in tensors.items() if k != ours}, f"missing tensors: '.*{re.escape(ours.split('.', 1)[1])}'")
    fails(tensors | {"surprise": tensors[ours]}, "does not use: 'surprise'")
    fails(tensors | {ours: np.zeros((2, 2), np.float32)}, rf"{re.escape(ours)}' has shape \(2, 2\)")
    layers = "n_layers" if "n_layers" in config else layers
    more = {layers: 2**29} if "layer_types" not in config else {layers: 3, "layer_types": ["full_attention"] * 3}
    more |= {"attention_window": 4} if "attention_window" in config else {}
    fails(tensors, f"{layers} is .*, but .* holds 2 layers", **more)
