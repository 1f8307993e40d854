"""compute_type "int8" and "int8_a16" of whole models: bits, parts of another type, smoothing, accuracy.

Products of the formats themselves: tests/ops/test_integer_formats.py.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from decoder_cases import inputs, write
from model_folders import bert_tensors, write_bert
from support import assert_same_bits, normal

from transformer_fast import SentenceEncoder, functional, load_model, nn, set_num_threads
from transformer_fast.files.errors import CheckpointError
from transformer_fast.functional.linear import INTEGER_FORMATS
from transformer_fast.nn.smoothing import smoothing_factors
from transformer_fast.weights import find_minilm

pytest.importorskip("safetensors")
IDS = np.array([[2, 5, 9, 3, 11, 7], [4, 4, 8, 1, 0, 0], [6, 2, 2, 9, 3, 0]])
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])


def formats(model) -> dict[str, str]:
    return {name: module.packed().format for name, module in model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize("compute_type", INTEGER_FORMATS)
def test_bits_depend_neither_on_threads_nor_on_the_batch(tmp_path, compute_type, isa, restored_threads):
    model = load_model(write_bert(tmp_path), compute_type=compute_type)
    set_num_threads(1)
    whole = model(IDS, MASK).last_hidden_state
    for n in (1, 2, 4):
        set_num_threads(n)
        assert_same_bits(model(IDS, MASK).last_hidden_state, whole)
        for i, length in enumerate(MASK.sum(1)):
            assert_same_bits(model(IDS[i : i + 1, :length]).last_hidden_state[0], whole[i, :length])


@pytest.mark.parametrize("compute_type", INTEGER_FORMATS)
@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma2", "qwen3"])
def test_steps_next_to_prompts(tmp_path, case, compute_type, isa):
    """A token at a time through the cache, and all at once; near the file's own values.

    Attention of single queries adds in another order: what it changes in the last bit may move an integer by one.
    """
    folder, ids = write(tmp_path, case), inputs(40)[0]
    model, exact = load_model(folder, compute_type=compute_type), load_model(folder)
    first = model(ids[:, :5], use_cache=True)
    state, steps = first.past_key_values, [first.logits]
    for i in range(5, ids.shape[1]):
        out = model(ids[:, i : i + 1], past_key_values=state, use_cache=True)
        steps.append(out.logits)
    whole = model(ids).logits
    step = 0.03 if compute_type == "int8" else 1e-3
    np.testing.assert_allclose(np.concatenate(steps, 1), whole, rtol=0, atol=step * np.abs(whole).max())
    expected = exact(ids).logits
    bound = 0.05 if compute_type == "int8" else 0.02  # of 16 features, where errors of weights average out little
    assert np.abs(whole - expected).mean() <= bound * np.abs(expected).mean()


def test_every_product_is_of_integers(tmp_path):
    model = load_model(write(tmp_path, "llama"), compute_type="int8")
    assert set(formats(model).values()) == {"int8"}
    assert model.state_dict()["model.embed_tokens.weight"].dtype == np.float32


def test_parts_of_another_type(tmp_path):
    folder = write(tmp_path, "llama")
    types = {"": "int8", "lm_head": "float32", "layers.1": "bfloat16", "model.layers.1.mlp.down_proj": "int8_a16"}
    found = formats(load_model(folder, compute_type=types))
    assert found.pop("lm_head") == "float32"
    assert found.pop("model.layers.1.down_proj") == "int8_a16", "the checkpoint's name, and the longest one counts"
    for name, format in found.items():
        assert format == ("bfloat16" if "layers.1." in name else "int8"), name
    assert set(formats(load_model(folder, compute_type={"lm_head": "int8"})).values()) == {"float32", "int8"}
    with pytest.raises(ValueError, match=r"compute_type names 'head', which LlamaForCausalLM does not have; needed"):
        load_model(folder, compute_type={"": "int8", "head": "float32"})
    with pytest.raises(ValueError, match="compute_type is 'int3'; needed: one of auto, auto_a8, float32, float16"):
        load_model(folder, compute_type={"": "int8", "lm_head": "int3"})
    with pytest.raises(TypeError, match="compute_type is 8; needed: a name, or a mapping"):
        load_model(folder, compute_type=8)


def test_smoothing_follows_the_norm():
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 5)
    linear.set_weight_format("int8")
    plain = linear.packed()
    norm.weight, norm.bias = np.exp(normal(8)), normal(8)
    smoothed = linear.follows(norm).packed()
    factors = smoothing_factors(norm, [linear.weight])
    expected = functional.pack_weight(linear.weight, format="int8", smoothing=factors)
    assert_same_bits(smoothed.unpack(), expected.unpack())
    assert not np.array_equal(smoothed.unpack(), plain.unpack())
    assert "norm" not in str(linear.state_dict().keys()) and list(linear.named_modules()) == [("", linear)]
    for again in (copy.deepcopy(linear), pickle.loads(pickle.dumps(linear))):
        assert_same_bits(again.packed().unpack(), expected.unpack())
    for other in ("float32", "int8_a16"):
        linear.set_weight_format(other)
        assert_same_bits(linear.packed().unpack(), functional.pack_weight(linear.weight, format=other).unpack())


def test_smoothing_of_what_has_no_size():
    norm = nn.LayerNorm(4)
    assert smoothing_factors(norm, [np.zeros((3, 4), np.float32)]) is None
    assert smoothing_factors(norm, [np.full((3, 4), np.nan, np.float32)]) is None
    norm.weight = np.zeros(4, np.float32)
    assert smoothing_factors(norm, [normal(3, 4)]) is None
    norm.weight = np.array([0, 1, 1e30, 1e-30], np.float32)
    factors = smoothing_factors(norm, [np.array([[1, 0, 1, 1e-20]], np.float32), np.zeros((0, 4), np.float32)])
    assert factors is None or (np.isfinite(factors) & (factors > 0)).all()


def test_smoothing_lessens_what_a_large_column_costs(tmp_path):
    """One feature of the norms fifty times as large: 8 bits a row leave the others nothing without smoothing."""
    tensors = bert_tensors()
    for name in tensors:
        if name.endswith("LayerNorm.weight"):
            tensors[name] = tensors[name].copy()
            tensors[name][3] = 50
        if tensors[name].ndim == 2 and ("query" in name or "intermediate" in name):
            tensors[name] = tensors[name].copy()
            tensors[name][:, 3] /= 50
    folder = write_bert(tmp_path, tensors=tensors)
    exact, model = load_model(folder), load_model(folder, compute_type="int8")
    plain = load_model(folder, compute_type="int8")
    for _, module in plain.named_modules():
        module.__dict__.pop("_norm_before", None)
        module._changed()
    expected, smoothed, rough = (one(IDS, MASK).last_hidden_state for one in (exact, model, plain))
    assert np.abs(smoothed - expected).mean() < 0.8 * np.abs(rough - expected).mean()


def test_real_embeddings(isa):
    """all-MiniLM-L6-v2: cosines to float32, rank correlation, bytes."""
    try:
        folder = find_minilm()
    except CheckpointError as error:
        pytest.skip(str(error))
    texts = ["A man is eating food.", "The sea is calm tonight.", "def read(path): return open(path).read()", "Ja."]
    texts += [f"{a} {b}." for a in ("Return the", "Delete every", "Parse a") for b in ("path", "list of names", "date")]
    exact = SentenceEncoder.from_pretrained(folder).encode(texts, normalize_embeddings=True)
    for compute_type, mean, least in (("int8", 0.999, 0.997), ("int8_a16", 0.9994, 0.9988)):
        encoder = SentenceEncoder.from_pretrained(folder, compute_type=compute_type)
        cosines = (encoder.encode(texts, normalize_embeddings=True) * exact).sum(axis=1)
        assert cosines.mean() >= mean and cosines.min() >= least, compute_type


def test_bytes_of_real_weights():
    try:
        folder = find_minilm()
    except CheckpointError as error:
        pytest.skip(str(error))
    sizes = {}
    for compute_type in ("float32", "int8", "int8_a16"):
        layers = load_model(folder, compute_type=compute_type).layers
        linears = [module for _, module in layers.named_modules() if isinstance(module, nn.Linear)]
        sizes[compute_type] = sum(linear.packed().nbytes for linear in linears)
    assert max(sizes["int8"], sizes["int8_a16"]) <= 0.30 * sizes["float32"]
