"""SparseEncoder by hand: formulas, bits, arguments, refusals. tests/oracle/test_sparse_encoder.py has the peer."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from model_folders import TINY_BERT, WORDS, write_bert, write_json, write_sentence_model, write_tokenizer
from pipeline_folders import TEXTS, write_head
from sparse_folders import STATIC, modules_json, write_csr, write_router, write_splade, write_static

import transformer_fast
from transformer_fast import load_model, util
from transformer_fast.files.errors import CheckpointError
from transformer_fast.pipelines import SparseEncoder, sparse_modules, text_runs

sparse = pytest.importorskip("scipy.sparse")
pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

H, V = TINY_BERT["hidden_size"], TINY_BERT["vocab_size"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_splade(tmp_path_factory.mktemp("sparse") / "m")


@pytest.fixture
def encoder(folder):
    return SparseEncoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    return write_router(tmp_path_factory.mktemp("sparse") / "router")


def same(found, expected):
    """Two csr_arrays, to the bit."""
    for name in ("indptr", "indices", "data"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def logits_of(folder, encoder, text, compute_type="auto"):
    """Of a text's tokens, (L, V)."""
    model = load_model(folder, compute_type=compute_type)
    ids = np.array(encoder.tokenizer.encode(text).ids)
    return model.predictions(model.packed_states(ids, np.array([0, len(ids)])))


# ----------------------------------------------------------------------------------------------------------------------
# Modules


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_splade_is_its_formula(tmp_path, strategy, activation, isa):
    pooling = {"pooling_strategy": strategy, "activation_function": activation, "chunk_size": 2}
    folder = write_splade(tmp_path / "m", pooling)
    encoder = SparseEncoder.from_pretrained(folder)
    found = encoder.encode(TEXTS)
    assert found.shape == (len(TEXTS), V) and found.dtype == np.float32 and (found.data > 0).all()
    for row, text in zip(found.toarray(), TEXTS, strict=True):
        weights = np.log1p(np.maximum(logits_of(folder, encoder, text).astype(np.float64), 0))
        weights = np.log1p(weights) if activation == "log1p_relu" else weights
        np.testing.assert_allclose(row, weights.max(axis=0) if strategy == "max" else weights.sum(axis=0), rtol=1e-5)


@pytest.mark.formats("int8")
@pytest.mark.formats("bfloat16")
@pytest.mark.parametrize("compute_type", ["float16", "bfloat16", "int8", "int8_a16", "int4", "int4_a8"])
def test_compute_types(folder, compute_type, isa):
    encoder = SparseEncoder.from_pretrained(folder, compute_type=compute_type)
    for text in TEXTS[:2]:
        logits = logits_of(folder, encoder, text, compute_type)
        expected = np.log1p(np.maximum(logits.max(axis=0), 0))
        assert np.array_equal(encoder.encode(text, convert_to_sparse_tensor=False), expected)


def test_without_modules_json(tmp_path, encoder):
    folder = write_head(tmp_path / "m", "MaskedLM")
    same(SparseEncoder.from_pretrained(folder).encode(TEXTS), encoder.encode(TEXTS))


def test_modules_on_dense_vectors_may_follow(tmp_path, encoder):
    folder = write_splade(tmp_path / "m", more=[("2_Normalize", "Normalize")])
    found = SparseEncoder.from_pretrained(folder).encode(TEXTS)
    np.testing.assert_allclose(
        found.toarray(), util.normalize_embeddings(encoder.encode(TEXTS).toarray()), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(sparse.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_routes(router, encoder):
    two = SparseEncoder.from_pretrained(router)
    same(two.encode_document(TEXTS), encoder.encode(TEXTS))
    same(two.encode(TEXTS), encoder.encode(TEXTS))
    found = two.encode_query(["the cat sat, the cat", "cat", "", "\u65e5"])
    assert found.shape == (4, len(WORDS))
    expected = np.zeros((4, len(WORDS)), np.float32)
    for row, words in enumerate((["the", "cat", "sat", ","], ["cat"], [], ["[UNK]"])):
        numbers = [WORDS.index(word) for word in words]
        expected[row, numbers] = STATIC[numbers]
    assert np.array_equal(found.toarray(), expected)
    assert found.nnz == np.count_nonzero(expected)


def test_texts_are_cut_off(router, folder):
    two, one = SparseEncoder.from_pretrained(router), SparseEncoder.from_pretrained(folder)
    assert two.max_seq_length == one.max_seq_length == 20
    long = " ".join("abcdefghijklmnopqrstuvwxyz")
    assert two.count_truncated_tokens([long, "a"], task="query").tolist() == [6, 0]
    two.max_seq_length = 5
    assert two.encode_query(long).nnz == 5  # none of them special
    same(two.encode_document([long]), two.encode_document(["a b c"]))
    assert one.count_truncated_tokens(["a b c", long]).tolist() == [0, 8]
    assert two.tokenize(["a b", "c"], task="query")["attention_mask"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("normalize", [False, True])
def test_sparse_auto_encoder_is_its_formula(tmp_path, normalize):
    folder, tensors = write_csr(tmp_path / "m", normalize=normalize)
    encoder = SparseEncoder.from_pretrained(folder)
    plain = transformer_fast.SentenceEncoder.from_pretrained(write_sentence_model(tmp_path / "plain"))
    x = plain.encode(TEXTS).astype(np.float64)
    if normalize:
        x = x - x.mean(axis=1, keepdims=True)
        x /= x.std(axis=1, ddof=1, keepdims=True) + 1e-5
    latents = np.maximum((x - tensors["pre_bias"]) @ tensors["encoder.weight"].T + tensors["latent_bias"], 0)
    assert encoder.max_active_dims == 5
    for k in (5, 2, 40):
        least = np.sort(latents, axis=1)[:, -k, None]
        found = encoder.encode(TEXTS, max_active_dims=k)
        np.testing.assert_allclose(found.toarray(), np.where(latents >= least, latents, 0), atol=1e-5)
    with pytest.raises(ValueError, match="max_active_dims is 41; needed: at most 40"):
        encoder.encode(TEXTS, max_active_dims=41)


# ----------------------------------------------------------------------------------------------------------------------
# Bits


@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_bits_do_not_depend_on_batches_or_threads(tmp_path, strategy, isa, threads, monkeypatch):
    encoder = SparseEncoder.from_pretrained(write_splade(tmp_path / "m", {"pooling_strategy": strategy}))
    texts = TEXTS * 3
    expected = np.stack([encoder.encode(text, convert_to_sparse_tensor=False) for text in texts])
    monkeypatch.setattr(text_runs, "TOKENS_OF_A_THREAD", 50)
    for batch_size in (1, 3, 32):
        found = encoder.encode(texts, batch_size=batch_size)
        assert np.array_equal(found.toarray(), expected)
    monkeypatch.setattr(sparse_modules, "_MOST_NUMBERS", 2 * V)
    same(encoder.encode(texts), found)


def test_many_threads_call_one_encoder(router):
    two = SparseEncoder.from_pretrained(router)
    expected = two.encode_query(TEXTS), two.encode_document(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for queries, documents in pool.map(lambda _: (two.encode_query(TEXTS), two.encode_document(TEXTS)), range(12)):
            same(queries, expected[0])
            same(documents, expected[1])


# ----------------------------------------------------------------------------------------------------------------------
# Arguments and results


def test_inputs_and_forms(encoder):
    found = encoder.encode(TEXTS)
    same(encoder.encode(iter(TEXTS)), found)
    same(encoder.encode(np.array(TEXTS)), found)
    same(encoder.encode(sentences=TEXTS, save_to_cpu=True, device="cpu", show_progress_bar=False), found)
    assert np.array_equal(encoder.encode(TEXTS, convert_to_sparse_tensor=False), found.toarray())
    rows = encoder.encode(TEXTS, convert_to_tensor=False)
    assert isinstance(rows, list) and np.array_equal(rows[1].toarray(), found.toarray()[1])
    assert encoder.encode(TEXTS[0]).shape == (V,)
    assert encoder.encode([]).shape == (0, V) and encoder.encode([], convert_to_tensor=False) == []
    assert encoder.encode([], convert_to_sparse_tensor=False).shape == (0, V)
    assert encoder.get_embedding_dimension() == encoder.get_sentence_embedding_dimension() == V
    assert repr(encoder) == f"SparseEncoder(BertForMaskedLM, dim={V}, pooling=max, max_seq_length=20)"
    assert transformer_fast.SparseEncoder is SparseEncoder


def test_prompts(tmp_path, encoder):
    settings = {"model_type": "SparseEncoder", "prompts": {"query": "the dog ", "document": None}}
    other = SparseEncoder.from_pretrained(write_splade(tmp_path / "m", config_sentence_transformers=settings))
    same(other.encode_query(TEXTS), encoder.encode(["the dog " + text for text in TEXTS]))
    same(other.encode_query(TEXTS, None, None, 2), encoder.encode(TEXTS, prompt="the dog "))
    same(other.encode_document(TEXTS), encoder.encode(TEXTS))
    given = SparseEncoder.from_pretrained(tmp_path / "m", prompts={"query": "far "}, default_prompt_name="query")
    same(given.encode(TEXTS), encoder.encode(TEXTS, prompt="far "))


def test_most_active_numbers(tmp_path, encoder):
    whole = encoder.encode(TEXTS).toarray()
    least = np.sort(whole, axis=1)[:, -4, None]
    expected = np.where(whole >= least, whole, 0)
    assert np.array_equal(encoder.encode(TEXTS, max_active_dims=4).toarray(), expected)
    settings = {"model_type": "SparseEncoder", "max_active_dims": 4, "similarity_fn_name": None}
    folder = write_splade(tmp_path / "m", config_sentence_transformers=settings)
    limited = SparseEncoder.from_pretrained(folder)
    assert np.array_equal(limited.encode(TEXTS).toarray(), expected)
    assert limited.encode(TEXTS, max_active_dims=9).nnz == 9 * len(TEXTS)
    assert SparseEncoder.from_pretrained(folder, max_active_dims=2).encode(TEXTS[0]).nnz == 2


def test_equal_weights_keep_the_first(tmp_path):
    equal = np.ones(len(WORDS), np.float32)
    write_static(tmp_path / "m", equal)
    write_json(tmp_path / "m" / "modules.json", modules_json(("", "SparseStaticEmbedding")))
    encoder = SparseEncoder.from_pretrained(tmp_path / "m")
    found = encoder.encode(["cat the a dog"], max_active_dims=2)
    assert found.indices.tolist() == sorted(map(WORDS.index, "cat the a dog".split()))[:2]
    assert [token for token, _ in encoder.decode(found)[0]] == ["a", "the"]


def test_words_of_a_json_file(tmp_path):
    folder = write_static(tmp_path / "m", None, path="idf.json")
    write_json(folder / "modules.json", modules_json(("", "SparseStaticEmbedding")))
    write_json(folder / "idf.json", {"cat": 2.5, "the": 0, "dog": -1})
    encoder = SparseEncoder.from_pretrained(folder)
    assert encoder.decode(encoder.encode("The dog sat, a cat")) == [("cat", 2.5), ("dog", -1.0)]
    for content, text in (({"horse": 1}, "has the token 'horse'"), ({"cat": "x"}, "an object of numbers")):
        write_json(folder / "idf.json", content)
        with pytest.raises(CheckpointError, match=text):
            SparseEncoder.from_pretrained(folder)
    write_json(folder / "config.json", {"path": "/etc/other.json"})
    with pytest.raises(CheckpointError, match="path is '/etc/other.json'; supported"):
        SparseEncoder.from_pretrained(folder)


def test_decode_intersection_and_sparsity(router):
    two = SparseEncoder.from_pretrained(router)
    found = two.encode_query(["the cat sat", "a cat", ""])
    named = sorted(((w, STATIC[WORDS.index(w)]) for w in ("the", "cat", "sat")), key=lambda pair: -pair[1])
    assert two.decode(found[[0]]) == [[(word, pytest.approx(weight)) for word, weight in named]]
    assert two.decode(found, top_k=1)[0] == [(named[0][0], pytest.approx(named[0][1]))]
    assert two.decode(found)[2] == [] and two.decode(found.toarray()) == two.decode(found)
    assert two.decode(found[0]) == two.decode(found)[0]
    shared = two.intersection(found[0], found)
    assert [[word for word, _ in row] for row in two.decode(shared)][1:] == [["cat"], []]
    assert two.intersection(found[0], found[1]).shape == (len(WORDS),)
    active = [3, 2, 0]
    assert two.sparsity(found) == {"active_dims": np.mean(active), "sparsity_ratio": 1 - np.mean(active) / len(WORDS)}
    assert two.sparsity(found[0])["active_dims"] == 3
    assert two.sparsity(found[:0]) == {"active_dims": 0.0, "sparsity_ratio": 1.0}


def test_wrong_vectors(encoder):
    found = encoder.encode(TEXTS)
    for call in (encoder.decode, encoder.sparsity, lambda x: encoder.intersection(x, found)):
        with pytest.raises(TypeError, match="is a list; needed: an array of scipy.sparse or NumPy"):
            call([1.0, 2.0])
    with pytest.raises(ValueError, match=r"embeddings has shape \(2, 3\)"):
        encoder.decode(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="top_k is 0"):
        encoder.decode(found, top_k=0)
    with pytest.raises(ValueError, match=r"needed: \(dim,\), and"):
        encoder.intersection(found, found)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_active_dims": 0}, "max_active_dims is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"prompt_name": "other"}, "prompt_name is 'other'"),
        ({"device": "cuda"}, "device is 'cuda'"),
        ({"pool": {}}, "pool is {}"),
        ({"chunk_size": 3}, "chunk_size is 3"),
    ],
)
def test_arguments_out_of_range(encoder, options, text):
    with pytest.raises(ValueError, match=text):
        encoder.encode(TEXTS, **options)


def test_texts_that_are_none(encoder):
    with pytest.raises(TypeError, match=r"inputs\[1\] is a int"):
        encoder.encode(["a", 3])
    with pytest.raises(TypeError, match="processing_kwargs"):
        encoder.encode(["a"], processing_kwargs={})


# ----------------------------------------------------------------------------------------------------------------------
# Folders


@pytest.mark.parametrize(
    ("pooling", "text"),
    [
        ({"pooling_strategy": "mean"}, "pooling_strategy is 'mean'; supported: max, sum"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'; supported: relu, log1p_relu"),
        ({"embedding_dimension": 3}, f"embedding_dimension is 3; needed: {V}"),
        ({"chunk_size": "all"}, "chunk_size"),
        ({"other": 1}, "holds other"),
    ],
)
def test_poolings_that_are_refused(tmp_path, pooling, text):
    with pytest.raises(CheckpointError, match=text):
        SparseEncoder.from_pretrained(write_splade(tmp_path / "m", pooling))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"model_type": "SentenceTransformer"}, "model_type is 'SentenceTransformer'; supported here: 'SparseEncoder'"),
        ({"similarity_fn_name": "maxsim"}, "similarity_fn_name is 'maxsim'; supported: dot, cosine"),
        ({"truncate_dim": 8}, "truncate_dim is 8"),
        ({"max_active_dims": 0}, "max_active_dims is 0"),
        ({"max_active_dims": "all"}, "max_active_dims"),
    ],
)
def test_settings_that_are_refused(tmp_path, settings, text):
    folder = write_splade(tmp_path / "m", config_sentence_transformers=settings)
    with pytest.raises(CheckpointError, match=text):
        SparseEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "kinds",
    [
        ["Transformer"],
        ["SpladePooling"],
        ["Transformer", "Pooling"],
        ["Transformer", "SpladePooling", "CNN"],
        ["SparseStaticEmbedding", "SpladePooling"],
        [],
    ],
    ids=str,
)
def test_orders_that_are_refused(tmp_path, kinds):
    folder = write_splade(tmp_path / "m")
    write_json(folder / "modules.json", modules_json(*[(str(i) if i else "", kind) for i, kind in enumerate(kinds)]))
    with pytest.raises(CheckpointError, match=f"are {', '.join(kinds) or 'none'}; supported: Transformer or MLM"):
        SparseEncoder.from_pretrained(folder)


def test_models_without_logits_are_refused(tmp_path):
    write_bert(tmp_path / "m")
    write_tokenizer(tmp_path / "m")
    with pytest.raises(CheckpointError, match="holds a BertModel; SparseEncoder needs a model ForMaskedLM"):
        SparseEncoder.from_pretrained(tmp_path / "m")
    folder = write_splade(tmp_path / "task", sentence_bert_config={"max_seq_length": 9})
    with pytest.raises(CheckpointError, match="transformer_task is 'feature-extraction'; supported: 'fill-mask'"):
        SparseEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"input_dim": 3}, f"input_dim is 3; needed: {H}"),
        ({"k": 41}, "k is 41; needed: 1 to 40"),
        ({"hidden_dim": 41}, "shape"),
        ({"tied": True}, "holds tied"),
    ],
)
def test_auto_encoders_that_are_refused(tmp_path, config, text):
    with pytest.raises(CheckpointError, match=text):
        SparseEncoder.from_pretrained(write_csr(tmp_path / "m", **config)[0])


@pytest.mark.parametrize(
    ("weight", "text"), [(STATIC[:-1], "shape"), (None, "safetensors"), (STATIC[:, None], "shape")], ids=str
)
def test_weights_of_tokens_that_are_refused(tmp_path, weight, text):
    write_static(tmp_path / "m", weight)
    write_json(tmp_path / "m" / "modules.json", modules_json(("", "SparseStaticEmbedding")))
    with pytest.raises(CheckpointError, match=text):
        SparseEncoder.from_pretrained(tmp_path / "m")


def test_without_scipy(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ImportError, match=r"transformer-fast\[sparse\]"):
        SparseEncoder.from_pretrained(folder)
