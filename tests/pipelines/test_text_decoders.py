"""Decoders and encoder-decoders as sentence encoders and as rerankers, by hand: bits, last tokens, chats, refusals.

The peer is sentence-transformers: tests/oracle/test_text_decoders.py.
"""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from model_folders import write_json
from text_decoders import MODELS, PAIRS, TEXTS, TOKENS, change_json, write_model, write_modules

from transformer_fast import load_model, set_num_threads
from transformer_fast.files.errors import CheckpointError
from transformer_fast.pipelines import CrossEncoder, SentenceEncoder

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant"
USERS = "{% for m in messages if m.role in ['system', 'user'] %}<|im_start|>{{ m.content }}{% endfor %}<|im_end|>"
END = TOKENS.index("[SEP]")


def text_modules(folder, pooling="lasttoken", hidden=24):
    kinds = {"Pooling": {"pooling_mode": pooling, "embedding_dimension": hidden}, "Normalize": {}}
    return write_modules(folder, kinds)


def messages(folder, **settings):
    """sentence_bert_config.json of a folder whose texts are chats."""
    method = {"method": "forward", "method_output_name": "last_hidden_state"}
    content = {"modality_config": {"text": method, "message": {**method, "format": "flat"}}}
    write_json(folder / "sentence_bert_config.json", content | {"module_output_name": "token_embeddings"} | settings)
    return folder


# ----------------------------------------------------------------------------------------------------------------------
# Sentence encoders


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_bits_do_not_depend_on_batches_or_threads(tmp_path, isa, threads, name, pooling):
    encoder = SentenceEncoder.from_pretrained(text_modules(write_model(tmp_path / "m", name), pooling))
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    set_num_threads(threads)
    for batch_size in (2, 32):
        np.testing.assert_array_equal(encoder.encode(TEXTS, batch_size=batch_size), alone)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "llama_both_ways"])
def test_rows_are_those_of_the_padded_model(tmp_path, isa, name):
    folder = write_model(tmp_path / "m", name)
    encoder, model = SentenceEncoder.from_pretrained(folder), load_model(folder)
    arguments = encoder.tokenize(TEXTS)
    assert not arguments["attention_mask"][1, 0] and arguments["attention_mask"][:, -1].all()  # padding on the left
    states = model(**arguments).last_hidden_state
    for text, rows, mask in zip(TEXTS, states, arguments["attention_mask"], strict=True):
        found = encoder.encode([text], output_value="token_embeddings")[0]
        np.testing.assert_allclose(found, rows[mask == 1], atol=2e-6)


@pytest.mark.parametrize("head", ["ForCausalLM", "Model"])
def test_a_plain_folder_pools_the_last_token_of_a_language_model(tmp_path, head):
    folder = write_model(tmp_path / "m", "qwen3", head)
    encoder = SentenceEncoder.from_pretrained(folder)
    rows = encoder.encode(TEXTS, output_value="token_embeddings")
    expected = [one[-1] if head == "ForCausalLM" else one.mean(axis=0) for one in rows]
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-6)
    change_json(folder / "config.json", is_causal=False)  # no language model any more
    both_ways = SentenceEncoder.from_pretrained(folder)
    rows = both_ways.encode(TEXTS, output_value="token_embeddings")
    np.testing.assert_allclose(both_ways.encode(TEXTS), [one.mean(axis=0) for one in rows], atol=1e-6)


def test_what_is_cut_off_keeps_the_end(tmp_path):
    encoder = SentenceEncoder.from_pretrained(text_modules(write_model(tmp_path / "m", "qwen3")))
    assert encoder.max_seq_length == 40
    encoder.max_seq_length = 5
    ids = encoder.tokenize(TEXTS[3])["input_ids"]
    assert ids.shape == (1, 5) and ids[0, -1] == END
    encoder.max_seq_length = 4000  # rotations know no limit
    assert encoder.encode("dog " * 3000).shape == (24,)
    with pytest.raises(ValueError, match="max_seq_length is 0; needed: at least 1"):
        encoder.max_seq_length = 0


def test_lengths(tmp_path):
    """Of the settings, the tokenizer and the model, in sentence-transformers' order; and of tables of positions."""
    folder = write_model(tmp_path / "m", "qwen3")
    text_modules(folder)
    change_json(folder / "tokenizer_config.json", model_max_length=None)
    assert SentenceEncoder.from_pretrained(folder).max_seq_length == 64  # max_position_embeddings
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 100})
    assert SentenceEncoder.from_pretrained(folder).max_seq_length == 100
    other = write_model(tmp_path / "g", "gpt2")
    change_json(other / "tokenizer_config.json", model_max_length=100)
    encoder = SentenceEncoder.from_pretrained(other)
    assert encoder.max_seq_length == 48
    with pytest.raises(ValueError, match="needed: 1 to 48"):
        encoder.max_seq_length = 49
    third = write_model(tmp_path / "t", "t5")
    change_json(third / "tokenizer_config.json", model_max_length=None)
    assert SentenceEncoder.from_pretrained(third).max_seq_length == float("inf")


@pytest.mark.parametrize("compute_type, tolerance", [("bfloat16_a32", 0.02), ("int8_a16", 0.02), ("int4", 0.2)])
def test_types_of_weights(tmp_path, compute_type, tolerance):
    folder = text_modules(write_model(tmp_path / "m", "qwen3"))
    expected = SentenceEncoder.from_pretrained(folder).encode(TEXTS)
    encoder = SentenceEncoder.from_pretrained(folder, compute_type=compute_type)
    found = encoder.encode(TEXTS)
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=tolerance)
    np.testing.assert_array_equal(found, np.stack([encoder.encode(text) for text in TEXTS]))


def test_of_an_encoder_decoder_the_encoder_is_read(tmp_path):
    folder = write_model(tmp_path / "m", "t5", "ForConditionalGeneration")
    encoder = SentenceEncoder.from_pretrained(folder)
    assert type(encoder.model).__name__ == "T5EncoderModel" and encoder.encode("dog").shape == (24,)
    ids = np.array([[5, 6, 7, 8]])
    np.testing.assert_array_equal(encoder.model.encode_packed(ids[0], [0, 4]), encoder.model(ids).last_hidden_state[0])


@pytest.mark.parametrize("name", ["llama_both_ways", "gemma3"])
def test_attentions_in_both_directions(tmp_path, name):
    """Layer by layer, as a call runs that reports them, and by the engine: the same states."""
    model, ids = load_model(write_model(tmp_path / "m", name)), np.arange(5, 15)[None]
    output = model(ids, output_attentions=True)
    np.testing.assert_allclose(output.last_hidden_state, model(ids).last_hidden_state, atol=2e-6)
    distance = np.arange(10) - np.arange(10)[:, None]
    seen = [np.abs(distance) <= 3 if name == "gemma3" else np.full((10, 10), True), np.full((10, 10), True)]
    for weights, expected in zip(output.attentions, seen, strict=True):
        np.testing.assert_array_equal(weights[0] > 0, np.broadcast_to(expected, weights[0].shape))


def test_attention_in_both_directions_has_no_past(tmp_path):
    model = load_model(write_model(tmp_path / "m", "llama_both_ways", "ForCausalLM"))
    ids = np.array([[5, 6, 7]])
    assert model(ids).logits.shape == (1, 3, len(TOKENS))
    for call in (lambda: model.generate(ids, max_new_tokens=2), lambda: model(ids, use_cache=True)):
        with pytest.raises(
            ValueError, match="asks for attention in both directions; needed for a past: a causal model"
        ):
            call()


# ----------------------------------------------------------------------------------------------------------------------
# Chats


def test_texts_become_chats(tmp_path):
    """A plain folder's by its template; with modules.json, if modality_config says so."""
    folder = write_model(tmp_path / "m", "qwen3", chat_template=CHAT)
    encoder = SentenceEncoder.from_pretrained(folder)
    as_text = SentenceEncoder.from_pretrained(text_modules(write_model(tmp_path / "plain", "qwen3"), "mean"))
    told = "<|im_start|>system far<|im_end|><|im_start|>user dog<|im_end|><|im_start|>assistant"
    ids = as_text.tokenize(told)["input_ids"][0, :-1].tolist()  # the template has no [SEP]
    assert encoder._routes.first().tokens(["dog"], "far")[0].ids == ids
    assert encoder.tokenize("dog")["input_ids"].tolist() == [ids[4:]]
    assert encoder.encode("dog", prompt="far").tobytes() != encoder.encode("dog").tobytes()
    assert encoder.count_truncated_tokens(["dog", "dog " * 50]).tolist() == [0, 55 - 40]
    text_modules(folder, "mean")
    same = as_text.encode(TEXTS)
    np.testing.assert_array_equal(SentenceEncoder.from_pretrained(folder).encode(TEXTS), same)
    chats = SentenceEncoder.from_pretrained(messages(folder))
    assert chats.tokenize("dog")["input_ids"].tolist() == [ids[4:]]


def test_a_chat_that_is_cut_off_keeps_what_the_template_puts_last(tmp_path):
    folder = messages(text_modules(write_model(tmp_path / "m", "qwen3", chat_template=CHAT)))
    encoder = SentenceEncoder.from_pretrained(folder)
    encoder.max_seq_length = 8
    last = [TOKENS.index(token) for token in ("<|im_end|>", "<|im_start|>", "assistant")]
    ids = encoder.tokenize("dog " * 9)["input_ids"][0].tolist()
    assert ids == [TOKENS.index(token) for token in ("<|im_start|>", "user", "dog", "dog", "dog")] + last
    messages(folder, processing_kwargs={"chat_template": {"restore_suffix": False}, "text": {"max_length": 8}})
    cut = SentenceEncoder.from_pretrained(folder)
    assert cut.max_seq_length == 8
    assert cut.tokenize("dog " * 9)["input_ids"][0].tolist() == ids[:5] + [ids[4]] * 3


def test_variables_of_a_template(tmp_path):
    folder = write_model(tmp_path / "m", "qwen3", chat_template="{{ animal }} {{ messages[0].content }}")
    text_modules(folder)
    messages(folder, processing_kwargs={"chat_template": {"animal": "cat"}})
    ids = SentenceEncoder.from_pretrained(folder).tokenize("dog")["input_ids"]
    assert ids.tolist() == [[TOKENS.index("cat"), TOKENS.index("dog")]]


def test_chats_that_are_refused(tmp_path):
    folder = text_modules(write_model(tmp_path / "m", "qwen3"))
    with pytest.raises(CheckpointError, match="modality_config has message, and .*no chat_template"):
        SentenceEncoder.from_pretrained(messages(folder))
    change_json(folder / "tokenizer_config.json", chat_template="{{ task }}{{ messages[0].content }}")
    with pytest.raises(CheckpointError, match="the chat template reads task"):
        SentenceEncoder.from_pretrained(folder)
    change_json(folder / "tokenizer_config.json", chat_template=USERS)
    encoder = SentenceEncoder.from_pretrained(folder)
    with pytest.raises(ValueError, match="takes no pair of texts: it leaves out the role 'query' and 'document'"):
        encoder.encode([("the cat", "dog")])


# ----------------------------------------------------------------------------------------------------------------------
# Rerankers


def write_reranker(folder, chat_template=None, config=None, name="qwen3"):
    """A language model with LogitScore."""
    write_model(folder, name, "LMHeadModel" if name == "gpt2" else "ForCausalLM", chat_template)
    write_modules(folder, {"LogitScore": config or {"true_token_id": 40, "false_token_id": 41}})
    write_json(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    write_json(folder / "sentence_bert_config.json", {"transformer_task": "text-generation"})
    return folder


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gpt2"])
@pytest.mark.parametrize("scored", [(40, 41), (40, None), (0, 3)])
def test_scores_are_logits_of_the_next_token(tmp_path, isa, name, scored):
    config = {"true_token_id": scored[0], "false_token_id": scored[1]}
    name = {"gemma3": "mistral"}.get(name, name)
    folder = write_reranker(tmp_path / "m", None, config, name)
    encoder, model = CrossEncoder.from_pretrained(folder), load_model(folder)
    rows = [encoder.tokenizer.encode_batch([pair], max_length=40)[0].ids for pair in PAIRS]
    logits = np.stack([model(np.array([row])).logits[0, -1] for row in rows])
    expected = logits[:, scored[0]] - (0 if scored[1] is None else logits[:, scored[1]])
    np.testing.assert_allclose(encoder.predict(PAIRS, activation_fn="Identity"), expected, rtol=1e-6, atol=1e-5)
    assert encoder.model.lm_head.weight.shape == (2 - (scored[1] is None), 24)  # the head's other rows are not read


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForCausalLM"])
def test_bits_of_scores(tmp_path, isa, threads, head):
    folder = write_model(tmp_path / "m", "qwen3", head, **({"num_labels": 1} if head != "ForCausalLM" else {}))
    encoder = CrossEncoder.from_pretrained(folder)
    expected = np.stack([encoder.predict(pair) for pair in PAIRS])
    set_num_threads(threads)
    for batch_size in (1, 3, 32):
        np.testing.assert_array_equal(encoder.predict(PAIRS, batch_size=batch_size), expected)
    ranked = encoder.rank("the cat", TEXTS)
    scores = encoder.predict([("the cat", text) for text in TEXTS])
    assert [hit["corpus_id"] for hit in ranked] == np.argsort(-scores, kind="stable").tolist()


def test_the_last_token_of_a_classifier_is_not_padding(tmp_path):
    """As in transformers: the rightmost id that is not pad_token_id counts, also where a text ends with it."""
    folder = write_model(tmp_path / "m", "qwen3", "ForSequenceClassification", num_labels=3, pad_token_id=END)
    encoder, model = CrossEncoder.from_pretrained(folder), load_model(folder)
    ids = encoder.tokenizer.encode("the cat", "dog").ids
    assert ids[-1] == END
    np.testing.assert_allclose(encoder.predict(("the cat", "dog")), model(np.array([ids])).logits[0], atol=1e-6)
    np.testing.assert_allclose(model.last_logits(ids, [0, 5]), model.last_logits(ids[:-1], [0, 4]), atol=1e-6)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForCausalLM"])
def test_texts_without_tokens(tmp_path, head):
    """Of a tokenizer that puts nothing around a text: they have no last token, and their vectors are 0."""
    folder = write_model(tmp_path / "m", "qwen3", head)
    change_json(folder / "tokenizer.json", post_processor=None)
    with pytest.raises(ValueError, match="text 0 has no token; needed: at least one"):
        CrossEncoder.from_pretrained(folder).predict(("", ""))
    vectors = SentenceEncoder.from_pretrained(folder).encode(["", "dog"])
    assert not vectors[0].any() and vectors[1].any()


def test_a_plain_reranker_by_the_name_of_its_template(tmp_path):
    """Qwen3-Reranker's folder: a language model with a template that takes no pairs."""
    folder = write_model(tmp_path / "m", "qwen3", "ForCausalLM", USERS)
    change_json(folder / "tokenizer_config.json", model_max_length=300)
    with pytest.raises(CheckpointError, match="takes no pair of texts: .*chat_template=.*'qwen3-reranker'"):
        CrossEncoder.from_pretrained(folder)
    options = {"chat_template": "qwen3-reranker", "max_length": 200}
    encoder = CrossEncoder.from_pretrained(folder, **options)
    text = encoder._pairs._chats._render([encoder._pairs._chats._conversation(("who?", "me"), "ask")])[0]
    assert text.endswith(
        "<Instruct>: ask\n<Query>: who?\n<Document>: me<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    text = encoder._pairs._chats._render([encoder._pairs._chats._conversation(("who?", "me"), "")])[0]
    assert "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>" in text
    scores = encoder.predict(PAIRS)
    assert np.abs(np.diff(scores)).max() > 1e-4 and (scores > 0).all() and (scores < 1).all()
    other = CrossEncoder.from_pretrained(folder, **options, score_tokens=["no", "yes"])
    np.testing.assert_allclose(other.predict(PAIRS), 1 - scores, atol=1e-6)
    assert np.abs(encoder.predict(PAIRS, prompt="the dog") - scores).max() > 1e-6
    own = CrossEncoder.from_pretrained(folder, chat_template=CHAT)
    assert own._pairs.tokens([("the cat", "dog")])[0].ids[1:4] != own._pairs.tokens([("dog", "dog")])[0].ids[1:4]


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"score_tokens": "yes"}, ValueError, "score_tokens is 'yes'; needed: one or two strings in a list"),
        ({"score_tokens": ["y", "n", "o"]}, ValueError, "needed: one or two strings"),
        ({"score_tokens": ["maybe"]}, CheckpointError, "the vocabulary has no token 'maybe'"),
        (
            {"chat_template": "qwen4"},
            ValueError,
            "chat_template is 'qwen4'; needed: a template in Jinja, or one of 'qwen3",
        ),
        ({"chat_template": "{{ messages }"}, CheckpointError, "the chat template is malformed"),
        ({"chat_template": "{{ messages[0].content }}"}, CheckpointError, "leaves out the role 'document'"),
    ],
)
def test_arguments_that_are_refused(tmp_path, options, error, text):
    folder = write_model(tmp_path / "m", "qwen3", "ForCausalLM")
    with pytest.raises(error, match=text):
        CrossEncoder.from_pretrained(folder, **options)


@pytest.mark.parametrize(
    "config, text",
    [
        ({"true_token_id": None}, "true_token_id is None and false_token_id None; needed: an integer"),
        ({"true_token_id": 3, "false_token_id": "no"}, "false_token_id 'no'"),
        ({"true_token_id": 3, "module_input_name": "logits"}, "module_input_name is 'logits'; supported"),
        ({"true_token_id": 3, "colour": 1}, "holds colour"),
        ({"true_token_id": 3000}, "token 3000 is to be scored; needed: 0 to"),
    ],
)
def test_fields_of_logit_score(tmp_path, config, text):
    with pytest.raises(CheckpointError, match=text):
        CrossEncoder.from_pretrained(write_reranker(tmp_path / "m", None, config))


def test_folders_that_are_refused(tmp_path):
    folder = write_reranker(tmp_path / "m", CHAT)
    with pytest.raises(ValueError, match="score_tokens is .*; needed: None, except for a language model without"):
        CrossEncoder.from_pretrained(folder, score_tokens=["yes"])
    write_json(folder / "sentence_bert_config.json", {"transformer_task": "any-to-any"})
    with pytest.raises(CheckpointError, match="transformer_task is 'any-to-any'; supported: 'text-generation'"):
        CrossEncoder.from_pretrained(folder)
    bart = tmp_path / "bart"
    bart.mkdir()
    write_json(bart / "config.json", {"model_type": "bart"})
    with pytest.raises(CheckpointError, match="BartModel encodes no text"):
        SentenceEncoder.from_pretrained(bart)


def test_settings_survive(tmp_path):
    """Prompts of a reranker are its instruction."""
    folder = write_reranker(tmp_path / "m", CHAT)
    method = {"method": "forward", "method_output_name": "logits"}
    content = {"transformer_task": "text-generation", "modality_config": {"message": {**method, "format": "flat"}}}
    write_json(folder / "sentence_bert_config.json", content | {"module_output_name": "causal_logits"})
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    activation = "torch.nn.modules.linear.Identity"
    settings |= {"prompts": {"cats": "the cat"}, "default_prompt_name": "cats", "activation_fn": activation}
    write_json(folder / "config_sentence_transformers.json", settings)
    encoder = CrossEncoder.from_pretrained(folder)
    assert encoder.num_labels == 1 and encoder.default_prompt_name == "cats"
    np.testing.assert_array_equal(encoder.predict(PAIRS), encoder.predict(PAIRS, prompt="the cat"))
    assert not np.array_equal(encoder.predict(PAIRS), encoder.predict(PAIRS, prompt=""))


# ----------------------------------------------------------------------------------------------------------------------
# GGUF


def write_gguf_encoder(path, folder, **further):
    """The model of a folder as a GGUF file; texts end with the token </s>."""
    pytest.importorskip("gguf")
    from decoder_cases import config as config_of
    from decoder_cases import tensors, write
    from gguf_files import metadata_of, tensors_in_gguf, write_gguf

    write(folder, "qwen3")
    tokens = ["<unk>", "<s>", "</s>", *(chr(97 + i) for i in range(26)), *"ABCDEFGHIJK"]
    keys = {"model": "llama", "tokens": tokens, "scores": [0.0] * len(tokens)}
    keys |= {"token_type": [2, 3, 3] + [1] * (len(tokens) - 3), "add_bos_token": False, "add_eos_token": True}
    keys |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    settings = config_of("qwen3")
    metadata = metadata_of(settings) | {f"qwen3.{key}": value for key, value in further.items()}
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return write_gguf(path, "qwen3", metadata, tensors_in_gguf(settings, tensors("qwen3")))


@pytest.mark.parametrize("number", [1, 3, None])
def test_a_gguf_file(tmp_path, number):
    """pooling_type as converters of Qwen3-Embedding write it; without it, the last token of a language model."""
    path = write_gguf_encoder(tmp_path / "a.gguf", tmp_path / "m", **({"pooling_type": number} if number else {}))
    encoder, model = SentenceEncoder.from_pretrained(path), load_model(tmp_path / "m", head=False)
    ids = encoder.tokenize("abc")["input_ids"]
    assert ids[0, -1] == 2
    rows = model(ids).last_hidden_state[0]
    np.testing.assert_allclose(encoder.encode("abc"), rows.mean(axis=0) if number == 1 else rows[-1], atol=2e-6)


def test_metadata_that_is_refused(tmp_path):
    path = write_gguf_encoder(tmp_path / "a.gguf", tmp_path / "m", **{"attention.causal": False})
    with pytest.raises(CheckpointError, match="attention.causal"):
        SentenceEncoder.from_pretrained(path)


# ----------------------------------------------------------------------------------------------------------------------
# Pickles


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_language_models_pickle_as_their_files(tmp_path, name):
    folder = write_model(tmp_path / "m", name, "LMHeadModel" if name == "gpt2" else "ForCausalLM")
    model = load_model(folder)
    model.generation_config["max_new_tokens"] = 3
    content = pickle.dumps(model)
    assert len(content) < 1500
    for other in (pickle.loads(content), copy.deepcopy(model)):
        np.testing.assert_array_equal(other.generate([[5, 6]]), model.generate([[5, 6]]))
        assert other.generation_config == model.generation_config


def test_rerankers_pickle_as_their_files(tmp_path):
    encoder = CrossEncoder.from_pretrained(write_reranker(tmp_path / "m", CHAT))
    expected, content = encoder.predict(PAIRS), pickle.dumps(encoder)
    assert len(content) < 3000
    changed = copy.deepcopy(encoder)  # pickles with its parameters
    for other in (pickle.loads(content), changed, pickle.loads(pickle.dumps(changed))):
        np.testing.assert_array_equal(other.predict(PAIRS), expected)
        assert other.model.token_ids == (40, 41)
