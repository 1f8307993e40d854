"""Routers, static embeddings, word weights, and the options of `encode`, by hand: numbers, bits, what is refused.

tests/oracle/test_sentence_encoder.py compares with sentence-transformers.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from model_folders import SENTENCES, TINY_BERT, WORDS, bert_tensors, write_bert, write_json, write_sentence_model

pytest.importorskip("tokenizers")
save_file = pytest.importorskip("safetensors.numpy").save_file

from transformer_fast import SentenceEncoder, util  # noqa: E402
from transformer_fast.files.errors import CheckpointError  # noqa: E402
from transformer_fast.pipelines import TruncationWarning, text_runs  # noqa: E402

H = TINY_BERT["hidden_size"]
POOLING = {"embedding_dimension": H, "pooling_mode": "mean"}
LONG = "the cat sat on the mat " * 10  # 60 words


def module_list(*paths_and_kinds):
    return [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in paths_and_kinds]


def write_static(folder, tensors=None, modules=None, truncation=None):
    """A folder with a StaticEmbedding in its root."""
    from tokenizers import Tokenizer

    write_sentence_model(folder)
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).unlink()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    if truncation:
        tokenizer.enable_truncation(truncation)
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.random.default_rng(0).standard_normal((len(WORDS), 6)).astype(np.float32)
    save_file({"embedding.weight": table} if tensors is None else tensors, folder / "model.safetensors")
    write_json(folder / "modules.json", modules or module_list(("", "StaticEmbedding")))
    return folder


def write_routes(folder, structure=None, parameters=None, kinds=("Router",), name="router_config.json"):
    """Two encoders of other weights, "query" and "document", behind a router in the root."""
    folder.mkdir()
    types = {}
    for seed, part in enumerate(("query", "document")):
        write_sentence_model(folder / f"{part}_0", POOLING)
        write_bert(folder / f"{part}_0", TINY_BERT, bert_tensors(seed=seed))
        (folder / f"{part}_0" / "1_Pooling").rename(folder / f"{part}_1")
        types |= {f"{part}_0": "sentence_transformers.models.Transformer", f"{part}_1": "x.Pooling"}
    structure = {"query": ["query_0", "query_1"], "document": ["document_0", "document_1"]} | (structure or {})
    write_json(folder / name, {"types": types, "structure": structure, "parameters": parameters or {}})
    write_json(folder / "modules.json", module_list(*(("" if i == 0 else f"{i}", k) for i, k in enumerate(kinds))))
    return folder


def alone(folder, part):
    """The encoder of one part of `write_routes` as a folder of its own."""
    write_json(folder / f"{part}_0" / "modules.json", module_list(("", "Transformer"), ("1_Pooling", "Pooling")))
    (folder / f"{part}_0" / "1_Pooling").mkdir()
    write_json(folder / f"{part}_0" / "1_Pooling" / "config.json", POOLING)
    return SentenceEncoder.from_pretrained(folder / f"{part}_0")


# ----------------------------------------------------------------------------------------------------------------------
# Routes


def test_each_task_has_its_route(isa, tmp_path):
    folder = write_routes(tmp_path / "m", kinds=("Router", "Normalize"))
    encoder = SentenceEncoder.from_pretrained(folder)
    query, document = (
        util.normalize_embeddings(alone(folder, part).encode(SENTENCES)) for part in ("query", "document")
    )
    assert np.abs(query - document).max() > 0.1
    np.testing.assert_allclose(encoder.encode_query(SENTENCES), query, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_document(SENTENCES), document, atol=1e-6)
    assert np.array_equal(encoder.encode(SENTENCES), encoder.encode_query(SENTENCES)), "the first is the default"
    assert np.array_equal(encoder.encode(SENTENCES, task="document"), encoder.encode_document(SENTENCES))
    assert np.array_equal(list(encoder.encode_stream(SENTENCES, task="document")), encoder.encode_document(SENTENCES))
    assert "routes=query+document" in repr(encoder)
    with pytest.raises(ValueError, match="task is 'title'; this model has the routes: 'query', 'document'"):
        encoder.encode("a", task="title")
    encoder.max_seq_length = 5
    assert encoder.count_tokens(LONG, task="query") == encoder.count_tokens(LONG, task="document") == 5


@pytest.mark.parametrize(
    "parameters, expected",
    [
        ({"default_route": "document"}, {None: "document", "query": "query"}),
        ({"allow_empty_key": False}, {None: None, "query": "query", "document": "document"}),
        ({"route_mappings": {"('query', 'text')": "document"}}, {"query": "document", "document": "document"}),
        ({"route_mappings": {"(None, None)": "document"}}, {None: "document", "query": "document", "any": "document"}),
        ({"route_mappings": {"('a', None)": "query", "(None, ('image', 'text'))": "document"}}, {"a": "query"}),
    ],
    ids=str,
)
def test_how_a_route_is_found(tmp_path, parameters, expected):
    encoder = SentenceEncoder.from_pretrained(write_routes(tmp_path / "m", parameters=parameters))
    for task, name in expected.items():
        if name is None:
            with pytest.raises(ValueError, match=f"task is {task}; this model has the routes"):
                encoder.encode("a", task=task)
        else:
            assert encoder._routes.route(task) is encoder._routes.routes[name]


def test_a_shared_module_is_read_once(tmp_path):
    """Both routes name the same model; the older name of the config and of the class."""
    folder = write_routes(tmp_path / "m", {"document": ["query_0", "document_1"]}, kinds=("Asym",), name="config.json")
    encoder = SentenceEncoder.from_pretrained(folder)
    assert len(encoder._routes.inputs()) == 1
    assert np.array_equal(encoder.encode_query(SENTENCES), encoder.encode_document(SENTENCES))


@pytest.mark.parametrize(
    "options, text",
    [
        ({"structure": {"query": ["x"]}}, "structure is .*; needed: route -> a list of modules"),
        ({"structure": {"query": []}}, "structure is .*; needed: route"),
        ({"structure": {"": ["query_0"]}}, "structure has a route without a name"),
        ({"structure": {"query": ["query_0"]}}, "the modules of the route 'query' are Transformer; supported"),
        ({"parameters": {"default_route": "x"}}, "names the route 'x'; there are: 'query', 'document'"),
        ({"parameters": {"route_mappings": {"('a', None)": "x"}}}, "names the route 'x'"),
        ({"parameters": {"route_mappings": {"a": "query"}}}, "route_mappings has 'a'; needed: a pair"),
        ({"parameters": {"colour": 1}}, "holds colour; supported: allow_empty_key"),
        ({"kinds": ("Router", "Router")}, r"modules\.json: has 2 Routers; supported: one"),
        ({"name": "other.json"}, r"config\.json: there is no such file"),
    ],
    ids=str,
)
def test_routers_that_are_refused(tmp_path, options, text):
    with pytest.raises(CheckpointError, match=text):
        SentenceEncoder.from_pretrained(write_routes(tmp_path / "m", **options))


# ----------------------------------------------------------------------------------------------------------------------
# Static embeddings


def test_static_embedding_is_the_mean_of_its_tokens(isa, threads, tmp_path, monkeypatch):
    encoder = SentenceEncoder.from_pretrained(write_static(tmp_path / "m"))
    table = np.random.default_rng(0).standard_normal((len(WORDS), 6)).astype(np.float32)
    ids = [encoder.tokenizer.encode(text, add_special_tokens=False).ids for text in SENTENCES]
    expected = [table[row].astype(np.float64).mean(axis=0) if row else np.zeros(6) for row in ids]
    found = encoder.encode(SENTENCES)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    monkeypatch.setattr(text_runs, "TOKENS_OF_A_THREAD", 10)
    assert np.array_equal(encoder.encode(SENTENCES, batch_size=1), found)
    assert np.array_equal(np.stack([encoder.encode(text) for text in SENTENCES]), found)
    assert encoder.get_embedding_dimension() == 6 and encoder.max_seq_length == float("inf")
    assert encoder.count_tokens(LONG) == 60 and encoder.count_truncated_tokens([LONG]).tolist() == [0]
    inputs = encoder.tokenize(SENTENCES)
    assert inputs["input_ids"].tolist() == sum(ids, []) and inputs["offsets"].tolist()[:3] == [0, 7, 7]
    assert encoder.tokenize([])["input_ids"].shape == (0,) and encoder.encode([]).shape == (0, 6)
    with pytest.raises(ValueError, match="max_seq_length is 9; needed: none, a StaticEmbedding"):
        encoder.max_seq_length = 9
    with pytest.raises(ValueError, match="lone surrogate"):
        encoder.encode("\ud800")


def test_a_limit_of_the_tokenizer_is_followed(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_static(tmp_path / "m", truncation=4))
    assert np.array_equal(encoder.encode(LONG), encoder.encode("the cat sat on"))
    assert encoder.count_truncated_tokens(["dog", LONG]).tolist() == [0, 56]
    with pytest.warns(TruncationWarning, match=r"1 of 2 texts .* inputs\[1\]"):
        encoder.encode(["dog", LONG], show_truncated=True)


def test_folders_of_model2vec(tmp_path):
    """Rows by a mapping, weights, 8 bits; with modules.json and without."""
    rng = np.random.default_rng(1)
    parts = {
        "embeddings": rng.integers(-100, 100, (9, 6)).astype(np.int8),
        "mapping": rng.integers(0, 9, len(WORDS)).astype(np.int32),
        "weights": rng.random(len(WORDS)),
    }
    folded = parts["embeddings"][parts["mapping"]] * parts["weights"][:, None]
    ours = SentenceEncoder.from_pretrained(write_static(tmp_path / "a", parts, module_list((".", "StaticEmbedding"))))
    plain = SentenceEncoder.from_pretrained(write_static(tmp_path / "b", {"embeddings": folded.astype(np.float32)}))
    np.testing.assert_allclose(ours.encode(SENTENCES), plain.encode(SENTENCES), rtol=1e-5, atol=1e-5)
    (tmp_path / "a" / "modules.json").unlink()
    write_json(tmp_path / "a" / "config.json", {"model_type": "model2vec", "normalize": True})
    unit = util.normalize_embeddings(ours.encode(SENTENCES))
    assert np.array_equal(SentenceEncoder.from_pretrained(tmp_path / "a").encode(SENTENCES), unit)


@pytest.mark.parametrize(
    "tensors, text",
    [
        ({"embedding.weight": np.ones((9, 6), np.float32)}, f"has the token {len(WORDS) - 1}; needed: less than 9"),
        ({"embedding.weight": np.ones(99, np.float32)}, r"has shape \(99,\); needed: 2 dimensions"),
        ({"x": np.ones((99, 6), np.float32)}, "there is no tensor 'embeddings'"),
        ({"embeddings": np.ones((99, 6)), "x": np.ones(1)}, "does not use: x"),
        (
            {"embeddings": np.ones((9, 6)), "mapping": np.full(99, 9)},
            "mapping does not hold rows of embeddings, 0 to 8",
        ),
        ({"embeddings": np.ones((9, 6)), "mapping": np.zeros(99)}, "mapping does not hold rows"),
        ({"embeddings": np.ones((99, 6)), "weights": np.ones(7)}, "weights has length 7; needed: 99"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_static_embeddings_that_are_refused(tmp_path, tensors, text):
    with pytest.raises(CheckpointError, match=text):
        SentenceEncoder.from_pretrained(write_static(tmp_path / "m", tensors))


def test_static_embeddings_have_no_token_embeddings_to_pool_with(tmp_path):
    modules = module_list(("", "StaticEmbedding"), ("1_Pooling", "Pooling"))
    with pytest.raises(CheckpointError, match="the modules are StaticEmbedding, Pooling; supported"):
        SentenceEncoder.from_pretrained(write_static(tmp_path / "m", modules=modules))


# ----------------------------------------------------------------------------------------------------------------------
# Other modules, and fields


def test_layer_norm(isa, tmp_path):
    rng = np.random.default_rng(2)
    tensors = {f"norm.{name}": rng.standard_normal(H).astype(np.float32) for name in ("weight", "bias")}
    modules = module_list(("", "Transformer"), ("1_Pooling", "Pooling"), ("2", "LayerNorm"))
    folder = write_sentence_model(tmp_path / "m", modules=modules)
    (folder / "2").mkdir()
    write_json(folder / "2" / "config.json", {"dimension": H})
    save_file(tensors, folder / "2" / "model.safetensors")
    pooled = SentenceEncoder.from_pretrained(write_sentence_model(tmp_path / "plain")).encode(SENTENCES)
    centred = pooled.astype(np.float64) - pooled.mean(axis=1, keepdims=True, dtype=np.float64)
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    expected = expected * tensors["norm.weight"] + tensors["norm.bias"]
    np.testing.assert_allclose(SentenceEncoder.from_pretrained(folder).encode(SENTENCES), expected, atol=1e-5)
    write_json(folder / "2" / "config.json", {"dimension": 7})
    with pytest.raises(CheckpointError, match=f"dimension is 7; needed: {H}"):
        SentenceEncoder.from_pretrained(folder)


def write_weighted(folder, **config):
    modules = module_list(("", "Transformer"), ("w", "WordWeights"), ("1_Pooling", "Pooling"))
    write_sentence_model(folder, modules=modules)
    (folder / "w").mkdir()
    write_json(folder / "w" / "config.json", {"vocab": WORDS, "word_weights": {}, "unknown_word_weight": 1} | config)
    return folder


def test_word_weights(isa, tmp_path):
    weights = {"the": 0.5, "cat": 3, "[CLS]": 0}
    encoder = SentenceEncoder.from_pretrained(write_weighted(tmp_path / "m", word_weights=weights))
    plain = SentenceEncoder.from_pretrained(write_sentence_model(tmp_path / "plain"))
    rows = plain.encode("the cat", output_value="token_embeddings").astype(np.float64)
    expected = np.average(rows, axis=0, weights=[0, 0.5, 3, 1])
    np.testing.assert_allclose(encoder.encode("the cat"), expected, atol=1e-5)
    assert np.array_equal(encoder.encode(["the cat", "dog", LONG])[0], encoder.encode("the cat"))
    weighted = encoder.encode("the cat", output_value="token_embeddings")
    np.testing.assert_allclose(weighted, rows * [[0], [0.5], [3], [1]], atol=1e-5)


@pytest.mark.parametrize(
    "config, text",
    [
        ({"vocab": WORDS[:9]}, f"vocab has 9 words; needed: {len(WORDS)}, the tokenizer's"),
        ({"vocab": 3}, "vocab is 3; needed: list"),
        ({"word_weights": {"a": "b"}}, "needed: vocab, a list of words, and word_weights"),
        ({"colour": 1}, "holds colour"),
    ],
    ids=str,
)
def test_word_weights_that_are_refused(tmp_path, config, text):
    with pytest.raises(CheckpointError, match=text):
        SentenceEncoder.from_pretrained(write_weighted(tmp_path / "m", **config))


@pytest.mark.parametrize(
    "options, text",
    [
        (
            {"config_sentence_transformers": {"similarity_fn_name": "maxsim"}},
            "similarity_fn_name is 'maxsim'; supported",
        ),
        ({"config_sentence_transformers": {"model_type": "SparseEncoder"}}, "model_type is 'SparseEncoder'"),
        ({"config_sentence_transformers": {"colour": 1}}, "holds colour; supported: __version__"),
        ({"sentence_bert_config": {"colour": 1}}, "holds colour; supported: "),
        ({"sentence_bert_config": {"query_length": 8}}, "query_length is 8; supported: None"),
        ({"sentence_bert_config": {"processing_kwargs": {"image": {"a": 1}}}}, "has image=.*; supported: objects for"),
        (
            {"sentence_bert_config": {"processing_kwargs": {"text": {"stride": 1}}}},
            "text has stride; supported: logits",
        ),
        ({"sentence_bert_config": {"processing_kwargs": {"text": {"truncation": False}}}}, "text.truncation is False"),
        ({"sentence_bert_config": {"processing_kwargs": {"chat_template": {"max_length": 3}}}}, "has max_length"),
        ({"sentence_bert_config": {"modality_config": {"message": {}}}}, "modality_config is .*; supported: text and"),
        ({"sentence_bert_config": {"module_output_name": "x"}}, "module_output_name is 'x'"),
        ({"sentence_bert_config": {"tokenizer_args": {"a": 1}}}, "tokenizer_args is {'a': 1}; supported"),
        ({"pooling": {"embedding_dimension": 7}}, f"embedding_dimension is 7; needed: {H}, the model's"),
        ({"pooling": {"colour": 1}}, "holds colour; supported: "),
        (
            {"modules": [{"path": "", "type": "x.Transformer", "kwargs": ["prompt"]}]},
            r"kwargs of x.Transformer is \['prompt'\]; supported: \['task'\]",
        ),
    ],
    ids=str,
)
def test_fields_that_are_refused(tmp_path, options, text):
    with pytest.raises(CheckpointError, match=text):
        SentenceEncoder.from_pretrained(write_sentence_model(tmp_path / "m", **options))


def test_fields_without_effect(tmp_path):
    """What sentence-transformers 6 writes for a model of text."""
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    folder = write_sentence_model(
        tmp_path / "m",
        sentence_bert_config={
            "transformer_task": "feature-extraction",
            "modality_config": text,
            "module_output_name": "token_embeddings",
            "model_args": {"attn_implementation": "sdpa"},
        },
        config_sentence_transformers={"model_type": "SentenceTransformer", "__version__": {}, "truncate_dim": None},
    )
    assert SentenceEncoder.from_pretrained(folder).encode("dog").shape == (H,)


# ----------------------------------------------------------------------------------------------------------------------
# Options


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_sentence_model(tmp_path_factory.mktemp("options") / "m", normalize=True)


@pytest.fixture
def encoder(plain):
    return SentenceEncoder.from_pretrained(plain)


def test_prompts_of_queries_and_documents(plain):
    encoder = SentenceEncoder.from_pretrained(
        plain, prompts={"query": "the cat ", "passage": "far ", "off": None}, default_prompt_name="passage"
    )
    assert np.array_equal(encoder.encode_query("dog"), encoder.encode("the cat dog", prompt=""))
    assert np.array_equal(encoder.encode_document("dog"), encoder.encode("dog", prompt="")), "document is there, empty"
    assert np.array_equal(encoder.encode("dog"), encoder.encode("far dog", prompt_name="off"))
    assert np.array_equal(encoder.encode_query("dog", prompt_name="passage"), encoder.encode("dog"))
    assert np.array_equal(encoder.encode_query("dog", prompt="far "), encoder.encode("dog"))
    assert np.array_equal(
        encoder.encode_document(sentences=["dog"], truncate_dim=5)[0], encoder.encode("dog", prompt="")[:5]
    )


def test_arguments_of_from_pretrained(plain):
    encoder = SentenceEncoder.from_pretrained(plain, similarity_fn_name="dot", truncate_dim=5, device="cpu")
    assert encoder.similarity_fn_name == "dot" and encoder.get_embedding_dimension() == 5 and encoder.device == "cpu"
    for options, text in (
        ({"similarity_fn_name": "x"}, "similarity_fn_name is 'x'"),
        ({"truncate_dim": 0}, "truncate_dim is 0"),
        ({"device": "cuda"}, "device is 'cuda'; needed: 'cpu'"),
        ({"default_prompt_name": "x"}, "default_prompt_name is 'x'; needed: one of 'query', 'document'"),
    ):
        with pytest.raises(ValueError, match=text):
            SentenceEncoder.from_pretrained(plain, **options)
    with pytest.raises(TypeError, match=r"prompts\['a'\] is a int"):
        SentenceEncoder.from_pretrained(plain, prompts={"a": 1})


def test_columns(encoder):
    class Arrow:
        """As pyarrow.Array: its items are scalars of its own."""

        def __iter__(self):
            return iter([object()] * len(SENTENCES))

        def to_pylist(self):
            return list(SENTENCES)

    class Frame:
        columns = ["a"]

        def __iter__(self):
            return iter(self.columns)

    expected = encoder.encode(SENTENCES)
    assert np.array_equal(encoder.encode(Arrow()), expected)
    assert np.array_equal(encoder.encode(np.array(SENTENCES, np.dtypes.StringDType())), expected)
    assert np.array_equal(encoder.encode(sentences=SENTENCES), expected)
    with pytest.raises(TypeError, match="inputs is a Frame; needed: a string, or several"):
        encoder.encode(Frame())
    with pytest.raises(TypeError, match="sentences and inputs are both given"):
        encoder.encode(SENTENCES, sentences=SENTENCES)


@pytest.mark.parametrize("package, make", [("pandas", "Series"), ("pyarrow", "array"), ("polars", "Series")])
def test_columns_of_packages(encoder, package, make):
    column = getattr(pytest.importorskip(package), make)(SENTENCES)
    assert np.array_equal(encoder.encode(column), encoder.encode(SENTENCES))


def test_pairs(isa, tmp_path):
    """Token types of the second text, where the model is to be told them; bits whatever the batch."""
    names = ["input_ids", "token_type_ids", "attention_mask"]
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": 20, "model_input_names": names}
    encoder = SentenceEncoder.from_pretrained(write_sentence_model(tmp_path / "m", tokenizer_config=config))
    texts = [("the cat", "sat on"), "dog", ("", ""), ("far", "the cat " * 20)]
    inputs = encoder.tokenize(texts)
    assert inputs["token_type_ids"][0].sum() == 3 and not inputs["token_type_ids"][1].any()
    state = encoder.model(**inputs).last_hidden_state[0, :7]
    np.testing.assert_allclose(encoder.encode(texts)[0], state.mean(axis=0), atol=1e-6)
    for i, text in enumerate(texts):
        assert np.array_equal(encoder.encode([text])[0], encoder.encode(texts)[i])
    prompted = encoder.encode(texts[:1], prompt="far ")
    assert np.array_equal(prompted, encoder.encode([("far the cat", "sat on")]))
    with pytest.raises(TypeError, match=r"inputs\[0\] is a tuple; needed: a string"):
        encoder.encode([("a", "b", "c")])


def test_precisions(encoder):
    floats = encoder.encode(SENTENCES)
    for precision in util.PRECISIONS:
        found = encoder.encode(SENTENCES, precision=precision)
        expected = util.quantize_embeddings(floats, precision)
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert encoder.encode("dog", precision="ubinary").shape == (3,)
    assert encoder.encode([], precision="int8").shape == (0, H)
    with pytest.raises(ValueError, match="int8 needs the range of each number"):
        encoder.encode("dog", precision="int8")
    with pytest.raises(ValueError, match="precision is 'binary'; needed: 'float32' with output_value"):
        encoder.encode("dog", precision="binary", output_value="token_embeddings")
    with pytest.raises(ValueError, match="precision is 'int4'; needed: one of float32"):
        encoder.encode("dog", precision="int4")


@pytest.mark.parametrize(
    "options, text",
    [
        ({"convert_to_tensor": True}, "convert_to_tensor is True; needed: False"),
        ({"device": ["cpu", "cuda"]}, "device is 'cuda'; needed: 'cpu'"),
        ({"device": []}, r"target_devices is \[\]; needed: a list of 'cpu'"),
        ({"pool": {"input": 1}}, "pool is .*; needed: what start_multi_process_pool"),
        ({"chunk_size": 5}, "chunk_size is 5; needed: pool or a list of devices"),
        ({"chunk_size": 0, "device": ["cpu"]}, "chunk_size is 0; needed: an integer >= 1"),
    ],
)
def test_options_with_one_value(encoder, options, text):
    with pytest.raises(ValueError, match=text):
        encoder.encode("a", **options)


def test_what_is_cut_off_can_be_seen(encoder):
    texts = ["dog", LONG, "", "the cat " * 9, LONG + "!"]
    assert encoder.count_truncated_tokens(texts).tolist() == [0, 42, 0, 0, 43]
    assert encoder.count_truncated_tokens(["the cat " * 9], prompt="far ").tolist() == [1]
    with pytest.warns(
        TruncationWarning, match=r"2 of 5 texts are longer than max_seq_length=20 .* inputs\[1\], 'the c"
    ):
        found = encoder.encode(texts, show_truncated=True, batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(encoder.encode(texts), found)
        encoder.encode(texts[:1], show_truncated=True)
        encoder.encode(["the cat " * 9], show_truncated=True)  # just as many as there may be


def test_the_warning_is_of_the_callers_line(encoder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder.encode([LONG], show_truncated=True)
    assert caught[0].filename == __file__
