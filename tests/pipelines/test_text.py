"""`encode` against sentence-transformers' own numbers (golden), its arguments, and the files that it reads."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from model_folders import SENTENCES, TINY_BERT, WORDS, write_bert, write_json, write_sentence_model, write_tokenizer
from subprocesses import run_python

from transformer_fast import pipelines
from transformer_fast.files.errors import CheckpointError
from transformer_fast.pipelines import SentenceEncoder
from transformer_fast.pipelines import text_runs as text
from transformer_fast.weights import find_minilm

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

GOLDEN = Path(__file__).parent.parent / "golden"
TOLERANCE = 1e-5
MODEL_LIMIT = TINY_BERT["max_position_embeddings"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_model(tmp_path_factory.mktemp("text") / "model", normalize=True)


@pytest.fixture
def encoder(folder):
    return SentenceEncoder.from_pretrained(folder)


def load(tmp_path, **options):
    return SentenceEncoder.from_pretrained(write_sentence_model(tmp_path / "model", **options))


# ----------------------------------------------------------------------------------------------------------------------
# Results


POOLINGS = {
    "mean": {"pooling_mode_mean_tokens": True},
    "cls": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    "max": {"pooling_mode": "max"},
    "all": {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True},
}


@pytest.mark.parametrize("name", POOLINGS)
def test_golden_numbers_of_sentence_transformers(isa, tmp_path, name):
    """Made by golden/make_golden.py on the same folder: every pooling; no prompt, one, one that is not pooled."""
    encoder = load(tmp_path, pooling=POOLINGS[name])
    without = write_sentence_model(tmp_path / "without", pooling={**POOLINGS[name], "include_prompt": False})
    without = SentenceEncoder.from_pretrained(without)
    with np.load(GOLDEN / "sentences.npz") as golden:
        sentences = golden["sentences"].tolist()
        np.testing.assert_allclose(encoder.encode(sentences), golden[name], atol=TOLERANCE)
        prompted = encoder.encode(sentences, prompt="query: ")
        np.testing.assert_allclose(prompted, golden[f"{name}_prompt"], atol=TOLERANCE)
        prompted = without.encode(sentences, prompt="query: ")
        np.testing.assert_allclose(prompted, golden[f"{name}_without_prompt"], atol=TOLERANCE)


def minilm():
    try:
        return find_minilm()
    except CheckpointError as error:
        pytest.skip(str(error))


def test_golden_numbers_on_the_real_weights(isa):
    encoder = SentenceEncoder.from_pretrained(minilm())
    assert encoder.max_seq_length == 256 and encoder.get_sentence_embedding_dimension() == 384
    with np.load(GOLDEN / "minilm.npz") as golden:
        embeddings = encoder.encode(golden["sentences"].tolist())
        np.testing.assert_allclose(embeddings, golden["embeddings"], atol=TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batch_size_does_not_change_a_bit(isa, encoder, batch_size):
    sentences = SENTENCES * 3
    assert np.array_equal(encoder.encode(sentences, batch_size=batch_size), encoder.encode(sentences))
    one = np.stack([encoder.encode(sentence) for sentence in sentences])
    assert np.array_equal(one, encoder.encode(sentences))


def test_real_weights_batch_size_does_not_change_a_bit(isa):
    encoder = SentenceEncoder.from_pretrained(minilm())
    sentences = [" ".join(["word", "other", "compressed", "files"][: 1 + i % 4] * (i % 7)) for i in range(40)]
    expected = encoder.encode(sentences, batch_size=40)
    for batch_size in (1, 7):
        assert np.array_equal(encoder.encode(sentences, batch_size=batch_size), expected)


def test_shapes_and_order(encoder):
    embeddings = encoder.encode(SENTENCES)
    assert embeddings.shape == (5, 24) and embeddings.dtype == np.float32
    assert encoder.encode(SENTENCES[0]).shape == (24,)
    assert encoder.encode(SENTENCES[:1]).shape == (1, 24)
    assert encoder.encode([]).shape == (0, 24) and encoder.encode([]).dtype == np.float32
    assert np.array_equal(encoder.encode(SENTENCES[::-1]), embeddings[::-1])
    for same in (tuple(SENTENCES), iter(SENTENCES), np.array(SENTENCES), np.array(SENTENCES, object)):
        assert np.array_equal(encoder.encode(same), embeddings)
    rows = encoder.encode(SENTENCES, convert_to_numpy=False)
    assert isinstance(rows, list) and np.array_equal(np.stack(rows), embeddings)


def test_token_embeddings(encoder):
    tokens = encoder.encode(SENTENCES, output_value="token_embeddings", batch_size=2)
    assert [len(rows) for rows in tokens] == [len(row) for row in map(encoder.tokenizer.encode, SENTENCES)]
    mean = np.stack([rows.mean(axis=0) for rows in tokens])
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(mean, encoder.encode(SENTENCES), atol=1e-6)
    assert encoder.encode("dog", output_value="token_embeddings").shape == (3, 24)
    assert encoder.encode([], output_value="token_embeddings") == []


def test_normalising_and_truncating(tmp_path, encoder):
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(SENTENCES), axis=1), 1, atol=1e-6)
    plain = load(tmp_path)
    embeddings = plain.encode(SENTENCES)
    assert (np.abs(np.linalg.norm(embeddings, axis=1) - 1) > 0.1).all()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(plain.encode(SENTENCES, normalize_embeddings=True), unit, atol=1e-6)
    assert np.array_equal(plain.encode(SENTENCES, truncate_dim=7), embeddings[:, :7])
    assert np.array_equal(plain.encode(SENTENCES, truncate_dim=700), embeddings)
    assert plain.encode([], truncate_dim=7).shape == (0, 7)
    short = plain.encode(SENTENCES, truncate_dim=7, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)


@pytest.mark.thread_unsafe(reason="sets an attribute of the encoder that tests share")
def test_length_limit(tmp_path, folder, encoder):
    long = "the cat sat on the mat " * 10
    assert encoder.max_seq_length == 20, "tokenizer_config.json's model_max_length"
    assert np.array_equal(encoder.encode(long), encoder.encode("the cat sat on the mat " * 3))
    assert encoder.count_tokens([long, "dog", ""]) == 20 + 3 + 2
    encoder.max_seq_length = 5
    assert encoder.count_tokens(long) == 5
    with pytest.raises(ValueError, match="max_seq_length is 33; needed: 2 to 32"):
        encoder.max_seq_length = 33
    with pytest.raises(ValueError, match="max_seq_length is 1"):
        encoder.max_seq_length = 1
    assert load(tmp_path / "a", sentence_bert_config={"max_seq_length": 7}).max_seq_length == 7
    assert load(tmp_path / "b", sentence_bert_config={"max_seq_length": 70}).max_seq_length == MODEL_LIMIT
    assert load(tmp_path / "c", tokenizer_config={"model_max_length": int(1e30)}).max_seq_length == MODEL_LIMIT
    assert load(tmp_path / "d", tokenizer_config={"model_max_length": 1e30}).max_seq_length == MODEL_LIMIT
    assert load(tmp_path / "e", tokenizer_config={}).max_seq_length == MODEL_LIMIT
    left = load(tmp_path / "f", tokenizer_config={"truncation_side": "left", "model_max_length": 5})
    assert left.tokenize("the cat sat on")["input_ids"][0, 1:4].tolist() == [
        WORDS.index(w) for w in ("cat", "sat", "on")
    ]


def test_prompts(tmp_path, encoder):
    assert np.array_equal(encoder.encode("dog", prompt_name="query"), encoder.encode("dog")), "as sentence-transformers"
    prompts = {"prompts": {"query": "query: ", "cats": "the cat "}, "default_prompt_name": "cats"}
    prompted = load(tmp_path, config_sentence_transformers=prompts)
    plain = load(tmp_path / "plain").encode(["the cat dog", "query: dog", "dog"])
    assert np.array_equal(prompted.encode("dog"), plain[0])
    assert np.array_equal(prompted.encode("dog", prompt_name="query"), plain[1])
    assert np.array_equal(prompted.encode("dog", prompt_name="query", prompt=""), plain[2])
    assert np.array_equal(prompted.encode("dog", prompt_name="document"), plain[2])
    with pytest.raises(ValueError, match="prompt_name is 'dogs'; this model has: 'query', 'document', 'cats'"):
        prompted.encode("dog", prompt_name="dogs")


def test_prompts_that_are_null(tmp_path, encoder):
    prompts = {"prompts": {"query": None, "document": "the cat ", "other": None}, "default_prompt_name": "query"}
    prompted = load(tmp_path, config_sentence_transformers=prompts)
    plain = load(tmp_path / "plain").encode("dog")
    for options in ({}, {"prompt_name": "query"}, {"prompt_name": "other"}):
        assert np.array_equal(prompted.encode("dog", **options), plain)
    assert prompted.prompts == {"query": "", "document": "the cat ", "other": ""}


FAMILIES = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"]


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_named_after_a_family(tmp_path, family):
    from transformer_fast.files.folder import open_source
    from transformer_fast.pipelines.sentence_inputs import sentence_config

    assert sentence_config(open_source(tmp_path)) == ("sentence_bert_config.json", {})
    name = f"sentence_{family}_config.json"
    write_json(tmp_path / name, {"max_seq_length": 7})
    assert sentence_config(open_source(tmp_path)) == (name, {"max_seq_length": 7})
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 9})
    assert sentence_config(open_source(tmp_path))[1] == {"max_seq_length": 9}, "the first of them, as there"


def test_lower_case(tmp_path):
    words = ["The cat"]
    write = {"tokenizer_config": {"tokenizer_class": "BertTokenizer", "do_lower_case": False}}
    cased = load(tmp_path / "a", **write)
    assert cased.tokenize(words)["input_ids"][0, 1] == WORDS.index("The")
    lower = load(tmp_path / "b", sentence_bert_config={"do_lower_case": True}, **write)
    assert lower.tokenize(words)["input_ids"][0, 1] == WORDS.index("the")
    write_tokenizer(tmp_path / "a" / "model", lowercase=False, config={})
    unsaid = SentenceEncoder.from_pretrained(tmp_path / "a" / "model")
    assert unsaid.tokenize(words)["input_ids"][0, 1] == WORDS.index("the"), (
        "BertTokenizer's default, as in transformers"
    )
    write_tokenizer(tmp_path / "a" / "model", lowercase=False, config={"tokenizer_class": "PreTrainedTokenizerFast"})
    as_saved = SentenceEncoder.from_pretrained(tmp_path / "a" / "model")
    assert as_saved.tokenize(words)["input_ids"][0, 1] == WORDS.index("The")


def test_tokenize_gives_what_the_model_takes(encoder):
    inputs = encoder.tokenize(["dog", "the cat", ""])
    assert {name: array.shape for name, array in inputs.items()} == dict.fromkeys(inputs, (3, 4))
    assert inputs["attention_mask"].sum(axis=1).tolist() == [3, 4, 2]
    state = encoder.model(**inputs).last_hidden_state
    tokens = encoder.encode(["dog", "the cat", ""], output_value="token_embeddings")
    np.testing.assert_allclose(state[1, :4], tokens[1], atol=1e-6)
    assert encoder.tokenize([])["input_ids"].shape == (0, 0)


def test_similarity(tmp_path, encoder):
    a, b = np.random.default_rng(0).standard_normal((2, 3, 24)).astype(np.float32)
    cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(encoder.similarity(a, b), cosine, atol=1e-6)
    np.testing.assert_allclose(encoder.similarity(a[0], b), cosine[:1], atol=1e-6)
    dot = load(tmp_path, config_sentence_transformers={"similarity_fn_name": "dot"})
    np.testing.assert_allclose(dot.similarity(a, b), a @ b.T, atol=1e-5)
    with pytest.raises(ValueError, match=r"shapes \(3, 24\) and \(3, 23\)"):
        encoder.similarity(a, b[:, 1:])
    other = load(tmp_path / "other", config_sentence_transformers={"similarity_fn_name": "euclidean"})
    distances = np.linalg.norm(a[:, None].astype(np.float64) - b, axis=-1)
    np.testing.assert_allclose(other.similarity(a, b), -distances, atol=1e-5)
    np.testing.assert_allclose(other.similarity_pairwise(a, b), -np.diag(distances), atol=1e-5)
    other.similarity_fn_name = "manhattan"
    np.testing.assert_allclose(other.similarity_pairwise(a, b), -np.abs(a - b).sum(axis=1), atol=1e-5)
    with pytest.raises(ValueError, match="similarity_fn_name is 'maxsim'; needed: one of cosine, dot"):
        other.similarity_fn_name = "maxsim"


# ----------------------------------------------------------------------------------------------------------------------
# Arguments, progress, interruption, threads


@pytest.mark.parametrize(
    "sentences, message",
    [
        (["a", None], r"inputs\[1\] is a NoneType; needed: a string"),
        (["a", "b", b"c"], r"inputs\[2\] is a bytes"),
        ([["a"]], r"inputs\[0\] is a list"),
        ([float("nan")], r"inputs\[0\] is a float"),
        (b"abc", "inputs is a bytes"),
        (None, "inputs is a NoneType"),
        ({"a": 1}, "inputs is a dict"),
        (3, "inputs is a int"),
    ],
)
def test_sentences_that_are_none(encoder, sentences, message):
    with pytest.raises(TypeError, match=message):
        encoder.encode(sentences)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 2.0}, {"batch_size": True}, {"truncate_dim": 0}])
def test_numbers_out_of_range(encoder, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*; needed: an integer >= 1"):
        encoder.encode("a", **options)


def test_other_bad_arguments(encoder):
    with pytest.raises(ValueError, match="output_value is None"):
        encoder.encode("a", output_value=None)
    with pytest.raises(TypeError, match="prompt is a int"):
        encoder.encode("a", prompt=3)
    with pytest.raises(ValueError, match="lone surrogate"):
        encoder.encode(["a", "b\ud800"])


def test_progress_bar(encoder, capsys, monkeypatch):
    encoder.encode(SENTENCES, show_progress_bar=True, batch_size=2)
    captured = capsys.readouterr()
    assert "5/5" in captured.err and not captured.out
    encoder.encode(SENTENCES)
    assert capsys.readouterr() == ("", ""), "no terminal"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    encoder.encode(SENTENCES)
    assert capsys.readouterr().err == "", "short work"
    monkeypatch.setattr(text, "_PROGRESS_DELAY", 0)
    encoder.encode(SENTENCES)
    assert "5/5" in capsys.readouterr().err
    encoder.encode(SENTENCES, show_progress_bar=False)
    assert capsys.readouterr() == ("", "")


def test_interrupt_stops_within_one_run(encoder, monkeypatch):
    calls = []
    encode_packed = encoder.model.encode_packed

    def counted(*args):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return encode_packed(*args)

    monkeypatch.setattr(encoder.model, "encode_packed", counted)
    monkeypatch.setattr(text, "TOKENS_OF_A_THREAD", 1)
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(["dog"] * 1000, batch_size=1)
    assert len(calls) == 3
    monkeypatch.undo()
    assert encoder.encode("dog").shape == (24,)


def test_one_encoder_in_several_threads(encoder):
    expected = encoder.encode(SENTENCES)
    results = [None] * 4

    def work(i):
        results[i] = encoder.encode(SENTENCES, batch_size=1 + i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, expected) for result in results)


# ----------------------------------------------------------------------------------------------------------------------
# Folders


def test_a_plain_model_folder_takes_the_mean(tmp_path):
    write_bert(tmp_path / "plain")
    write_tokenizer(tmp_path / "plain")
    encoder = SentenceEncoder.from_pretrained(str(tmp_path / "plain"))
    assert np.array_equal(encoder.encode(SENTENCES), load(tmp_path).encode(SENTENCES))
    assert "BertModel, dim=24, pooling=mean, max_seq_length=20" in repr(encoder)


def test_the_model_may_stand_in_a_folder_of_its_own(tmp_path, encoder):
    types = ["Transformer", "Pooling", "Normalize"]
    modules = [{"path": f"{i}_{kind}", "type": f"package.{kind}"} for i, kind in enumerate(types)]
    folder = write_sentence_model(tmp_path / "model", modules=modules)
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    assert np.array_equal(SentenceEncoder.from_pretrained(folder).encode(SENTENCES), encoder.encode(SENTENCES))


def modules(*kinds, **changes):
    return [{"path": f"{i}_{kind}" if i else "", "type": f"x.{kind}", **changes} for i, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"modules": modules("Transformer", "Pooling", "LSTM")},
            r"modules\.json: the modules are Transformer, Pooling, LSTM",
        ),
        ({"modules": modules("Transformer")}, r"modules\.json: the modules are Transformer; supported"),
        ({"modules": modules("Pooling", "Transformer")}, r"modules\.json: the modules are Pooling, Transformer; supp"),
        ({"modules": modules("Router", "Router")}, r"modules\.json: has 2 Routers"),
        ({"modules": []}, r"modules\.json: the modules are none"),
        ({"modules": [1]}, r"modules\.json: needed: a list of objects"),
        ({"modules": {}}, r"modules\.json: needed: a list of objects"),
        (
            {"modules": modules("Transformer", "Pooling", path="../x")},
            r"modules\.json: the name '\.\./x' points outside",
        ),
        ({"modules": modules("Transformer", "Pooling", path=None)}, r"modules\.json: None is no file name"),
        (
            {"pooling": {"pooling_mode": "first"}},
            r"config\.json: the pooling is \['first'\]; supported: mean, cls",
        ),
        ({"pooling": {"pooling_mode": 3}}, r"config\.json: the pooling is 3"),
        ({"pooling": {"pooling_mode": [["mean"]]}}, r"config\.json: the pooling is"),
        ({"pooling": {"include_prompt": 1}}, r"config\.json: include_prompt is 1; needed: bool"),
        ({"pooling": [1]}, r"config\.json: holds a JSON list"),
        ({"sentence_bert_config": {"max_seq_length": 0}}, "sentence_bert_config.json: max_seq_length is 0"),
        ({"sentence_bert_config": {"max_seq_length": "9"}}, "sentence_bert_config.json: max_seq_length is '9'"),
        ({"sentence_bert_config": {"max_seq_length": 1}}, "maximal length of a text is 1 tokens"),
        ({"sentence_bert_config": {"do_lower_case": 1}}, "do_lower_case is 1; needed: bool"),
        ({"sentence_bert_config": {"transformer_task": "fill-mask"}}, "transformer_task is 'fill-mask'"),
        ({"tokenizer_config": {"do_lower_case": "yes"}}, "tokenizer_config.json: do_lower_case is 'yes'"),
        ({"tokenizer_config": {"truncation_side": "middle"}}, "truncation_side is 'middle'"),
        ({"config_sentence_transformers": {"prompts": {"a": 1}}}, "prompts holds something else than strings"),
        ({"config_sentence_transformers": {"prompts": []}}, r"prompts is \[\]; needed: dict"),
        ({"config_sentence_transformers": {"default_prompt_name": "a"}}, "default_prompt_name 'a' is not one of"),
        ({"config_sentence_transformers": {"truncate_dim": -1}}, "truncate_dim is -1"),
        ({"tokenizer": {}}, r"tokenizer\.json: not a tokenizer"),
    ],
)
def test_files_that_are_refused(tmp_path, options, message):
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, **options)


def test_missing_files(tmp_path):
    folder = write_sentence_model(tmp_path / "model")
    for name in ("1_Pooling/config.json", "tokenizer.json", "model.safetensors", "config.json"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=name.partition("/")[2] or name):
            SentenceEncoder.from_pretrained(folder)
        (folder / name).write_bytes(content)
    (folder / "tokenizer_config.json").unlink()
    assert SentenceEncoder.from_pretrained(folder).encode("dog").shape == (24,)


def test_truncate_dim_of_the_folder(tmp_path):
    encoder = load(tmp_path, config_sentence_transformers={"truncate_dim": 5})
    assert encoder.get_sentence_embedding_dimension() == 5
    assert encoder.encode("dog").shape == (5,) and encoder.encode("dog", truncate_dim=7).shape == (7,)


def test_token_types_other_than_zero_are_refused(tmp_path):
    folder = write_sentence_model(tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["single"][1]["Sequence"]["type_id"] = 1
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: gives a single text token types"):
        SentenceEncoder.from_pretrained(folder)


# ----------------------------------------------------------------------------------------------------------------------
# Names: folders and the hub


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "a\\b", Path("nowhere")], ids=str
)
def test_folders_that_are_not_there(name):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        SentenceEncoder.from_pretrained(name)


def test_names_on_the_hub(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    calls = []

    def download(name, **options):
        calls.append((name, options))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    SentenceEncoder.from_pretrained("org/model")
    SentenceEncoder.from_pretrained("all-MiniLM-L6-v2", local_files_only=True)
    assert [name for name, _ in calls] == ["org/model", "sentence-transformers/all-MiniLM-L6-v2"]
    assert [options["local_files_only"] for _, options in calls] == [False, True]


@pytest.mark.parametrize("name", ["org/model-that-is-not-there", "not a name"])
def test_models_that_the_hub_does_not_give(name, monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="is no folder here, and no model that the hub gives: .+"):
        SentenceEncoder.from_pretrained(name, local_files_only=True)


def test_a_missing_extra_is_explained(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(
        ImportError, match=r"tokenizers is not installed; needed: pip install 'transformer-fast\[models\]'"
    ):
        SentenceEncoder.from_pretrained(folder)


def test_import_brings_no_other_pipeline():
    code = """
        import sys, transformer_fast
        transformer_fast.SentenceEncoder
        rooms = ("pipelines.transcriber", "pipelines.image_text", "models.vit")
        print([name for name in sys.modules if name.startswith(tuple(f"transformer_fast.{room}" for room in rooms))])
    """
    assert run_python(code=code).stdout.splitlines()[-1] == "[]"


def test_every_pipeline_is_there():
    assert all(getattr(pipelines, name).__name__ == name for name in pipelines.__all__)
    assert set(pipelines.__all__) <= set(dir(pipelines))
    with pytest.raises(AttributeError, match="Absent"):
        _ = pipelines.Absent
