"""SentenceEncoder and CrossEncoder next to sentence-transformers, live: each module, each option, on tiny folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from model_folders import TINY_BERT, WORDS, bert_tensors, write_bert, write_json, write_sentence_model, write_tokenizer
from pipeline_folders import LABELS, write_head

from transformer_fast.pipelines import CrossEncoder, SentenceEncoder
from transformer_fast.util import SIMILARITIES, quantize_embeddings

pytestmark = pytest.mark.oracle
TOLERANCE = 1e-5
H = TINY_BERT["hidden_size"]
TEXTS = ["the cat sat", "", "dog ran far, far away from the mat and the cat and the dog and me", "The Dog!"]
PAIRS = [("the cat", "sat on the mat"), ("", "dog"), ("dog " * 12, "the cat sat on the mat, " * 4), ("a", "")]
POOLINGS = ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.fixture
def st(torch):
    torch.manual_seed(0)
    return pytest.importorskip("sentence_transformers")


def both(st, folder, **options):
    return st.SentenceTransformer(str(folder), device="cpu", **options), SentenceEncoder.from_pretrained(folder)


def alike(ours, theirs, method="encode", texts=TEXTS, **options):
    found, expected = (getattr(model, method)(texts, **options) for model in (ours, theirs))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    return found


def saved(model, folder):
    model.eval().save(str(folder))
    return SentenceEncoder.from_pretrained(folder)


# ----------------------------------------------------------------------------------------------------------------------
# Modules


@pytest.mark.parametrize("activation", ["Sigmoid", "SiLU", "GELU"])
def test_layer_norm_and_activations(st, torch, tmp_path, activation):
    plain = st.SentenceTransformer(str(write_sentence_model(tmp_path / "plain")), device="cpu")
    norm = st.models.LayerNorm(10)
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    dense = st.models.Dense(H, 10, activation_function=getattr(torch.nn, activation)())
    theirs = st.SentenceTransformer(modules=[*plain, dense, norm, st.models.Dropout(0.3)], device="cpu")
    ours = saved(theirs, tmp_path / "saved")
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension() == 10
    alike(ours, theirs)


@pytest.mark.parametrize("pooling", [*POOLINGS, POOLINGS], ids=str)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_word_weights(st, tmp_path, pooling, include_prompt):
    plain = st.SentenceTransformer(str(write_sentence_model(tmp_path / "plain")), device="cpu")
    weights = {word: 0.25 * i for i, word in enumerate(WORDS[2:30])} | {"the": 0.0}
    weighted = st.models.WordWeights([word.upper() for word in WORDS], weights, unknown_word_weight=0.5)
    theirs = st.SentenceTransformer(
        modules=[plain[0], weighted, st.models.Pooling(H, pooling, include_prompt)], device="cpu"
    )
    ours = saved(theirs, tmp_path / "saved")
    alike(ours, theirs)
    alike(ours, theirs, prompt="the dog ")
    tokens = [model.encode(TEXTS[:2], output_value="token_embeddings") for model in (ours, theirs)]
    for one, other in zip(*tokens, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


def tokenizer_of(folder):
    from tokenizers import Tokenizer

    folder.mkdir()
    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    return tokenizer


@pytest.mark.parametrize("limit", [None, 7])
def test_static_embedding(st, tmp_path, limit):
    tokenizer = tokenizer_of(tmp_path / "tokens")
    if limit:
        tokenizer.enable_truncation(limit)
    static = st.models.StaticEmbedding(tokenizer, embedding_dim=12)
    theirs = st.SentenceTransformer(modules=[static, st.models.Normalize()], device="cpu")
    theirs.prompts |= {"query": "the dog ", "document": None}
    ours = saved(theirs, tmp_path / "saved")
    for options in ({}, {"prompt_name": "query"}, {"truncate_dim": 5, "normalize_embeddings": True}):
        alike(ours, theirs, **options)
    alike(ours, theirs, "encode_query")
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension() == 12
    assert ours.max_seq_length == theirs.max_seq_length
    features = theirs.preprocess(TEXTS)
    for name, array in ours.tokenize(TEXTS).items():
        assert np.array_equal(array, features[name])


@pytest.mark.parametrize("parts", [(), ("mapping",), ("weights",), ("mapping", "weights")], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_folders_of_model2vec(st, tmp_path, parts, dtype):
    from safetensors.numpy import save_file

    if dtype is np.int8 and "weights" not in parts:
        pytest.skip("torch has no mean of integers")
    rng = np.random.default_rng(0)
    folder, count = tmp_path / "m", len(WORDS)
    tokenizer_of(folder).save(str(folder / "tokenizer.json"))
    rows = 30 if "mapping" in parts else count
    tensors = {"embeddings": (5 * rng.standard_normal((rows, 8))).astype(dtype)}
    tensors |= {"mapping": rng.integers(0, rows, count)} if "mapping" in parts else {}
    tensors |= {"weights": rng.random(count)} if "weights" in parts else {}
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", {"model_type": "model2vec", "normalize": True, "hidden_dim": 8})
    kinds = [(".", "StaticEmbedding"), ("1_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    theirs, ours = both(st, folder)
    half = dtype is np.float16  # in which they compute, with NaN for a text without tokens
    texts = [text for text in TEXTS if text or not half]
    expected = theirs.encode(texts).astype(np.float32)
    np.testing.assert_allclose(ours.encode(texts), expected, atol=2e-3 if half else TOLERANCE)
    (folder / "modules.json").unlink()
    assert np.array_equal(SentenceEncoder.from_pretrained(folder).encode(TEXTS), ours.encode(TEXTS))


def parts_of(st, tmp_path, name, seed, pooling="mean"):
    folder = write_sentence_model(tmp_path / name, {"pooling_mode": pooling, "embedding_dimension": H})
    write_bert(folder, TINY_BERT, bert_tensors(seed=seed))
    return list(st.SentenceTransformer(str(folder), device="cpu"))


@pytest.mark.parametrize("default", ["document", "query", None])
def test_routes_of_queries_and_documents(st, torch, tmp_path, default):
    query, document = parts_of(st, tmp_path, "q", 1), parts_of(st, tmp_path, "d", 2, "cls")
    shared = st.models.Dense(H, 9)
    router = st.models.Router.for_query_document(
        [*query, shared], [*document, shared], default_route=default, allow_empty_key=default is not None
    )
    theirs = st.SentenceTransformer(modules=[router, st.models.Normalize()], device="cpu")
    theirs.prompts |= {"query": "the cat ", "document": "dog "}
    ours = saved(theirs, tmp_path / "saved")
    queries, documents = (alike(ours, theirs, f"encode_{task}") for task in ("query", "document"))
    assert np.abs(queries - documents).max() > 0.1
    alike(ours, theirs, task="query")
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension() == 9
    assert ours.max_seq_length == theirs.max_seq_length
    for model in (ours, theirs):
        model.max_seq_length = 6
    alike(ours, theirs, "encode_document")
    if default is None:
        for model in (ours, theirs):
            with pytest.raises(ValueError, match="route"):
                model.encode(TEXTS)
    else:
        alike(ours, theirs)
    for model in (ours, theirs):
        with pytest.raises(ValueError, match="task"):
            model.encode(TEXTS, task="title")


def test_static_queries_and_other_mappings(st, tmp_path):
    """A router among other modules: a static route, a shared pooling behind, and names by task and modality."""
    tokenizer = tokenizer_of(tmp_path / "tokens")
    static = st.models.StaticEmbedding(tokenizer, embedding_dim=H)
    router = st.models.Router(
        {"light": [static], "heavy": parts_of(st, tmp_path, "d", 2)},
        route_mappings={("query", "text"): "light", ("document", None): "heavy", (None, "image"): "light"},
    )
    theirs = st.SentenceTransformer(modules=[router, st.models.Dense(H, 5), st.models.Normalize()], device="cpu")
    ours = saved(theirs, tmp_path / "saved")
    for options in ({}, {"task": "light"}, {"task": "heavy"}, {"task": "query"}, {"task": "document"}):
        alike(ours, theirs, **options)
    alike(ours, theirs, "encode_query")
    alike(ours, theirs, "encode_document")


def test_pooling_behind_a_router_and_router_behind_a_pooling(st, tmp_path):
    query, document = parts_of(st, tmp_path, "q", 1), parts_of(st, tmp_path, "d", 2)
    router = st.models.Router.for_query_document([query[0]], [document[0]])
    theirs = st.SentenceTransformer(modules=[router, st.models.Pooling(H, ["max", "mean"])], device="cpu")
    ours = saved(theirs, tmp_path / "first")
    alike(ours, theirs, "encode_query")
    alike(ours, theirs, "encode_document")
    router = st.models.Router.for_query_document([st.models.Dense(H, 6)], [st.models.Dense(H, 6)])
    theirs = st.SentenceTransformer(modules=[*query, router], device="cpu")
    ours = saved(theirs, tmp_path / "last")
    alike(ours, theirs, "encode_query")
    alike(ours, theirs, "encode_document")


def test_asym_of_older_releases(st, tmp_path):
    theirs = st.SentenceTransformer(
        modules=[
            *parts_of(st, tmp_path, "q", 1),
            st.models.Router({"query": [st.models.Dense(H, 6)], "doc": [st.models.Dense(H, 6)]}, allow_empty_key=False),
        ],
        device="cpu",
    ).eval()
    theirs.save(str(tmp_path / "saved"))
    folder = next((tmp_path / "saved").glob("2_*"))
    config = json.loads((folder / "router_config.json").read_text())
    (folder / "router_config.json").unlink()
    write_json(folder / "config.json", config | {"parameters": {"allow_empty_key": False}})
    modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.Asym"
    write_json(tmp_path / "saved" / "modules.json", modules)
    theirs, ours = both(st, tmp_path / "saved")
    for task in ("query", "doc"):
        alike(ours, theirs, task=task)


# ----------------------------------------------------------------------------------------------------------------------
# Options


@pytest.mark.parametrize("include_prompt", [True, False])
def test_options(st, tmp_path, include_prompt):
    prompts = {"query": "the cat ", "passage": "dog ", "document": None, "other": None}
    folder = write_sentence_model(
        tmp_path / "m",
        {"embedding_dimension": H, "pooling_mode": "mean", "include_prompt": include_prompt},
        config_sentence_transformers={"prompts": prompts, "default_prompt_name": "passage"},
    )
    theirs, ours = both(st, folder)
    assert ours.prompts == theirs.prompts
    for method in ("encode", "encode_query", "encode_document"):
        for options in (
            {},
            {"prompt_name": "other"},
            {"prompt_name": "passage"},
            {"prompt": "far "},
            {"truncate_dim": 5},
            {"truncate_dim": 7, "normalize_embeddings": True, "batch_size": 2},
            {"device": "cpu", "convert_to_numpy": True, "precision": "float32"},
        ):
            alike(ours, theirs, method, **options)
            alike(ours, theirs, method, texts="the dog", **options)
    alike(ours, theirs, texts=np.array(TEXTS))
    alike(ours, theirs, texts=np.array(TEXTS, object))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_similarities(st, tmp_path, similarity):
    folder = write_sentence_model(
        tmp_path / "m", config_sentence_transformers={"similarity_fn_name": similarity, "truncate_dim": 20}
    )
    theirs, ours = both(st, folder)
    assert ours.similarity_fn_name == theirs.similarity_fn_name == similarity
    a, b = np.random.default_rng(0).standard_normal((2, 9, 20)).astype(np.float32)
    for method in ("similarity", "similarity_pairwise"):
        for one, other in ((a, b), (a[0], b[0])):
            expected = getattr(theirs, method)(one, other).numpy()
            np.testing.assert_allclose(getattr(ours, method)(one, other), expected, atol=TOLERANCE)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions(st, tmp_path, precision):
    from sentence_transformers.util import quantize_embeddings as their_quantize

    theirs, ours = both(st, write_sentence_model(tmp_path / "m", normalize=True))
    found = ours.encode(TEXTS, precision=precision)
    assert found.dtype == theirs.encode(TEXTS, precision=precision).dtype
    # From the same float32 to the bit: numbers that differ in the last digit may lie on two sides of a step.
    np.testing.assert_array_equal(found, their_quantize(ours.encode(TEXTS), precision))
    np.testing.assert_array_equal(found, quantize_embeddings(ours.encode(TEXTS), precision))
    if "int8" in precision:
        for model in (ours, theirs):
            with pytest.raises(ValueError, match="int8"):
                model.encode("dog", precision=precision)
    else:
        np.testing.assert_array_equal(
            ours.encode("dog", precision=precision), theirs.encode("dog", precision=precision)
        )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pairs(st, tmp_path, pooling):
    names = ["input_ids", "token_type_ids", "attention_mask"]
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": 20, "model_input_names": names}
    folder = write_sentence_model(
        tmp_path / "m", {"embedding_dimension": H, "pooling_mode": pooling}, tokenizer_config=config
    )
    theirs, ours = both(st, folder)
    alike(ours, theirs, texts=PAIRS)
    alike(ours, theirs, texts=PAIRS, prompt="the cat ")
    features = theirs.preprocess(PAIRS)
    for name, array in ours.tokenize(PAIRS).items():
        assert np.array_equal(array, features[name]), name


# ----------------------------------------------------------------------------------------------------------------------
# CrossEncoder


def cross_encoders(st, folder, **options):
    return st.CrossEncoder(str(folder), device="cpu", **options), CrossEncoder.from_pretrained(folder, **options)


@pytest.mark.parametrize("labels", [1, 2, len(LABELS)])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.0.1"}},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"},
    ],
    ids=str,
)
def test_predict(st, torch, tmp_path, labels, config):
    theirs, ours = cross_encoders(st, write_head(tmp_path / "m", "SequenceClassification", labels, **config))
    assert ours.num_labels == theirs.num_labels == labels and ours.max_seq_length == theirs.max_seq_length == 20
    for options in (
        {},
        {"batch_size": 1},
        {"apply_softmax": True},
        {"activation_fn": torch.nn.Sigmoid()},
        {"activation_fn": torch.nn.Identity(), "apply_softmax": True},
        {"prompt": "the cat "},
    ):
        for pairs in (PAIRS, PAIRS[0]):
            found, expected = ours.predict(pairs, **options), theirs.predict(pairs, **options)
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
            assert np.shape(found) == np.shape(expected) and found.dtype == np.float32
    for pairs in ([list(pair) for pair in PAIRS], np.array(PAIRS), PAIRS[:1], list(PAIRS[0])):
        np.testing.assert_allclose(ours.predict(pairs), theirs.predict(pairs), atol=TOLERANCE)
    for model in (ours, theirs):
        model.max_seq_length = 9
    np.testing.assert_allclose(ours.predict(PAIRS), theirs.predict(PAIRS), atol=TOLERANCE)


def test_rank(st, tmp_path):
    theirs, ours = cross_encoders(st, write_head(tmp_path / "m", "SequenceClassification", 1), max_length=15)
    for options in ({}, {"top_k": 2}, {"return_documents": True}, {"prompt": "dog "}):
        found, expected = (model.rank("the cat", TEXTS, **options) for model in (ours, theirs))
        assert [hit.keys() for hit in found] == [hit.keys() for hit in expected]
        for one, other in zip(found, expected, strict=True):
            assert one["corpus_id"] == other["corpus_id"] and one.get("text") == other.get("text")
            assert one["score"] == pytest.approx(other["score"], abs=TOLERANCE)


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid", "Tanh"])
def test_cross_encoder_as_it_is_saved(st, torch, tmp_path, activation):
    theirs = st.CrossEncoder(
        str(write_head(tmp_path / "m", "SequenceClassification", 1)),
        device="cpu",
        activation_fn=getattr(torch.nn, activation)(),
        prompts={"query": "the cat "},
        default_prompt_name="query",
    )
    theirs.save(str(tmp_path / "saved"))
    theirs, ours = cross_encoders(st, tmp_path / "saved")
    for options in ({}, {"prompt": ""}, {"prompt_name": "query"}):
        np.testing.assert_allclose(ours.predict(PAIRS, **options), theirs.predict(PAIRS, **options), atol=TOLERANCE)
