"""compute_type: how a model keeps its weights, and that loading makes no copies beside the packed ones."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from decoder_cases import inputs, tensors, write
from model_folders import bert_tensors, write_bert
from support import rounds_x

from transformer_fast import SentenceEncoder, load_model
from transformer_fast.files.errors import CheckpointError
from transformer_fast.nn import LSTM, Linear
from transformer_fast.weights import find_minilm

pytest.importorskip("safetensors")
pytestmark = pytest.mark.formats("bfloat16")
# Of the largest result, where x is rounded to 8 bits before each product: 2^-8 of each at most, some layers deep.
ROUNDED_X = 0.02


def halves(found: dict, dtype) -> dict:
    return {name: array.astype(dtype) for name, array in found.items()}


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma2"])
def test_bfloat16_file(tmp_path, case, isa):
    """From a bfloat16 file, both compute types hold the same values, and results are float32: the same bits, but where
    products round x, too."""
    folder = write(tmp_path / "a", case, replaced=halves(tensors(case), ml_dtypes.bfloat16))
    ids = inputs(40)[0]
    wide, narrow = load_model(folder, compute_type="float32"), load_model(folder, compute_type="bfloat16")
    rounded = load_model(
        write(tmp_path / "b", case, replaced=halves(halves(tensors(case), ml_dtypes.bfloat16), np.float32))
    )
    expected = rounded(ids).logits
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(wide(ids).logits, expected)
    if not rounds_x(isa):
        np.testing.assert_array_equal(narrow(ids).logits, expected)
    bound = ROUNDED_X if rounds_x(isa) else 1e-5
    np.testing.assert_allclose(narrow(ids).logits, expected, rtol=0, atol=bound * np.abs(expected).max())


@pytest.mark.parametrize(("dtype", "format"), [(np.float16, "float16"), (ml_dtypes.bfloat16, "bfloat16_a32")])
@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_auto_keeps_16_bits(tmp_path, case, dtype, format, isa):
    """What the file has, in its bytes: the bits of float32 on every level, whether it multiplies bfloat16 or not."""
    folder = write(tmp_path, case, replaced=halves(tensors(case), dtype))
    ids = inputs(40)[0]
    wide, narrow, named = (load_model(folder, compute_type=name) for name in ("float32", "auto", format))
    assert narrow.lm_head.packed().format == named.lm_head.packed().format == format
    assert narrow.lm_head.packed().nbytes < wide.lm_head.packed().nbytes
    expected = wide(ids).logits
    np.testing.assert_array_equal(narrow(ids).logits, expected)
    np.testing.assert_array_equal(named(ids).logits, expected)


def test_rounding_is_what_float16_changes(tmp_path, isa):
    found = bert_tensors()
    rounded = {
        name: array.astype(np.float16) if array.ndim == 2 and "embed" not in name else array
        for name, array in found.items()
    }
    ids = np.array([[2, 5, 9, 3]])
    narrow = load_model(write_bert(tmp_path / "a", tensors=found), compute_type="float16")
    expected = load_model(write_bert(tmp_path / "b", tensors=rounded), compute_type="float32")(ids).last_hidden_state
    np.testing.assert_array_equal(narrow(ids).last_hidden_state, expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_weights_stay_in_the_type_of_the_file(tmp_path, dtype):
    model = load_model(write_bert(tmp_path, tensors=halves(bert_tensors(), dtype)))
    state = model.state_dict()
    assert {array.dtype for array in state.values() if array.ndim == 2} == {np.dtype(dtype)}
    assert {array.dtype for array in state.values() if array.ndim == 1} == {np.dtype(np.float32)}
    ids = np.array([[2, 5, 9, 3]])
    same = load_model(write_bert(tmp_path / "b", tensors=halves(halves(bert_tensors(), dtype), np.float32)))
    np.testing.assert_array_equal(model(ids).last_hidden_state, same(ids).last_hidden_state)


def test_rounding_is_what_bfloat16_changes(tmp_path, isa):
    """A float32 file packed as bfloat16 equals the file with rounded matrices, but for tables."""
    found = bert_tensors()
    rounded = {
        name: array.astype(ml_dtypes.bfloat16).astype(np.float32) if array.ndim == 2 and "embed" not in name else array
        for name, array in found.items()
    }
    ids = np.array([[2, 5, 9, 3]])
    narrow = load_model(write_bert(tmp_path / "a", tensors=found), compute_type="bfloat16")
    expected = load_model(write_bert(tmp_path / "b", tensors=rounded))(ids).last_hidden_state
    bound = ROUNDED_X if rounds_x(isa) else 2e-6
    np.testing.assert_allclose(narrow(ids).last_hidden_state, expected, rtol=0, atol=bound * np.abs(expected).max())
    assert np.abs(load_model(tmp_path / "a")(ids).last_hidden_state - expected).max() > 1e-4


def test_saved_as_float32(tmp_path):
    """save_pretrained writes float32 whatever the file had, with the same values."""
    from safetensors.numpy import load_file

    found = halves(bert_tensors(), ml_dtypes.bfloat16)
    load_model(write_bert(tmp_path / "a", tensors=found), compute_type="bfloat16").save_pretrained(tmp_path / "b")
    saved = load_file(tmp_path / "b" / "model.safetensors")
    assert {array.dtype for array in saved.values()} == {np.dtype(np.float32)}
    assert all(np.array_equal(saved[name], array.astype(np.float32)) for name, array in found.items())


def test_unknown_compute_type(tmp_path):
    with pytest.raises(ValueError, match="compute_type is 'int3'; needed: one of auto, auto_a8, float32, float16"):
        load_model(write_bert(tmp_path), compute_type="int3")


def test_set_weight_format(isa):
    linear = Linear(40, 30)
    x = np.ones((3, 40), np.float32)
    before = linear(x)
    linear.set_weight_format("bfloat16")
    assert linear.packed().format == "bfloat16" and not np.array_equal(linear(x), before)
    linear.set_weight_format("float32")
    np.testing.assert_array_equal(linear(x), before)
    with pytest.raises(ValueError, match="name is 'int3'; needed: one of float32, float16"):
        linear.set_weight_format("int3")


def test_recurrent_layers(isa):
    lstm = LSTM(12, 16).set_weight_format("bfloat16")
    x = np.random.default_rng(0).standard_normal((5, 2, 12)).astype(np.float32)
    got, _ = lstm(x)
    rounded = {n: a.astype(ml_dtypes.bfloat16) if "weight" in n else a for n, a in lstm.state_dict().items()}
    other = LSTM(12, 16)
    other.load_state_dict(rounded)
    np.testing.assert_allclose(got, other(x)[0], rtol=0, atol=ROUNDED_X if rounds_x(isa) else 1e-6)


def test_real_embeddings_keep_their_direction(isa):
    """all-MiniLM-L6-v2: what bfloat16 (weights, on some levels activations, too) does to embeddings of sentences."""
    try:
        folder = find_minilm()
    except CheckpointError as error:
        pytest.skip(str(error))
    texts = ["A man is eating food.", "The sea is calm tonight.", "def read(path): return open(path).read()", "Ja."]
    wide, narrow = (
        SentenceEncoder.from_pretrained(folder, compute_type=name).encode(texts, normalize_embeddings=True)
        for name in ("float32", "bfloat16")
    )
    assert not np.array_equal(wide, narrow)
    assert (wide * narrow).sum(axis=1).min() >= 0.9999
