"""Live comparisons (marker `oracle`): nn with torch.nn, BertModel with transformers, SentenceEncoder with
sentence-transformers on the real weights. What they found once stands in golden/ for suites without torch."""

from __future__ import annotations

import ast
import itertools
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from model_folders import TINY_BERT, write_sentence_model

from transformer_fast import load_model, nn
from transformer_fast.files.errors import CheckpointError
from transformer_fast.pipelines import SentenceEncoder
from transformer_fast.weights import find_minilm

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-5


def numpy(tensor):
    return tensor.detach().numpy()


# ----------------------------------------------------------------------------------------------------------------------
# nn


def pair(torch, name, *args, **options):
    """torch.nn.<name> with random parameters, and nn.<name> with the same ones."""
    theirs = getattr(torch.nn, name)(*args, **options).eval()
    for parameter in theirs.parameters():
        parameter.data += torch.randn_like(parameter) * 0.2
    ours = getattr(nn, name)(*args, **{k: v for k, v in options.items() if k != "dropout"})
    assert {n: a.shape for n, a in ours.state_dict().items()} == {
        n: tuple(t.shape) for n, t in theirs.state_dict().items()
    }
    ours.load_state_dict({n: numpy(t) for n, t in theirs.state_dict().items()})
    return theirs, ours


def agree(torch, theirs, ours, *arrays, tolerance=TOLERANCE, **options):
    with torch.no_grad():
        given = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        expected = theirs(*map(torch.from_numpy, arrays), **given)
    got = ours(*arrays, **options)
    if isinstance(expected, tuple):
        for one, other in zip(got, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(one, numpy(other), atol=tolerance)
    else:
        np.testing.assert_allclose(got, numpy(expected), atol=tolerance)


def values(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


def test_small_blocks(torch, isa):
    torch.manual_seed(0)
    for bias in (True, False):
        agree(torch, *pair(torch, "Linear", 33, 17, bias=bias), values(2, 5, 33))
        agree(torch, *pair(torch, "LayerNorm", 33, bias=bias), values(2, 5, 33))
    agree(torch, *pair(torch, "LayerNorm", (5, 33), eps=0.1), values(2, 5, 33))
    agree(torch, *pair(torch, "LayerNorm", 33, elementwise_affine=False), values(2, 5, 33))
    agree(torch, *pair(torch, "Embedding", 9, 17, padding_idx=2), np.array([[0, 2], [8, 1]]))


@pytest.mark.parametrize("batch_first, bias", list(itertools.product([True, False], repeat=2)))
def test_multihead_attention(torch, isa, batch_first, bias):
    torch.manual_seed(0)
    theirs, ours = pair(torch, "MultiheadAttention", 24, 3, bias=bias, batch_first=batch_first)
    query, key, value = values(2, 5, 24), values(2, 7, 24), values(2, 7, 24) + 1
    if not batch_first:
        query, key, value = (x.swapaxes(0, 1).copy() for x in (query, key, value))
    masks = [None, np.tri(5, 7, 1) == 0, values(5, 7), values(6, 5, 7), values(6, 5, 7) > 1]
    paddings = [None, np.arange(7) >= np.array([[7], [4]]), values(2, 7)]
    # No row is fully masked: there torch gives NaN, and this library zeros.
    for mask, padding, average in itertools.product(masks, paddings, [True, False]):
        if mask is not None and padding is not None and mask.dtype != padding.dtype:
            continue
        if mask is not None and mask.dtype == bool:
            mask[..., 0] = False
        options = {"attn_mask": mask, "key_padding_mask": padding, "average_attn_weights": average}
        agree(torch, theirs, ours, query, key, value, **options)
        agree(torch, theirs, ours, query, key, value, need_weights=False, **options)
    agree(torch, theirs, ours, query, query, query)
    one = (query[0], key[0], key[0]) if batch_first else (query[:, 0], key[:, 0], key[:, 0])
    agree(torch, theirs, ours, *one, key_padding_mask=np.arange(7) >= 4)
    agree(torch, theirs, ours, *one, attn_mask=values(3, 5, 7))
    causal = np.triu(np.ones((5, 5), bool), 1)
    agree(torch, theirs, ours, query, query, query, attn_mask=causal, is_causal=True, need_weights=False)


@pytest.mark.parametrize("norm_first, batch_first, bias", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_encoder_layer(torch, isa, norm_first, batch_first, bias, activation):
    torch.manual_seed(0)
    options = {"activation": activation, "norm_first": norm_first, "batch_first": batch_first, "bias": bias}
    theirs, ours = pair(torch, "TransformerEncoderLayer", 24, 3, 40, dropout=0.0, **options)
    x = values(2, 7, 24) if batch_first else values(7, 2, 24)
    agree(torch, theirs, ours, x)
    agree(torch, theirs, ours, x, src_mask=np.triu(np.ones((7, 7), bool), 1))
    padding = np.arange(7) >= np.array([[7], [4]])
    with torch.no_grad():
        expected = numpy(theirs(torch.from_numpy(x), src_key_padding_mask=torch.from_numpy(padding)))
    got = ours(x, src_key_padding_mask=padding)
    # torch's fast path may write zeros where the padding is.
    kept = ~padding if batch_first else ~padding.T
    np.testing.assert_allclose(got[kept], expected[kept], atol=TOLERANCE)
    agree(torch, theirs, ours, x[0] if batch_first else x[:, 0])


# ----------------------------------------------------------------------------------------------------------------------
# BERT

CONFIGS = [
    {},
    {"hidden_act": "relu", "num_attention_heads": 1},
    {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "num_hidden_layers": 1},
    {"hidden_act": "silu", "hidden_size": 48, "num_attention_heads": 12, "intermediate_size": 33},
    {"hidden_act": "gelu_pytorch_tanh", "type_vocab_size": 4, "max_position_embeddings": 512},
    {"hidden_act": "tanh", "num_hidden_layers": 5},
    {"hidden_act": "quick_gelu", "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
@pytest.mark.parametrize("save_as", ["BertModel", "BertForSequenceClassification", "BertForPreTraining"])
def test_bert(torch, isa, tmp_path, changes, save_as):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(len(changes))
    names = {"model_type", "architectures", "position_embedding_type"}
    config = transformers.BertConfig(**{k: v for k, v in (TINY_BERT | changes).items() if k not in names})
    whole = getattr(transformers, save_as)(config).eval()
    for parameter in whole.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    whole.save_pretrained(tmp_path)
    theirs, ours = getattr(whole, "bert", whole), load_model(tmp_path, head=False)
    rng = np.random.default_rng(0)
    B, L = 5, 27
    ids, types = rng.integers(0, config.vocab_size, (B, L)), rng.integers(0, config.type_vocab_size, (B, L))
    positions = rng.integers(0, config.max_position_embeddings, (B, L))
    mask = np.ones((B, L), np.int64)
    mask[1, 9:], mask[2, :6], mask[3, 1:] = 0, 0, 0
    mask[4] = rng.integers(0, 2, L)
    for options in [
        {"attention_mask": mask, "token_type_ids": types},
        {"attention_mask": mask, "position_ids": positions},
        {},
    ]:
        with torch.no_grad():
            expected = theirs(torch.from_numpy(ids), **{k: torch.from_numpy(v) for k, v in options.items()})
        got = ours(ids, **options)
        kept = options.get("attention_mask", np.ones_like(mask)).astype(bool)
        np.testing.assert_allclose(got.last_hidden_state[kept], numpy(expected[0])[kept], atol=2e-5)
        assert not got.last_hidden_state[~kept].any()
        # The first token of rows 2 and 4 may be masked: the pooler reads it all the same, as transformers does.
        np.testing.assert_allclose(got.pooler_output, numpy(expected.pooler_output), atol=2e-5)
        assert got.keys() == list(expected.keys())


# ----------------------------------------------------------------------------------------------------------------------
# Sentences


def docstrings(count):
    """First paragraphs of docstrings of Python's standard library."""
    found = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                found.setdefault((ast.get_docstring(node) or "").split("\n\n")[0])
        if len(found) > count:
            break
    return list(found)[:count]


def mixed_texts():
    """500 texts: real ones of mixed lengths, empty ones, other scripts, special tokens, and some beyond the limit."""
    texts = docstrings(470)
    odd = [
        "",
        " ",
        "\n\t",
        "a",
        "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m",
        "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0",
        "\U0001f363 \U0001f600",
    ]
    odd += [
        "[SEP] [CLS] [MASK]",
        "a\x00b\x07c",
        "\ufffd\u200b\u00ad",
        "x" * 150,
        "..." * 50,
        "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u05e2\u05d1\u05e8\u05d9\u05ea",
    ]
    long = [" ".join(texts[i : i + 60]) for i in range(0, 100, 10)]
    texts = texts + odd + long
    texts += ["", "the same text"] * ((500 - len(texts)) // 2)
    return (texts + ["one more"])[:500]


@pytest.fixture(scope="module")
def sentence_transformer():
    module = pytest.importorskip("sentence_transformers")
    try:
        return module.SentenceTransformer(str(find_minilm(verify=True)), device="cpu")
    except CheckpointError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def expected_embeddings(sentence_transformer):
    return sentence_transformer.encode(mixed_texts())


def test_minilm_embeddings_of_500_texts(isa, expected_embeddings):
    texts = mixed_texts()
    assert len(texts) == 500
    encoder = SentenceEncoder.from_pretrained(find_minilm())
    embeddings = encoder.encode(texts)
    assert np.abs(embeddings - expected_embeddings).max() <= 1e-5
    assert (np.sum(embeddings.astype(np.float64) * expected_embeddings, axis=1) >= 0.99999).all()
    for batch_size in (1, 7, 100):
        assert np.array_equal(encoder.encode(texts[::5], batch_size=batch_size), embeddings[::5])


def test_minilm_tokens_of_500_texts(sentence_transformer):
    encoder = SentenceEncoder.from_pretrained(find_minilm())
    assert encoder.max_seq_length == sentence_transformer.max_seq_length
    assert encoder.get_sentence_embedding_dimension() == sentence_transformer.get_embedding_dimension()
    for text in mixed_texts():
        theirs = sentence_transformer.preprocess([text])
        ours = encoder.tokenize(text)
        for name in ours:
            assert np.array_equal(ours[name], theirs[name]), text


ALL_POOLINGS = ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.parametrize("pooling", [*ALL_POOLINGS, ["cls", "mean"], ALL_POOLINGS], ids=str)
@pytest.mark.parametrize("normalize", [False, True])
def test_options_of_encode(torch, tmp_path, pooling, normalize):
    module = pytest.importorskip("sentence_transformers")
    pooling = {"embedding_dimension": TINY_BERT["hidden_size"], "pooling_mode": pooling}
    prompts = {"prompts": {"cats": "the cat "}, "default_prompt_name": None, "truncate_dim": 13}
    folder = write_sentence_model(tmp_path / "m", pooling, normalize, config_sentence_transformers=prompts)
    theirs, ours = module.SentenceTransformer(str(folder), device="cpu"), SentenceEncoder.from_pretrained(folder)
    assert ours.get_sentence_embedding_dimension() == theirs.get_embedding_dimension() == 13
    texts = ["the cat sat", "", "dog ran far, far away from the mat and the cat and the dog and me"]
    for options in [
        {},
        {"prompt_name": "cats"},
        {"prompt_name": "query"},
        {"prompt": "the dog "},
        {"normalize_embeddings": True},
        {"truncate_dim": 5, "normalize_embeddings": True},
        {"batch_size": 1},
    ]:
        np.testing.assert_allclose(ours.encode(texts, **options), theirs.encode(texts, **options), atol=TOLERANCE)
        np.testing.assert_allclose(ours.encode("dog", **options), theirs.encode("dog", **options), atol=TOLERANCE)
    tokens = theirs.encode(texts, output_value="token_embeddings")
    for one, other in zip(ours.encode(texts, output_value="token_embeddings"), tokens, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)
    a, b = ours.encode(texts), ours.encode(texts[::-1])
    np.testing.assert_allclose(ours.similarity(a, b), theirs.similarity(a, b), atol=TOLERANCE)


@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "lasttoken"])
@pytest.mark.parametrize(
    "dense",
    [
        {},
        {"bias": False, "activation_function": "Identity"},
        {"use_residual": True, "activation_function": "GELU"},
        {"use_residual": True, "out_features": TINY_BERT["hidden_size"], "activation_function": "ReLU"},
    ],
    ids=str,
)
def test_modules_after_the_pooling(torch, tmp_path, dense, pooling):
    module = pytest.importorskip("sentence_transformers")
    settings = {"embedding_dimension": TINY_BERT["hidden_size"], "pooling_mode": pooling, "include_prompt": False}
    folder = write_sentence_model(tmp_path / "m", settings)
    plain = module.SentenceTransformer(str(folder), device="cpu")
    torch.manual_seed(0)
    options = {"in_features": TINY_BERT["hidden_size"], "out_features": 10} | dense
    if "activation_function" in options:
        options["activation_function"] = getattr(torch.nn, options["activation_function"])()
    parts = module.models
    theirs = module.SentenceTransformer(
        modules=[*plain, parts.Dense(**options), parts.Dropout(0.5), parts.Normalize()], device="cpu"
    ).eval()
    theirs.save(str(tmp_path / "saved"))
    ours = SentenceEncoder.from_pretrained(tmp_path / "saved")
    assert ours.get_sentence_embedding_dimension() == theirs.get_embedding_dimension() == options["out_features"]
    texts = ["the cat sat", "", "dog ran far, far away from the mat"]
    for prompt in ({}, {"prompt": "the dog "}):
        np.testing.assert_allclose(ours.encode(texts, **prompt), theirs.encode(texts, **prompt), atol=TOLERANCE)


@pytest.mark.parametrize(
    "config", [{"do_lower_case": False}, {"do_lower_case": True}, {"strip_accents": True}], ids=str
)
@pytest.mark.parametrize("lower", [False, True])
def test_normaliser_options(torch, tmp_path, config, lower):
    module = pytest.importorskip("sentence_transformers")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **config}
    folder = write_sentence_model(
        tmp_path / "m", tokenizer_config=config, sentence_bert_config={"do_lower_case": lower, "max_seq_length": 12}
    )
    theirs, ours = module.SentenceTransformer(str(folder), device="cpu"), SentenceEncoder.from_pretrained(folder)
    for text in ("The Cat sat", "\u00c4 d\u00f3g", "THE dog!", "a b c d e f g h i j k l m n"):
        assert np.array_equal(ours.tokenize(text)["input_ids"], theirs.preprocess([text])["input_ids"])
