"""GGUF files of Gemma 2 and 3, GPT-2, BERT and Mistral: the same bits as folders of the same weights.

Names of tensors come from the package gguf, what is stored under them from llama.cpp's converter.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from decoder_cases import config, inputs, tensors, write
from gguf_experts import ARCHITECTURES, in_gguf, metadata_of_experts, settings_of, tensors_of
from gguf_files import by_name_map, metadata_of, tensors_in_gguf, write_gguf
from model_folders import SENTENCES, TINY_BERT, WORDS, bert_tensors, write_bert, write_json, write_tokenizer

from transformer_fast import SentenceEncoder, load_model, load_tokenizer
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.models.nomic_bert import NomicBertConfig, NomicBertModel
from transformer_fast.nn import manual_seed

gguf = pytest.importorskip("gguf")
pytest.importorskip("safetensors")


def gemma_metadata(case, **further):
    settings = config(case)
    architecture = case[:6]
    keys = {key.replace(settings["model_type"], architecture): value for key, value in metadata_of(settings).items()}
    return keys | {f"{architecture}.{key}": value for key, value in further.items()}


GEMMA2 = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.sliding_window": 4}
# GEMMA3's layers: a window, none; its rotation is scaled where there is none.
GEMMA3 = {"attention.sliding_window": 4, "attention.sliding_window_pattern": 2, "rope.freq_base": 1e6}
GEMMA3 |= {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
# What a file does not say: the scale of scores, which is that of the width of a head.
FOLDER = {"gemma2": {"query_pre_attn_scalar": 8}, "gemma3": {"query_pre_attn_scalar": 8}}


def gemma_file(path, case, **further):
    named = by_name_map(case, tensors(case), config(case)["num_hidden_layers"])
    return write_gguf(path, case, gemma_metadata(case, **({"gemma2": GEMMA2, "gemma3": GEMMA3}[case] | further)), named)


@pytest.mark.parametrize("case", ["gemma2", "gemma3"])
@pytest.mark.parametrize("compute_type", ["auto", "int8"])
def test_gemma(tmp_path, case, compute_type):
    folder = load_model(write(tmp_path / "a", case, FOLDER[case]), compute_type=compute_type)
    model = load_model(gemma_file(tmp_path / "a.gguf", case), compute_type=compute_type)
    ids = inputs(40)[0]
    assert type(model) is type(folder)
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)
    options = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 1}
    assert model.generate(ids, **options).tolist() == folder.generate(ids, **options).tolist()


@pytest.mark.parametrize("case", ["gemma2", "gemma3"])
def test_norms_of_gemma_are_written_as_a_folder_has_them(tmp_path, case):
    load_model(gemma_file(tmp_path / "a.gguf", case)).save_pretrained(tmp_path / "b")
    written = open_source(tmp_path / "b").tensors()
    for name, expected in tensors(case).items():
        np.testing.assert_allclose(written[name].array(), expected, rtol=0, atol=2**-23)


@pytest.mark.parametrize(
    ("further", "changes"),
    [
        ({"attn_logit_softcapping": 2.0}, {"attn_logit_softcapping": 2.0}),
        ({"final_logit_softcapping": 5.0}, {"final_logit_softcapping": 5.0}),
        ({"attention.sliding_window": 2}, {"sliding_window": 2}),
        ({"attention.sliding_window": 0}, {"sliding_window": None}),
        ({"attention.sliding_window": None, "attn_logit_softcapping": None}, {"sliding_window": 4096}),
    ],
)
def test_settings_of_gemma2(tmp_path, further, changes):
    folder = load_model(write(tmp_path / "a", "gemma2", FOLDER["gemma2"] | changes))
    model = load_model(gemma_file(tmp_path / "a.gguf", "gemma2", **further))
    ids = inputs(40)[0]
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)


_FULL = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}


@pytest.mark.parametrize(
    ("further", "layers", "local"),
    [
        ({"attention.sliding_window_pattern": [False, True]}, ["full_attention", "sliding_attention"], 1e4),
        ({"attention.sliding_window": 0}, ["full_attention"] * 2, 1e4),
        ({"attention.sliding_window_pattern": None}, ["sliding_attention"] * 2, 1e4),
        ({"rope.freq_base_swa": 500.0}, ["sliding_attention", "full_attention"], 500.0),
    ],
)
def test_windows_and_rotations_of_gemma3(tmp_path, further, layers, local):
    rope = {"full_attention": _FULL, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
    changes = {"layer_types": layers, "rope_parameters": rope}
    folder = load_model(write(tmp_path / "a", "gemma3", FOLDER["gemma3"] | changes))
    model = load_model(gemma_file(tmp_path / "a.gguf", "gemma3", **further))
    ids = inputs(40)[0]
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_size_scales_its_scores_otherwise(tmp_path, architecture, layers):
    keys = gemma_metadata(architecture) | {f"{architecture}.block_count": layers}
    named = by_name_map(architecture, tensors(architecture), 2)
    found = open_source(write_gguf(tmp_path / "a.gguf", architecture, keys, named)).json("config.json")
    assert found["query_pre_attn_scalar"] == 16 // 4
    assert open_source(gemma_file(tmp_path / "b.gguf", architecture)).json("config.json")["query_pre_attn_scalar"] == 8


def gpt2_metadata(settings):
    h = settings["n_embd"]
    fields = {"context_length": settings["n_positions"], "embedding_length": h, "block_count": settings["n_layer"]}
    fields |= {"feed_forward_length": settings.get("n_inner") or 4 * h, "attention.head_count": settings["n_head"]}
    return {f"gpt2.{key}": value for key, value in (fields | {"attention.layer_norm_epsilon": 1e-5}).items()}


@pytest.mark.parametrize(
    ("case", "changes"),
    [("gpt2", {}), ("gpt2_untied", {"activation_function": "gelu_new", "scale_attn_by_inverse_layer_idx": False})],
)
def test_gpt2(tmp_path, case, changes):
    folder = load_model(write(tmp_path / "a", case, changes))
    named = by_name_map("gpt2", tensors(case), config(case)["n_layer"])
    model = load_model(write_gguf(tmp_path / "a.gguf", "gpt2", gpt2_metadata(config(case)), named))
    ids = inputs(40)[0]
    assert model.config.tie_word_embeddings == (case == "gpt2")
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)


def test_gpt2_in_blocks(tmp_path):
    """Blocks lie along the file's rows, which are a folder's columns."""
    settings = config("gpt2") | {"n_embd": 32, "vocab_size": 40}
    named, expanded = {}, {}
    rng, kind = np.random.default_rng(0), gguf.GGMLQuantizationType.Q8_0
    for name, array in by_name_map("gpt2", tensors("gpt2"), 2).items():
        array = rng.standard_normal([2 * n if n % 16 == 0 else n for n in array.shape], np.float32) / 8
        named[name] = expanded[name] = array
        if name.startswith("blk.") and array.ndim == 2:
            rows = gguf.quants.quantize(array, kind)
            named[name], expanded[name] = ("Q8_0", rows), gguf.quants.dequantize(rows, kind)
    models = [
        load_model(write_gguf(tmp_path / f"{i}.gguf", "gpt2", gpt2_metadata(settings), each))
        for i, each in enumerate((named, expanded))
    ]
    ids = inputs(40)[0]
    np.testing.assert_array_equal(models[0](ids).logits, models[1](ids).logits)


def test_a_llama_with_a_window_is_mistral(tmp_path):
    folder = load_model(write(tmp_path / "a", "mistral"))
    settings = config("mistral") | {"model_type": "llama"}
    keys = metadata_of(settings) | {"llama.attention.sliding_window": 4}
    path = write_gguf(tmp_path / "a.gguf", "llama", keys, tensors_in_gguf(settings, tensors("mistral")))
    model, ids = load_model(path), inputs(40)[0]
    assert type(model) is type(folder)
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)


POOLING = {"type": "models.Pooling", "path": "1_Pooling"}


# --- Phi-3 and StarCoder2 ---------------------------------------------------------------------------------------------


def phi3_file(path, settings, replaced=None, **further):
    fields = {"head_dim": None} | settings
    keys = {
        key: value for key, value in metadata_of(fields).items() if not key.endswith(("key_length", "value_length"))
    }
    keys |= {f"phi3.{key}": value for key, value in further.items()}
    named = by_name_map("phi3", tensors("phi3"), settings["num_hidden_layers"])
    return write_gguf(path, "phi3", keys, named | (replaced or {}))


@pytest.mark.parametrize("length", [8, 20])
@pytest.mark.parametrize("attention", [None, 1.25])
def test_phi3(tmp_path, length, attention):
    """Short and long texts, whose frequencies are two tensors of the file; a head is rotated in part."""
    settings = config("phi3")
    rope = settings["rope_parameters"]
    width = settings["hidden_size"] // settings["num_attention_heads"]
    rotated = int(width * settings["partial_rotary_factor"])
    changes = {} if attention is None else {"rope_parameters": rope | {"attention_factor": attention}}
    folder = load_model(write(tmp_path / "a", "phi3", changes))
    factors = {
        f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"], np.float32) for kind in ("short", "long")
    }
    keys = {"rope.dimension_count": rotated, "attention.sliding_window": 9, "rope.scaling.original_context_length": 12}
    path = phi3_file(tmp_path / "a.gguf", settings, factors, **keys, **{"rope.scaling.attn_factor": attention})
    model, ids = load_model(path), np.random.default_rng(0).integers(3, 40, (2, length))
    np.testing.assert_allclose(model(ids).logits, folder(ids).logits, rtol=0, atol=1e-5)


def test_phi3_in_blocks(tmp_path):
    """The rows of a fused projection are those of the blocks: as float32 the values of the package gguf."""
    settings, kind = config("phi3"), gguf.GGMLQuantizationType.Q8_0
    stored, expanded = {}, {}
    for name, array in by_name_map("phi3", tensors("phi3"), settings["num_hidden_layers"]).items():
        if name.startswith("blk.") and array.ndim == 2 and array.shape[1] % 32 == 0:
            rows = gguf.quants.quantize(array, kind)
            stored[name], expanded[name] = ("Q8_0", rows), gguf.quants.dequantize(rows, kind)
    assert len(stored) >= 6
    paths = [phi3_file(tmp_path / f"{i}.gguf", settings, each) for i, each in enumerate((stored, expanded))]
    ids, float32 = inputs(40)[0], {"compute_type": "float32"}
    expected = load_model(paths[1])(ids).logits
    np.testing.assert_array_equal(load_model(paths[0], **float32)(ids).logits, expected)
    np.testing.assert_allclose(load_model(paths[0])(ids).logits, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("further", "factors", "said"),
    [
        ({"rope.scaling.type": "yarn"}, {}, "rope.scaling.type is 'yarn'; supported: none, longrope"),
        ({"rope.dimension_count": 9}, {}, "rope.dimension_count is 9; needed: an even number up to 8"),
        ({"rope.dimension_count": 4}, {"short": 2}, "'rope_factors_long.weight' is missing; needed: "),
        ({"rope.dimension_count": 4}, {"short": 3, "long": 2}, r"short.weight' is of shape \(3,\); needed: \(2,\)"),
    ],
)
def test_refusals_of_phi3(tmp_path, further, factors, said):
    factors = {f"rope_factors_{kind}.weight": np.ones(count, np.float32) for kind, count in factors.items()}
    with pytest.raises(CheckpointError, match=said):
        load_model(phi3_file(tmp_path / "a.gguf", config("phi3"), factors, **further))


@pytest.mark.parametrize("window", [4, 0, None])
def test_starcoder2(tmp_path, window):
    settings = config("starcoder2")
    folder = load_model(write(tmp_path / "a", "starcoder2", {"sliding_window": window or None}))
    keys = {key: value for key, value in metadata_of(settings).items() if not key.endswith("rms_epsilon")}
    keys |= {"starcoder2.attention.layer_norm_epsilon": 1e-5, "starcoder2.attention.sliding_window": window}
    named = by_name_map("starcoder2", tensors("starcoder2"), settings["num_hidden_layers"])
    model, ids = load_model(write_gguf(tmp_path / "a.gguf", "starcoder2", keys, named)), inputs(40)[0]
    assert type(model) is type(folder)
    np.testing.assert_array_equal(model(ids).logits, folder(ids).logits)


# --- BERT -------------------------------------------------------------------------------------------------------------


def bert_metadata(**further):
    fields = {"context_length": "max_position_embeddings", "embedding_length": "hidden_size"}
    fields |= {"block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size"}
    fields |= {"attention.head_count": "num_attention_heads", "attention.layer_norm_epsilon": "layer_norm_eps"}
    keys = {key: TINY_BERT[field] for key, field in fields.items()} | {"attention.causal": False} | further
    return {f"bert.{key}": value for key, value in keys.items()}


def bert_file(path, replaced=None, **further):
    named = by_name_map("bert", bert_tensors(pooler=False), TINY_BERT["num_hidden_layers"])
    return write_gguf(path, "bert", bert_metadata(**further), named | (replaced or {}))


def test_bert(tmp_path):
    folder = load_model(write_bert(tmp_path / "a", tensors=bert_tensors(pooler=False)))
    model = load_model(bert_file(tmp_path / "a.gguf"))
    ids, mask = np.array([[2, 7, 8, 3], [2, 9, 3, 0]]), np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    types = np.array([[0, 0, 1, 1], [0, 1, 1, 0]])
    got, expected = (m(ids, mask, types).last_hidden_state[mask > 0] for m in (model, folder))
    np.testing.assert_array_equal(got, expected)


def test_roberta(tmp_path):
    """Files have it as BERT, without the rows of positions that padding would have."""
    settings = TINY_BERT | {"model_type": "roberta", "architectures": ["RobertaModel"], "pad_token_id": 1}
    settings |= {"max_position_embeddings": 34, "type_vocab_size": 1}
    arrays = bert_tensors(settings, pooler=False)
    folder = load_model(write_bert(tmp_path / "a", settings, arrays))
    arrays["embeddings.position_embeddings.weight"] = arrays["embeddings.position_embeddings.weight"][2:]
    named = by_name_map("bert", arrays, settings["num_hidden_layers"])
    model = load_model(write_gguf(tmp_path / "a.gguf", "bert", bert_metadata(), named))
    ids = np.array([[2, 7, 8, 3], [2, 9, 11, 3]])
    np.testing.assert_array_equal(model(ids).last_hidden_state, folder(ids).last_hidden_state)


def test_distilbert(tmp_path):
    """Files have it as BERT without types of tokens."""
    arrays = bert_tensors(pooler=False)
    arrays["embeddings.token_type_embeddings.weight"] *= 0
    folder = load_model(write_bert(tmp_path / "a", tensors=arrays))
    model = load_model(bert_file(tmp_path / "a.gguf", {"token_types.weight": None}))
    ids = np.array([[2, 7, 8, 3], [2, 9, 11, 3]])
    np.testing.assert_array_equal(model(ids).last_hidden_state, folder(ids).last_hidden_state)


REFUSED = [
    ({"attention.causal": True}, {}, r"'bert\.attention\.causal' is True; needed: False"),
    ({"attention.head_count_kv": 1}, {}, r"'bert\.attention\.head_count_kv' is 1; needed: 3"),
    ({"pooling_type": 4}, {}, r"pooling_type is 4; supported: 0, 1, 2, 3"),
    ({"rope.freq_base": 1e4}, {}, r"bert\.rope\.freq_base"),
    (
        {},
        {"token_types.weight": np.zeros(24, np.float32)},
        r"'token_types\.weight' has shape \(24,\); needed: two axes",
    ),
    ({}, {"cls.weight": np.zeros((24, 24), np.float32)}, r"does not use: 'cls\.weight'"),
    ({"context_length": 31}, {}, r"'position_embd\.weight' has shape \(32, 24\); needed by config\.json: \(31, 24\)"),
]


@pytest.mark.parametrize(("further", "replaced", "said"), REFUSED, ids=[said[:40] for *_, said in REFUSED])
def test_refusals_of_bert(tmp_path, further, replaced, said):
    with pytest.raises(CheckpointError, match=said) as error:
        load_model(bert_file(tmp_path / "a.gguf", replaced, **further))
    assert str(tmp_path / "a.gguf") in str(error.value)


def test_refusals_of_gemma3(tmp_path):
    path = gemma_file(tmp_path / "a.gguf", "gemma3", **{"attention.sliding_window_pattern": [True] * 3})
    with pytest.raises(CheckpointError, match=r"'an array of 3 values'; needed: a number, or 2 booleans"):
        load_model(path)


def wordpiece():
    """The alphabet's letters and words of the folder's vocabulary, as llama.cpp's converter writes them."""
    words = [word[2:] if word.startswith("##") else f"\u2581{word}" for word in WORDS[5:]]
    padding = [f"\u2581[unused{i}]" for i in range(TINY_BERT["vocab_size"] - len(WORDS))]
    keys = {
        "model": "bert",
        "tokens": [*WORDS[:5], *words, *padding],
        "token_type": [3] * 5 + [1] * (len(words + padding)),
    }
    keys |= {"bos_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1, "padding_token_id": 0}
    keys |= {"mask_token_id": 4, "normalizer.lowercase": True}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def sentence_folder(folder, pooling):
    """A tokenizer and the files of sentence-transformers, in a folder with a model."""
    write_tokenizer(folder, config={"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    write_json(folder / "modules.json", [{"type": "models.Transformer", "path": ""}, POOLING])
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": pooling or "mean"})


@pytest.mark.parametrize(("number", "pooling"), [(1, "mean"), (2, "cls"), (3, "lasttoken"), (0, None), (None, None)])
def test_sentence_encoder(tmp_path, number, pooling):
    """pooling_type is what modules.json says of the pooling."""
    pytest.importorskip("tokenizers")
    write_bert(tmp_path / "a", tensors=bert_tensors(pooler=False))
    sentence_folder(tmp_path / "a", pooling)
    path = write_gguf(
        tmp_path / "a.gguf",
        "bert",
        bert_metadata(pooling_type=number) | wordpiece(),
        by_name_map("bert", bert_tensors(pooler=False), TINY_BERT["num_hidden_layers"]),
    )
    ours, folder = (SentenceEncoder.from_pretrained(place) for place in (path, tmp_path / "a"))
    np.testing.assert_array_equal(ours.encode(SENTENCES), folder.encode(SENTENCES))


# --- NomicBERT --------------------------------------------------------------------------------------------------------

NOMIC = NomicBertConfig(TINY_BERT["vocab_size"], 64, 96, 2, 4, max_position_embeddings=32)


@pytest.fixture(scope="module")
def nomic():
    manual_seed(0)
    return NomicBertModel(NOMIC)


def nomic_file(path, folder, replaced=None, tokenizer=None, **further):
    """A GGUF file of the tensors in a folder."""
    keys = {"context_length": 32, "embedding_length": 64, "block_count": 2, "feed_forward_length": 96}
    keys |= {"attention.head_count": 4, "attention.layer_norm_epsilon": 1e-12, "attention.causal": False}
    keys = {f"nomic-bert.{key}": value for key, value in (keys | {"rope.freq_base": 1000.0} | further).items()}
    keys |= tokenizer or {}
    arrays = {name: tensor.array() for name, tensor in open_source(folder).tensors().items()}
    named = by_name_map("nomic-bert", {n.removeprefix("nomic_bert."): a for n, a in arrays.items()}, 2)
    return write_gguf(path, "nomic-bert", keys, named | (replaced(named) if replaced else {}))


def test_nomic_bert(tmp_path, nomic):
    nomic.save_pretrained(tmp_path / "a")
    ids, mask = np.array([[2, 7, 8, 3], [2, 9, 3, 0]]), np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    types = np.array([[0, 0, 1, 1], [0, 1, 1, 0]])
    expected = nomic(ids, mask, types).last_hidden_state
    model = load_model(nomic_file(tmp_path / "a.gguf", tmp_path / "a"))
    single = float(np.float32(NOMIC.layer_norm_eps))
    assert type(model) is NomicBertModel and model.config == dataclasses.replace(NOMIC, layer_norm_eps=single)
    np.testing.assert_array_equal(model(ids, mask, types).last_hidden_state, expected)
    slower = load_model(nomic_file(tmp_path / "b.gguf", tmp_path / "a", **{"rope.freq_base": 10.0}))
    assert np.abs(slower(ids, mask, types).last_hidden_state - expected).max() > 1e-3


def test_nomic_bert_in_blocks(tmp_path, nomic):
    nomic.save_pretrained(tmp_path / "a")
    kind, values = gguf.GGMLQuantizationType.Q8_0, {}

    def in_blocks(named):
        matrices = {name: array for name, array in named.items() if name.startswith("blk.") and array.ndim == 2}
        rows = {name: gguf.quants.quantize(array, kind) for name, array in matrices.items()}
        values.update({name: gguf.quants.dequantize(array, kind) for name, array in rows.items()})
        return {name: ("Q8_0", array) for name, array in rows.items()}

    model = load_model(nomic_file(tmp_path / "a.gguf", tmp_path / "a", in_blocks))
    floats = load_model(nomic_file(tmp_path / "b.gguf", tmp_path / "a", lambda named: values))
    layer = model.layers[1]
    parts = (layer.Wqkv, layer.out_proj, layer.gate_proj, layer.up_proj, layer.down_proj)
    assert len(values) == 2 * len(parts) and all(part.packed().format == "Q8_0" for part in parts)
    ids = np.array([[2, 7, 8, 3]])
    expected = floats(ids).last_hidden_state
    np.testing.assert_allclose(model(ids).last_hidden_state, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


def test_sentence_encoder_of_nomic_bert(tmp_path, nomic):
    pytest.importorskip("tokenizers")
    nomic.save_pretrained(tmp_path / "a")
    sentence_folder(tmp_path / "a", "mean")
    path = nomic_file(tmp_path / "a.gguf", tmp_path / "a", tokenizer=wordpiece(), pooling_type=1)
    ours, folder = (SentenceEncoder.from_pretrained(place) for place in (path, tmp_path / "a"))
    np.testing.assert_array_equal(ours.encode(SENTENCES), folder.encode(SENTENCES))


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ({"rope.freq_base": None}, "no metadata 'nomic-bert.rope.freq_base'"),
        ({"rope.dimension_count": 8}, "rope.dimension_count' is 8; needed: 16"),
        ({"rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'; needed: none"),
        ({"attention.causal": True}, "attention.causal' is True; needed: False"),
        ({"moe_every_n_layers": 2}, "nomic-bert.moe_every_n_layers"),
    ],
)
def test_refusals_of_nomic_bert(tmp_path, nomic, further, said):
    nomic.save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match=said):
        load_model(nomic_file(tmp_path / "a.gguf", tmp_path / "a", **further))


# --- metadata that is not what it should be ---------------------------------------------------------------------------

VALUES = (
    0,
    1,
    3,
    2**31,
    2.5,
    True,
    "",
    "x",
    "sliding",
    [1, 2],
    [0.5] * 40,
    ["a", "b"],
    [True, False],
    b"\x01\x02",
    None,
)
LETTERS = [*(chr(ord("a") + i) for i in range(26)), "▁", "▁a", "ab", *(f"<{i}>" for i in range(11))]
TOKENS = {
    "gpt2": {"pre": "gpt-2", "merges": ["a b"], "bos_token_id": 1, "eos_token_id": 2},
    "llama": {"scores": [-float(i) for i in range(40)], "add_space_prefix": False},
    "bert": {
        **{f"{name}_token_id": 29 + i for i, name in enumerate(("bos", "seperator", "unknown", "padding", "mask"))},
        "normalizer.lowercase": True,
    },
    "t5": {"scores": [-float(i) for i in range(40)], "remove_extra_whitespaces": True, "add_space_prefix": True},
}


def experts(case):
    settings = settings_of(case)
    return ARCHITECTURES[case], metadata_of_experts(settings), in_gguf(settings, tensors_of(settings))


def bert(pooling):
    arrays = bert_tensors(TINY_BERT | {"vocab_size": 40}, pooler=False)
    return "bert", bert_metadata(pooling_type=pooling), by_name_map("bert", arrays, 2)


FILES = {
    "gemma3": (
        lambda: ("gemma3", gemma_metadata("gemma3", **GEMMA3), by_name_map("gemma3", tensors("gemma3"), 2)),
        "llama",
    ),
    "gpt2": (lambda: ("gpt2", gpt2_metadata(config("gpt2")), by_name_map("gpt2", tensors("gpt2"), 2)), "gpt2"),
    "mixtral": (lambda: experts("mixtral"), "llama"),
    "gpt-oss": (lambda: experts("gpt_oss"), "gpt2"),
    "bert": (lambda: bert(1), "bert"),
    "bert of t5": (lambda: bert(2), "t5"),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("count", [120, pytest.param(2000, marks=pytest.mark.stress)])
def test_mutated_metadata(tmp_path, file, count):
    """Another value, of whatever type, for some keys: an error that names the file, or a model and a tokenizer."""
    pytest.importorskip("tokenizers")
    make, kind = FILES[file]
    architecture, metadata, named = make()
    keys = metadata | {"tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": LETTERS, "general.name": "x"}
    keys |= {"tokenizer.ggml.token_type": [1] * 29 + [3] * 11, "tokenizer.chat_template": "{{ messages[0].content }}"}
    keys |= {f"tokenizer.ggml.{key}": value for key, value in TOKENS[kind].items()}
    write_gguf(tmp_path / "a.gguf", architecture, keys, named)
    load_model(tmp_path / "a.gguf")
    assert load_tokenizer(tmp_path / "a.gguf").apply_chat_template([{"role": "user", "content": "ab"}])
    rng, refused, path = np.random.default_rng(0), 0, tmp_path / "b.gguf"
    for _ in range(count):
        some = dict(keys)
        for key in rng.choice(list(keys), rng.integers(1, 3), replace=False):
            some[key] = VALUES[rng.integers(len(VALUES))]
        write_gguf(path, architecture, some, named)
        try:
            load_tokenizer(path).encode("ab a")
            load_model(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            refused += 1
    assert count / 4 < refused < count
