"""SparseEncoder next to sentence-transformers, live: each module and option, on tiny folders that it saves itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from model_folders import TINY_BERT, WORDS, write_json, write_sentence_model, write_tokenizer

from transformer_fast import util
from transformer_fast.pipelines import SparseEncoder

pytestmark = pytest.mark.oracle
pytest.importorskip("scipy")
TOLERANCE = 1e-5
H, V = TINY_BERT["hidden_size"], len(WORDS)
TEXTS = ["the cat sat", "", "dog ran far, far away from the mat and the cat and the dog and me", "The Dog!"]
FAMILIES = {
    "bert": {"type_vocab_size": 2},
    "distilbert": {"dim": H, "n_layers": 2, "n_heads": 3, "hidden_dim": 40},
    "modernbert": {"num_hidden_layers": 2, "global_attn_every_n_layers": 2, "local_attention": 8, "pad_token_id": 0},
}


@pytest.fixture
def st(torch):
    torch.manual_seed(0)
    return pytest.importorskip("sentence_transformers")


@pytest.fixture
def modules(st):
    from sentence_transformers.sparse_encoder import modules

    return modules


def write_masked_lm(torch, folder, family="bert"):
    """A masked-language model with random weights large enough for logits of both signs."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    sizes = {"vocab_size": V, "hidden_size": H, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 40, "max_position_embeddings": 32}
    if family == "distilbert":
        sizes = {"vocab_size": V, "max_position_embeddings": 32}
    ends = dict.fromkeys(("bos_token_id", "cls_token_id"), 2) | dict.fromkeys(("eos_token_id", "sep_token_id"), 3)
    config = AutoConfig.for_model(family, **sizes | (ends if family == "modernbert" else {}) | FAMILIES[family])
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def dense(embeddings):
    return embeddings.to_dense().numpy() if embeddings.is_sparse else embeddings.numpy()


def alike(ours, theirs, method="encode", texts=TEXTS, **options):
    """Equal indices, and values within the tolerance; both results."""
    found, expected = (getattr(model, method)(texts, **options) for model in (ours, theirs))
    np.testing.assert_array_equal(found.toarray() != 0, dense(expected) != 0)
    np.testing.assert_allclose(found.toarray(), dense(expected), rtol=TOLERANCE, atol=TOLERANCE)
    assert found.shape == tuple(expected.shape) and found.dtype == np.float32
    assert found.nnz == np.count_nonzero(dense(expected))
    return found, expected


def saved(model, folder):
    model.eval().save(str(folder))
    return SparseEncoder.from_pretrained(folder)


# ----------------------------------------------------------------------------------------------------------------------
# Modules


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_splade(st, torch, modules, tmp_path, family, strategy, activation):
    write_masked_lm(torch, tmp_path / "plain", family)
    theirs = st.SparseEncoder(
        modules=[
            modules.Transformer(str(tmp_path / "plain"), transformer_task="fill-mask"),
            modules.SpladePooling(strategy, activation_function=activation),
        ],
        device="cpu",
    )
    ours = saved(theirs, tmp_path / "saved")  # before its first call the width is null
    found, _ = alike(ours, theirs)
    assert 0 < found.nnz < found.shape[0] * V
    alike(saved(theirs, tmp_path / "called"), theirs, texts=["The Dog ran!"])
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension() == V
    assert ours.max_seq_length == theirs.max_seq_length == 20


def test_folder_without_modules(st, torch, tmp_path):
    folder = write_masked_lm(torch, tmp_path / "m")
    theirs, ours = st.SparseEncoder(str(folder), device="cpu"), SparseEncoder.from_pretrained(folder)
    alike(ours, theirs)
    assert ours.similarity_fn_name == theirs.similarity_fn_name == "dot"


def test_folder_of_an_older_release(st, torch, tmp_path):
    """MLMTransformer, the limit in sentence_bert_config.json, word_embedding_dimension."""
    folder = write_masked_lm(torch, tmp_path / "m")
    kinds = [("", "MLMTransformer"), ("1_SpladePooling", "SpladePooling")]
    of_models = "sentence_transformers.sparse_encoder.models"
    files = [
        {"idx": i, "name": str(i), "path": path, "type": f"{of_models}.{kind}"} for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", files)
    write_json(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder", "prompts": {}})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": False})
    (folder / "1_SpladePooling").mkdir()
    config = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": V}
    write_json(folder / "1_SpladePooling" / "config.json", config)
    theirs, ours = st.SparseEncoder(str(folder), device="cpu"), SparseEncoder.from_pretrained(folder)
    assert ours.max_seq_length == theirs.max_seq_length == 9
    alike(ours, theirs)


@pytest.mark.parametrize("kind", ["weights", "json", "path"])
def test_queries_without_inference(st, torch, modules, tmp_path, kind):
    """Documents by SPLADE, queries by weights of tokens: Router, and what it shares."""
    folder = write_masked_lm(torch, tmp_path / "m")
    document = modules.Transformer(str(folder), transformer_task="fill-mask")
    pooling = modules.SpladePooling("max")
    if kind == "weights":
        weight = torch.randn(len(WORDS)).relu()
        query = modules.SparseStaticEmbedding(tokenizer=document.tokenizer, weight=weight, frozen=True)
    else:
        write_json(tmp_path / "idf.json", {word: 0.25 * i for i, word in enumerate(WORDS[5:30])} | {"the": -1.5})
        query = modules.SparseStaticEmbedding.from_json(str(tmp_path / "idf.json"), tokenizer=document.tokenizer)
    router = modules.Router.for_query_document([query], [document, pooling])
    theirs = st.SparseEncoder(modules=[router], device="cpu", similarity_fn_name="dot")
    theirs.prompts |= {"query": "the dog ", "document": "query: "}
    ours = saved(theirs, tmp_path / "saved")
    if kind == "path":
        place = tmp_path / "saved" / "query_0_SparseStaticEmbedding"
        (place / "model.safetensors").unlink()
        (place / "idf.json").write_bytes((tmp_path / "idf.json").read_bytes())
        write_json(place / "config.json", {"frozen": False, "path": "idf.json"})
        ours = SparseEncoder.from_pretrained(tmp_path / "saved")
    queries, their_queries = alike(ours, theirs, "encode_query")
    documents, their_documents = alike(ours, theirs, "encode_document")
    alike(ours, theirs, "encode_query", max_active_dims=2, texts=["the cat sat on a mat"])
    np.testing.assert_allclose(
        ours.similarity(queries, documents), theirs.similarity(their_queries, their_documents), rtol=1e-5, atol=1e-5
    )
    hits = util.semantic_search(queries, documents, top_k=3, score_function=util.dot_score)
    expected = st.util.semantic_search(their_queries, their_documents, top_k=3, score_function=st.util.dot_score)
    for one, other in zip(hits, expected, strict=True):
        np.testing.assert_allclose([hit["score"] for hit in one], [hit["score"] for hit in other], atol=1e-5)
        clear = len({round(hit["score"], 4) for hit in other}) == len(other)
        assert not clear or [hit["corpus_id"] for hit in one] == [hit["corpus_id"] for hit in other]
    assert ours.tokenize(TEXTS, task="query")["input_ids"].shape == (4, max(map(len, their_tokens(query))))


def their_tokens(query):
    return query.tokenizer(TEXTS, truncation=True, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("followed", [False, True])
def test_sparse_auto_encoder(st, torch, modules, tmp_path, normalize, followed):
    plain = st.SentenceTransformer(str(write_sentence_model(tmp_path / "plain")), device="cpu")
    auto = modules.SparseAutoEncoder(input_dim=H, hidden_dim=70, k=6, k_aux=4, normalize=normalize)
    for parameter in auto.parameters():
        torch.nn.init.normal_(parameter)
    more = [st.models.Normalize()] if followed else []
    theirs = st.SparseEncoder(modules=[*plain, auto, *more], device="cpu")
    ours = saved(theirs, tmp_path / "saved")
    assert ours.max_active_dims == theirs.max_active_dims == 6
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension() == 70
    alike(ours, theirs)
    for most in (2, 20):
        alike(ours, theirs, max_active_dims=most)


# ----------------------------------------------------------------------------------------------------------------------
# Options and results


@pytest.fixture
def pair(st, torch, tmp_path):
    """Both on one folder, with prompts and a limit of numbers in its files."""
    folder = write_masked_lm(torch, tmp_path / "m")
    theirs = st.SparseEncoder(str(folder), device="cpu", max_active_dims=9, similarity_fn_name="cosine")
    theirs.prompts |= {"query": "the dog ", "passage": "query: "}
    theirs.default_prompt_name = "passage"
    theirs.save(str(tmp_path / "saved"))
    return st.SparseEncoder(str(tmp_path / "saved"), device="cpu"), SparseEncoder.from_pretrained(tmp_path / "saved")


def test_options(pair):
    theirs, ours = pair
    assert (ours.max_active_dims, ours.similarity_fn_name) == (theirs.max_active_dims, "cosine")
    for method in ("encode", "encode_query", "encode_document"):
        found, _ = alike(ours, theirs, method)
        assert max(np.diff(found.indptr)) == 9
    for options in ({"prompt": "far "}, {"prompt_name": "query"}, {"max_active_dims": 3}, {"max_active_dims": 500}):
        alike(ours, theirs, **options)
    alike(ours, theirs, texts="the cat")
    found, expected = (model.encode(TEXTS, convert_to_sparse_tensor=False) for model in (ours, theirs))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    found, expected = (model.encode(TEXTS, convert_to_tensor=False) for model in (ours, theirs))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.toarray(), dense(other), atol=TOLERANCE)


def test_what_vectors_say(pair):
    theirs, ours = pair
    found, expected = alike(ours, theirs)
    for top_k in (None, 4):
        for one, other in zip(ours.decode(found, top_k), theirs.decode(expected, top_k), strict=True):
            assert [token for token, _ in one] == [token for token, _ in other]
            np.testing.assert_allclose([w for _, w in one], [w for _, w in other], atol=TOLERANCE)
    query, their_query = alike(ours, theirs, texts="the cat")
    assert [word for word, _ in ours.decode(query)] == [word for word, _ in theirs.decode(their_query)]
    shared, expected_shared = ours.intersection(query, found), theirs.intersection(their_query, expected)
    np.testing.assert_allclose(shared.toarray(), dense(expected_shared), atol=TOLERANCE)
    single = ours.intersection(query, query)
    np.testing.assert_allclose(single.toarray(), dense(theirs.intersection(their_query, their_query)), atol=TOLERANCE)
    assert ours.sparsity(found) == pytest.approx(theirs.sparsity(expected), abs=1e-6)
    assert ours.sparsity(query) == pytest.approx(theirs.sparsity(their_query), abs=1e-6)


@pytest.mark.parametrize("name", util.SIMILARITIES)
def test_similarities(pair, name):
    theirs, ours = pair
    found, expected = alike(ours, theirs)
    ours.similarity_fn_name = theirs.similarity_fn_name = name
    # Theirs loses the digits of Euclidean distances between vectors that are nearly the same.
    tolerance = 2e-3 if name == "euclidean" else TOLERANCE
    for one, other in ((found, expected), (found.toarray(), expected)):
        np.testing.assert_allclose(ours.similarity(one, found), theirs.similarity(other, expected), atol=tolerance)
    np.testing.assert_allclose(
        ours.similarity_pairwise(found[:2], found[2:]),
        theirs.similarity_pairwise(expected.to_dense()[:2].to_sparse(), expected.to_dense()[2:].to_sparse()),
        atol=TOLERANCE,
    )


def test_settings_are_theirs(pair, tmp_path):
    theirs, ours = pair
    config = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())
    assert config["max_active_dims"] == ours.max_active_dims
    assert ours.prompts == theirs.prompts and ours.default_prompt_name == theirs.default_prompt_name
