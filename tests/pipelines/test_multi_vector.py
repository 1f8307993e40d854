"""MultiVectorEncoder and util.maxsim on their own: what a result does not depend on, lengths, and what is refused.

tests/oracle/test_multi_vector.py compares with sentence-transformers.
"""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from model_folders import WORDS, write_json  # noqa: E402
from multi_vector_folders import DIM, EXPANSION, write_colbert, write_multi_vector, write_pylate  # noqa: E402

from transformer_fast import MultiVectorEncoder, util  # noqa: E402
from transformer_fast.files.errors import CheckpointError  # noqa: E402
from transformer_fast.pipelines import HierarchicalTokenPooling, LambdaTokenPooling  # noqa: E402

TEXTS = ["the cat, sat.", "", "dog ran far, far away from the mat and the cat and the dog and me", "the dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_multi_vector(tmp_path_factory.mktemp("multi") / "m")


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_the_same_bits_whatever_the_batch(folder, isa, method):
    encoder = MultiVectorEncoder.from_pretrained(folder)
    together = getattr(encoder, method)(TEXTS)
    for text, vectors in zip(TEXTS, together, strict=True):
        assert np.array_equal(getattr(encoder, method)(text), vectors)
        assert vectors.dtype == np.float32 and vectors.shape[1] == DIM and vectors.base is None
    assert all(map(np.array_equal, together, getattr(encoder, method)(TEXTS, batch_size=1)))
    assert getattr(encoder, method)([]) == []


def test_which_tokens_count(folder):
    encoder = MultiVectorEncoder.from_pretrained(folder)
    assert [len(one) for one in encoder.encode_query(TEXTS)] == [EXPANSION["length"]] * 4
    # [CLS] the cat sat [SEP], without a comma and a full stop
    assert [len(one) for one in encoder.encode_document(TEXTS)][:2] == [5, 2]
    ids = encoder.tokenize(TEXTS[3], task="query")["input_ids"]
    assert [WORDS[i] for i in ids[0]] == ["[CLS]", "the", "dog", "[SEP]"] + ["[MASK]"] * 5
    found = encoder.encode_query(TEXTS[3])
    # No token sees those that are added: the others are as they would be alone.
    alone = encoder.encode(TEXTS[3])
    np.testing.assert_allclose(found[:4], alone, atol=1e-6)
    assert encoder.query_expansion.token == "[MASK]" and encoder.query_expansion.attend is False
    assert (encoder.query_length, encoder.document_length, encoder.max_seq_length) == (None, None, 20)


def test_max_seq_length(folder):
    encoder = MultiVectorEncoder.from_pretrained(folder)
    encoder.max_seq_length = 6
    assert max(len(one) for one in encoder.encode(TEXTS)) <= 6
    assert len(encoder.encode_query(TEXTS[2])) == EXPANSION["length"]  # which has a limit of its own
    with pytest.raises(ValueError, match="max_seq_length is 40"):
        encoder.max_seq_length = 40


def test_similarity(folder):
    encoder = MultiVectorEncoder.from_pretrained(folder, similarity_fn_name="meanmaxsim")
    queries, documents = encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)
    expected = np.array([[(q.astype(float) @ d.T).max(1).mean() for d in documents] for q in queries])
    np.testing.assert_allclose(encoder.similarity(queries, documents), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.similarity_pairwise(queries, documents), np.diag(expected), atol=1e-5)
    encoder.similarity_fn_name = "maxsim"
    np.testing.assert_allclose(encoder.similarity(queries[0], documents[1]), 9 * expected[:1, 1:2], atol=1e-4)
    with pytest.raises(ValueError, match="needed: one of maxsim, meanmaxsim"):
        encoder.similarity_fn_name = "cosine"


def test_threads_share_an_encoder(folder):
    encoder, found = MultiVectorEncoder.from_pretrained(folder), {}
    expected = {task: encoder.encode(TEXTS, task=task) for task in ("query", "document")}

    def run(number):
        found[number] = encoder.encode(TEXTS, task=("query", "document")[number % 2])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, vectors in found.items():
        assert all(map(np.array_equal, vectors, expected[("query", "document")[number % 2]]))


def test_pooling_of_the_folder_and_of_the_call(tmp_path):
    pytest.importorskip("scipy")
    pooled = write_multi_vector(tmp_path / "m", pooling={"pool_factor": 2, "tasks": ["document"]})
    encoder, plain = (
        MultiVectorEncoder.from_pretrained(pooled),
        MultiVectorEncoder.from_pretrained(write_multi_vector(tmp_path / "plain")),
    )
    documents = plain.encode_document(TEXTS)
    found = encoder.encode_document(TEXTS)
    assert [len(one) for one in found] == [max(1, (len(one) - 1) // 2) + 1 for one in documents]
    # A configuration without the field does not scale the means to length 1.
    assert np.linalg.norm(found[2], axis=1).min() < 0.999
    expected = HierarchicalTokenPooling(2, normalize_embeddings=False).pool(documents)
    assert all(map(np.array_equal, found, expected))
    assert all(map(np.array_equal, encoder.encode_query(TEXTS), plain.encode_query(TEXTS)))
    halved = LambdaTokenPooling(lambda vectors: vectors[::2], tasks="query")
    of_call = encoder.encode_query(TEXTS, token_pooling=halved)
    assert all(np.array_equal(one, other[::2]) for one, other in zip(of_call, plain.encode_query(TEXTS), strict=True))


def test_pylate_and_stanford_have_the_settings_of_their_own_files(tmp_path):
    config = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 12, "document_length": 7}
    encoder = MultiVectorEncoder.from_pretrained(write_pylate(tmp_path / "p", config, ("[Q] ", "[D] ")))
    assert encoder.prompts == {"query": "[Q] ", "document": "[D] "}
    assert (encoder.query_expansion.length, encoder.document_length) == (12, 7)
    marker = encoder.tokenizer.token_to_id("[Q] ")
    assert encoder.tokenize("[Q] dog", task="query")["input_ids"][0, 1] == marker
    metadata = {"query_maxlen": 8, "doc_maxlen": 9, "attend_to_mask_tokens": True}
    encoder = MultiVectorEncoder.from_pretrained(write_colbert(tmp_path / "c", metadata))
    assert encoder.prompts == {"query": "[unused0] ", "document": "[unused1] "}
    assert (encoder.query_expansion.length, encoder.query_expansion.attend, encoder.document_length) == (8, True, 9)
    assert [len(one) for one in encoder.encode_document(TEXTS[:1])] == [6]  # without "," and "."


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("sentence_bert_config", {"query_expansion": {"strategy": "all", "length": 3}}, "strategy: fixed or min"),
        ("sentence_bert_config", {"query_expansion": {"strategy": "fixed"}}, "needed: length, and strategy"),
        ("sentence_bert_config", {"query_expansion": {**EXPANSION, "width": 3}}, "holds width; supported: attend"),
        ("sentence_bert_config", {"query_expansion": {**EXPANSION, "token": "no"}}, "has the token 'no', which the"),
        ("sentence_bert_config", {"query_expansion": EXPANSION, "query_length": 5}, "length 9 and query_length is 5"),
        ("sentence_bert_config", {"query_expansion": {**EXPANSION, "length": 99}}, "the model's 32 positions"),
        ("sentence_bert_config", {"document_length": 1}, "document_length is 1; needed: at least 2"),
        (
            "sentence_bert_config",
            {"query_expansion": {**EXPANSION, "length": 1}},
            "expansion.length is 1; needed",
        ),
        ("sentence_bert_config", {"document_length": "9"}, "document_length is '9'; needed: an integer"),
        ("sentence_bert_config", {"processing_kwargs": {"text": {"stride": 4}}}, "text has stride; supported"),
        ("config_sentence_transformers", {"model_type": "SparseEncoder"}, "supported here: 'MultiVectorEncoder'"),
        ("config_sentence_transformers", {"similarity_fn_name": "xtr"}, "similarity_fn_name is 'xtr'; supported"),
        ("config_sentence_transformers", {"truncate_dim": 3}, "truncate_dim is 3; supported: null"),
        ("2_MultiVectorMask/config", {"skiplist": []}, "holds skiplist; supported"),
        ("2_MultiVectorMask/config", {"skiplist_words": [1]}, "needed: skiplist_words"),
        (
            "config_sentence_transformers",
            {"model_type": "SentenceTransformer"},
            "in a folder of SentenceTransformer",
        ),
        ("1_Dense/config", {"module_input_name": "sentence_embedding"}, "supported: 'token_embeddings'"),
    ],
)
def test_refused_settings(tmp_path, name, change, message):
    folder = write_multi_vector(tmp_path / "m")
    path = folder / f"{name}.json"
    write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(CheckpointError, match=message):
        MultiVectorEncoder.from_pretrained(folder)


def test_lengths_that_contradict_each_other(tmp_path):
    """As there, the processor's own length goes before that of a task, and null masks nothing."""
    lengths = {"document_length": 8, "processing_kwargs": {"text": {"max_length": 6}}}
    folder = write_multi_vector(tmp_path / "m", {"skiplist_words": []}, sentence_bert_config=lengths)
    assert [len(one) for one in MultiVectorEncoder.from_pretrained(folder).encode_document(["a b c d e f g"])] == [6]
    encoder = MultiVectorEncoder.from_pretrained(write_colbert(tmp_path / "c", {"mask_punctuation": None}))
    assert [len(one) for one in encoder.encode_document([", ."])] == [5]


@pytest.mark.parametrize("field", [{"pool_factor": 0.5}, {"num_protected_tokens": -1}, {"tasks": [1]}], ids=str)
def test_refused_pooling(tmp_path, field):
    with pytest.raises(CheckpointError, match=next(iter(field))):
        MultiVectorEncoder.from_pretrained(write_multi_vector(tmp_path / "m", pooling={"pool_factor": 2} | field))


def test_refused_modules(tmp_path):
    folder = write_multi_vector(tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    for kinds, message in [
        ([0, 1, 3, 2, 2], "one MultiVectorMask"),
        ([1, 0], "supported in a folder of MultiVectorEncoder: Transformer and, after it, Dense"),
    ]:
        write_json(folder / "modules.json", [modules[i] for i in kinds])
        with pytest.raises(CheckpointError, match=message):
            MultiVectorEncoder.from_pretrained(folder)
    (folder / "modules.json").unlink()
    with pytest.raises(CheckpointError, match="has no modules.json.* HF_ColBERT"):
        MultiVectorEncoder.from_pretrained(folder)
    alone = write_pylate(tmp_path / "p", {"model_type": "ColBERT"})
    write_json(alone / "modules.json", json.loads((alone / "modules.json").read_text())[:1])
    with pytest.raises(CheckpointError, match="needed: a Dense, the projection of tokens"):
        MultiVectorEncoder.from_pretrained(alone)


def test_bad_arguments(folder):
    encoder = MultiVectorEncoder.from_pretrained(folder)
    for error, match, options in [
        (ValueError, "output_value is None", {"output_value": None}),
        (ValueError, "convert_to_tensor is True", {"convert_to_tensor": True}),
        (ValueError, "device is 'cuda'", {"device": "cuda"}),
        (ValueError, "pool is 1", {"pool": 1}),
        (ValueError, "batch_size is 0", {"batch_size": 0}),
        (ValueError, "prompt_name is 'x'", {"prompt_name": "x"}),
        (TypeError, "token_pooling is a float", {"token_pooling": 2.0}),
        (TypeError, r"inputs\[1\] is a int", {"inputs": ["a", 1]}),
    ]:
        with pytest.raises(error, match=match):
            encoder.encode(**{"inputs": TEXTS} | options)


def test_maxsim_of_what_does_not_fit():
    a, b = [np.ones((2, 3))], [np.ones((4, 3)), np.ones((1, 3))]
    for error, match, call in [
        (ValueError, r"a\[0\] has shape \(3,\)", lambda: util.maxsim([np.ones(3)], b)),
        (ValueError, "lengths 3, 4; needed: one length", lambda: util.maxsim(a, [np.ones((2, 4))])),
        (ValueError, "a has 1 queries and b 2 documents", lambda: util.maxsim_pairwise(a, b)),
        (ValueError, r"a_mask\[0\] has shape", lambda: util.maxsim(a, b, a_mask=[[1]])),
        (ValueError, "a_mask is of 2 texts; needed: 1", lambda: util.maxsim(a, b, a_mask=[[1, 1], [1]])),
        (ValueError, "other numbers than 0 and 1", lambda: util.maxsim(a, b, a_mask=[[0.5, 1]])),
        (ValueError, "chunk_elements is 0", lambda: util.maxsim(a, b, chunk_elements=0)),
        (ValueError, "device is 'cuda'", lambda: util.maxsim(a, b, device="cuda")),
        (TypeError, "a is a str", lambda: util.maxsim("text", b)),
    ]:
        with pytest.raises(error, match=match):
            call()


def test_maxsim_of_nothing():
    some = [np.ones((2, 3), np.float32)]
    assert util.maxsim([], some).shape == (0, 1)
    assert util.maxsim(some, []).shape == (1, 0)
    assert util.maxsim(some, [np.ones((0, 3))]) == util.maxsim(some, [np.ones((0, 7))]) == np.float32(-1e9)
    assert util.maxsim([np.ones((0, 3))], some) == 0


def test_blocks_of_documents_change_no_bit():
    rng = np.random.default_rng(0)
    a, b = ([rng.standard_normal((n, 5)).astype(np.float32) for n in lengths] for lengths in ((3, 7), (4, 0, 9, 1, 30)))
    for name in ("maxsim", "maxsim_pairwise"):
        queries = a if name == "maxsim" else [*a, *a, a[0]]
        whole, *parts = (getattr(util, name)(queries, b, chunk_elements=n) for n in (None, 1, 40, 100))
        assert all(np.array_equal(part, whole) for part in parts)
