"""MultiVectorEncoder and util.maxsim next to sentence-transformers, live: each module and option, on tiny folders."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from multi_vector_folders import write_colbert, write_pylate
from pipeline_folders import write_head

from transformer_fast import MultiVectorEncoder, util
from transformer_fast.pipelines import HierarchicalTokenPooling

pytestmark = pytest.mark.oracle
TOLERANCE = 1e-5
TEXTS = ["the cat, sat.", "", "dog ran far, far away from the mat and the cat and the dog and me", "The Dog! far"]
FIXED = {"strategy": "fixed", "attend": False, "length": 9}
EXPANSIONS = [
    None,
    FIXED,
    FIXED | {"attend": True},
    {"strategy": "min", "length": 7},
    {"strategy": "min", "attend": True, "token": "dog", "length": 7},
]


@pytest.fixture
def st(torch):
    torch.manual_seed(0)
    pytest.importorskip("sentence_transformers")
    return pytest.importorskip("sentence_transformers.multi_vector_encoder")


def transformer(tmp_path, **lengths):
    from sentence_transformers.base.modules import Transformer

    return Transformer(str(write_head(tmp_path / "model", "MaskedLM")), **lengths)


def token_modules(names, width=24):
    """Modules of token embeddings, by short names, in their order."""
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask

    tokens, modules = {"module_input_name": "token_embeddings"}, []
    for name in names.split():
        if name == "dense":
            modules.append(Dense(width, 6, bias=False, activation_function=None, **tokens))
        elif name == "residual":
            modules.append(Dense(width, 6, use_residual=True, **tokens))
        elif name == "normalize":
            modules.append(Normalize(**tokens))
        elif name == "mask":
            modules.append(MultiVectorMask([",", ".", "unheard"]))
        elif name == "mask-both":
            modules.append(MultiVectorMask([",", "the", "[UNK]"], skiplist_tasks=["query", "document"]))
        elif name == "keep":
            modules.append(MultiVectorMask(keep_only_token_ids=list(range(2, 40))))
        else:
            modules.append(HierarchicalTokenPooling(2.5, tasks=["query", "document"], num_protected_tokens=0))
        if name in ("dense", "residual"):
            width = 6
    return modules


def saved(st, tmp_path, modules, **options):
    theirs = st.MultiVectorEncoder(modules=modules, device="cpu", **options)
    theirs.eval().save(str(tmp_path / "saved"))
    return theirs, MultiVectorEncoder.from_pretrained(tmp_path / "saved")


def alike(ours, theirs, texts=TEXTS, methods=("encode", "encode_query", "encode_document"), **options):
    for method in methods:
        found = getattr(ours, method)(texts, **options)
        expected = getattr(theirs, method)(texts, convert_to_numpy=True, **options)
        assert [one.shape for one in found] == [one.shape for one in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=TOLERANCE)


@pytest.mark.parametrize("expansion", EXPANSIONS, ids=str)
@pytest.mark.parametrize("limits", [{}, {"query_length": 9, "document_length": 6}], ids=str)
def test_expansion_and_limits(st, tmp_path, expansion, limits):
    model = transformer(tmp_path, query_expansion=expansion, **limits)
    theirs, ours = saved(st, tmp_path, [model, *token_modules("dense mask normalize")])
    alike(ours, theirs)
    alike(ours, theirs, prompt="the dog ")
    alike(ours, theirs, batch_size=1)
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension() == 6
    assert (ours.query_length, ours.document_length) == (model.query_length, model.document_length)
    for task in ("query", "document", None):
        features = theirs.preprocess(TEXTS, task=task)
        found = ours.tokenize(TEXTS, task=task)
        np.testing.assert_array_equal(found["input_ids"], features["input_ids"])


@pytest.mark.parametrize(
    "names",
    ["dense mask normalize", "normalize mask", "dense normalize mask-both", "mask residual", "keep dense normalize",
     "dense normalize", "dense mask normalize pool", "mask pool dense normalize"],
)  # fmt: skip
@pytest.mark.parametrize("expansion", [None, FIXED, FIXED | {"attend": True}], ids=str)
def test_modules(st, tmp_path, names, expansion):
    model = transformer(tmp_path, query_expansion=expansion)
    theirs, ours = saved(st, tmp_path, [model, *token_modules(names)])
    alike(ours, theirs)


def test_prompts_and_similarity_of_the_folder(st, tmp_path):
    theirs, ours = saved(
        st,
        tmp_path,
        [transformer(tmp_path), *token_modules("dense mask normalize")],
        prompts={"query": "the dog ", "document": "cat ", "other": "far "},
        default_prompt_name="other",
        similarity_fn_name="meanmaxsim",
    )
    alike(ours, theirs)
    alike(ours, theirs, prompt_name="other")
    assert ours.prompts == theirs.prompts and ours.default_prompt_name == "other"
    queries, documents = (
        getattr(theirs, f"encode_{task}")(TEXTS, convert_to_numpy=True) for task in ("query", "document")
    )
    assert ours.similarity_fn_name == theirs.similarity_fn_name == "meanmaxsim"
    for name in ("similarity", "similarity_pairwise"):
        for options in ({}, {"length_normalize": False}, {"chunk_elements": 10}):
            found, expected = (getattr(m, name)(queries, documents, **options) for m in (ours, theirs))
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_pairs_and_normalize(st, tmp_path):
    pairs = [("the cat", "sat on the mat"), ("", "dog"), ("dog " * 12, "the cat sat on the mat, " * 4)]
    expansion = FIXED | {"attend": True}
    theirs, ours = saved(st, tmp_path, [transformer(tmp_path, query_expansion=expansion), *token_modules("dense mask")])
    alike(ours, theirs, pairs)
    alike(ours, theirs, normalize_embeddings=True)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("factor", [1, 1.5, 3, 50])
@pytest.mark.parametrize("protected", [0, 1, 4])
def test_token_pooling(st, torch, tmp_path, factor, protected, normalized):
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling as Theirs

    rng = np.random.default_rng(0)
    texts = [util.normalize_embeddings(rng.standard_normal((n, 8))) for n in (1, 2, 5, 40, 0)]
    options = {"num_protected_tokens": protected, "normalize_embeddings": normalized}
    found = HierarchicalTokenPooling(factor, **options).pool(texts)
    expected = Theirs(factor, **options).pool([torch.from_numpy(one) for one in texts])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=TOLERANCE)
    assert HierarchicalTokenPooling(factor).pool(texts, task="query") == texts


def test_token_pooling_of_a_call(st, tmp_path):
    theirs, ours = saved(st, tmp_path, [transformer(tmp_path), *token_modules("dense mask normalize")])
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling as Theirs

    for method in ("encode", "encode_query", "encode_document"):
        found = getattr(ours, method)(TEXTS, token_pooling=HierarchicalTokenPooling(2))
        expected = getattr(theirs, method)(TEXTS, token_pooling=Theirs(2), convert_to_numpy=True)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_routes(st, tmp_path):
    from sentence_transformers.base.modules import Router

    query = transformer(tmp_path / "q", query_expansion=FIXED)
    document = transformer(tmp_path / "d", document_length=7)
    router = Router.for_query_document(
        [query, *token_modules("dense")], [document, *token_modules("residual mask")], default_route="document"
    )
    theirs, ours = saved(st, tmp_path, [router, *token_modules("normalize")])
    alike(ours, theirs)


# ----------------------------------------------------------------------------------------------------------------------
# Folders of others


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] "},
        {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 8, "document_length": 11},
        {"model_type": "ColBERT", "query_length": 9, "attend_to_expansion_tokens": True, "skiplist_words": ["the"]},
        {"query_length": 6, "do_query_expansion": False, "prompts": {"query": "dog ", "document": None}},
        {"model_type": "ColBERT", "query_prefix": "[unused1] ", "prompts": {"query": "[unused1] cat "}},
        {"document_length": 5, "similarity_fn_name": "cosine", "query_expansion": None},
        {"similarity_fn_name": "MaxSim", "attend_to_mask_tokens": True, "do_query_expansion": None},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("markers", [(), ("[Q] ", "[D] ")], ids=str)
def test_pylate(st, tmp_path, config, markers):
    folder = write_pylate(tmp_path / "m", {"query_length": 12} | config if config else {}, markers)
    theirs, ours = st.MultiVectorEncoder(str(folder), device="cpu"), MultiVectorEncoder.from_pretrained(folder)
    alike(ours, theirs)
    alike(ours, theirs, prompt="far ")
    assert ours.similarity_fn_name == theirs.similarity_fn_name
    assert {**theirs.prompts, **{k: v or "" for k, v in theirs.prompts.items()}} == ours.prompts


@pytest.mark.parametrize("pooled", [True, False])
def test_an_encoder_of_one_vector(st, tmp_path, pooled):
    """Its Dense becomes the projection of tokens, and what makes one vector is left out."""
    folder = write_pylate(tmp_path / "m", {"model_type": "SentenceTransformer"}, (), pooled=pooled)
    alike(MultiVectorEncoder.from_pretrained(folder), st.MultiVectorEncoder(str(folder), device="cpu"))


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"query_maxlen": 9, "doc_maxlen": 7, "mask_punctuation": True, "attend_to_mask_tokens": False, "nbits": 2},
        {"query_maxlen": 12, "attend_to_mask_tokens": True, "mask_punctuation": False, "query_token_id": "[unused1]"},
    ],
    ids=str,
)
def test_stanford(st, tmp_path, metadata):
    folder = write_colbert(tmp_path / "m", metadata)
    theirs, ours = st.MultiVectorEncoder(str(folder), device="cpu"), MultiVectorEncoder.from_pretrained(folder)
    alike(ours, theirs)
    assert ours.prompts == theirs.prompts


# ----------------------------------------------------------------------------------------------------------------------
# util


def multi_vectors(seed, lengths, D=12):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, D)).astype(np.float32) for n in lengths]


@pytest.mark.parametrize("name", ["maxsim", "mean_maxsim", "maxsim_pairwise", "mean_maxsim_pairwise"])
def test_maxsim(st, torch, name):
    from sentence_transformers import util as theirs

    a, b = multi_vectors(0, (3, 1, 9, 4)), multi_vectors(1, (5, 0, 2, 30))
    padded = [np.zeros((4, 30, 12), np.float32) for _ in range(2)]
    masks = [np.zeros((4, 30), bool) for _ in range(2)]
    for array, mask, items in zip(padded, masks, (a, b), strict=True):
        for i, item in enumerate(items):
            array[i, : len(item)] = item
            mask[i, : len(item)] = True
            mask[i, 1] = False
    calls = [
        (a, b, {}),
        (a, b, {"length_normalize": True}),
        (padded[0], b, {"length_normalize": True}),
        (padded[0], padded[1], {}),
        (padded[0], padded[1], {"a_mask": masks[0], "b_mask": masks[1]}),
        (padded[0], padded[1], {"a_mask": masks[0].astype(np.float32)}),
    ]
    for x, y, options in calls:
        found, expected = getattr(util, name)(x, y, **options), getattr(theirs, name)(x, y, **options)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=1e-6)
    for x, y in itertools.product((a[0], a[2]), (b[0], b[3])):
        np.testing.assert_allclose(getattr(util, name)(x, y), getattr(theirs, name)(x, y), atol=TOLERANCE)


def test_maxsim_of_half_types(st, torch):
    from sentence_transformers import util as theirs

    a, b = multi_vectors(0, (3, 8)), multi_vectors(1, (5, 2, 30))
    half = [one.astype(np.float16) for one in b]
    wide = [one.astype(np.float32) for one in half]
    np.testing.assert_allclose(util.maxsim(a, half), theirs.maxsim(a, wide), atol=TOLERANCE)
    integers = [(10 * one).astype(np.int8) for one in b]
    np.testing.assert_allclose(util.maxsim(a, integers), theirs.maxsim(a, integers), atol=1e-4)


def test_the_folder_of_a_test_is_what_sentence_transformers_writes(st, tmp_path):
    """So that refusals, which change fields of it, start from a real one."""
    saved(st, tmp_path, [transformer(tmp_path), *token_modules("dense mask normalize")])
    modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Dense", "2_MultiVectorMask", "3_Normalize"]
