"""Decoders and encoder-decoders next to sentence-transformers, live: as sentence encoders, and as rerankers.

tests/helpers/text_decoders.py makes the folders; a further kind of model is an entry in MODELS there.
"""

from __future__ import annotations

import numpy as np
import pytest
from model_folders import write_json
from text_decoders import MODELS, PAIRS, TEXTS, change_json, write_model, write_modules

from transformer_fast.pipelines import CrossEncoder, SentenceEncoder
from transformer_fast.pipelines.sentence_chats import RERANKERS

pytestmark = pytest.mark.oracle
TOLERANCE = 1e-5
FLAT = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant"
STRUCTURED = FLAT.replace("m.content", "m.content[0].text")
# Templates that say what comes after an answer's beginning, and one that reads a variable.
CHATS = {"flat": FLAT, "structured": STRUCTURED, "qwen3": RERANKERS["qwen3-reranker"]}


@pytest.fixture
def st(torch):
    pytest.importorskip("sentence_transformers.models")
    return pytest.importorskip("sentence_transformers")


def both(st, folder, **options):
    return st.SentenceTransformer(str(folder), device="cpu", **options), SentenceEncoder.from_pretrained(folder)


def alike(ours, theirs, method="encode", inputs=TEXTS, **options):
    found, expected = (getattr(model, method)(inputs, **options) for model in (ours, theirs))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    return found


def batch_of(name):
    """GPT-2 of transformers counts padding on the left as positions: its results are those of texts alone."""
    return {"batch_size": 1} if name == "gpt2" else {}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pooling", ["mean", "lasttoken", "weightedmean"])
def test_encoders(st, tmp_path, name, pooling):
    """Saved by sentence-transformers, with EmbeddingGemma's modules; prompts that count and that do not."""
    plain = st.models.Transformer(str(write_model(tmp_path / "plain", name)))
    modules = [plain, st.models.Pooling(24, pooling, include_prompt=pooling != "weightedmean")]
    identity = pytest.importorskip("torch").nn.Identity()
    modules += [st.models.Dense(24, 30, False, identity), st.models.Dense(30, 12, False, identity)]
    saved = st.SentenceTransformer(
        modules=[*modules, st.models.Normalize()], device="cpu", prompts={"query": "the dog: ", "document": "cat"}
    )
    saved.save(str(tmp_path / "saved"))
    theirs, ours = both(st, tmp_path / "saved")
    assert ours.max_seq_length == theirs.max_seq_length and ours.get_embedding_dimension() == 12
    for method in ("encode", "encode_query", "encode_document"):
        alike(ours, theirs, method, **batch_of(name))
    if name != "gpt2":
        features = theirs.preprocess(TEXTS)
        for key, array in ours.tokenize(TEXTS).items():
            assert np.array_equal(array, features[key])


@pytest.mark.parametrize("head", ["Model", "ForCausalLM"])
@pytest.mark.parametrize("changes", [{}, {"is_causal": False}], ids=str)
def test_plain_folders(st, tmp_path, head, changes):
    theirs, ours = both(st, write_model(tmp_path / "m", "qwen3", head, **changes))
    alike(ours, theirs)
    assert theirs[1].pooling_mode == ours._routes.first().pooling.modes[0]


def test_of_an_encoder_decoder_the_encoder_is_read(st, tmp_path):
    theirs, ours = both(st, write_model(tmp_path / "m", "t5", "ForConditionalGeneration"))
    alike(ours, theirs)


@pytest.mark.parametrize("limit", [None, 7, 100])
@pytest.mark.parametrize("told", [None, 9, 500])
def test_lengths(st, tmp_path, limit, told):
    folder = write_modules(write_model(tmp_path / "m", "qwen3"), {"Pooling": {"embedding_dimension": 24}})
    change_json(folder / "tokenizer_config.json", model_max_length=told)
    if limit:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit})
    theirs, ours = both(st, folder)
    assert ours.max_seq_length == theirs.max_seq_length
    alike(ours, theirs)


@pytest.mark.parametrize("template", ["flat", "structured"])
@pytest.mark.parametrize("saved", [False, True])
def test_chats(st, tmp_path, template, saved):
    folder = write_model(tmp_path / "m", "qwen3", "ForCausalLM", CHATS[template])
    theirs, ours = both(st, folder)
    if saved:
        theirs.save(str(tmp_path / "saved"))
        change_json(tmp_path / "saved" / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 12}})
        theirs, ours = both(st, tmp_path / "saved")
    alike(ours, theirs)
    alike(ours, theirs, prompt="the cat ran ")
    alike(ours, theirs, inputs=PAIRS)


# ----------------------------------------------------------------------------------------------------------------------
# Rerankers


def same_scores(st, torch, folder, ours=None, **options):
    theirs = st.CrossEncoder(str(folder), device="cpu", **options)
    ours = CrossEncoder.from_pretrained(folder) if ours is None else ours
    assert ours.num_labels == theirs.num_labels and ours.max_seq_length == theirs.max_seq_length
    for asked in ({}, {"prompt": "dog far: "}, {"prompt": "far. ", "apply_softmax": True}):
        alike(ours, theirs, "predict", PAIRS, **asked)
    if ours.num_labels == 1:
        ranks = [[hit["corpus_id"] for hit in model.rank("the cat", TEXTS)] for model in (ours, theirs)]
        assert ranks[0] == ranks[1]
    logits = theirs.predict(PAIRS, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(ours.predict(PAIRS, activation_fn="Identity"), logits, atol=TOLERANCE)
    return ours, theirs


@pytest.mark.parametrize("name", ["qwen3", "llama_both_ways", "mistral", "gemma3"])
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("template", [None, "flat"])
def test_classifiers(st, torch, tmp_path, name, labels, template):
    options = {"num_labels": labels} | ({"use_bidirectional_attention": False} if name == "gemma3" else {})
    same_scores(
        st, torch, write_model(tmp_path / "m", name, "ForSequenceClassification", CHATS.get(template), **options)
    )


@pytest.mark.parametrize("name", ["qwen3", "gemma"])
@pytest.mark.parametrize("template", [None, "flat", "structured"])
def test_language_models(st, torch, tmp_path, name, template):
    """Plain folders, whose next token is "yes" or "no"."""
    same_scores(st, torch, write_model(tmp_path / "m", name, "ForCausalLM", CHATS.get(template)))


@pytest.mark.parametrize("false_token", [None, 41])
@pytest.mark.parametrize("template", list(CHATS))
def test_logit_score(st, torch, tmp_path, false_token, template):
    """Saved by sentence-transformers; the instruction is a prompt."""
    folder = write_model(tmp_path / "m", "qwen3", "ForCausalLM", CHATS[template])
    change_json(folder / "tokenizer_config.json", model_max_length=200)
    change_json(folder / "config.json", max_position_embeddings=300)
    from sentence_transformers.cross_encoder.modules import LogitScore

    transformer = st.models.Transformer(str(folder), transformer_task="text-generation")
    made = st.CrossEncoder(
        modules=[transformer, LogitScore(40, false_token)],
        device="cpu",
        prompts={"web": "the cat sat"},
        default_prompt_name="web",
        activation_fn=torch.nn.Identity(),
    )
    made.save(str(tmp_path / "saved"))
    ours, _ = same_scores(st, torch, tmp_path / "saved")
    assert ours.default_prompt_name == "web"


def test_a_plain_reranker_with_the_template_of_its_name(st, torch, tmp_path):
    """chat_template="qwen3-reranker" is what sentence-transformers does when it is given that template."""
    folder = write_model(tmp_path / "m", "qwen3", "ForCausalLM", "{% for m in messages %}{% endfor %}none")
    change_json(folder / "tokenizer_config.json", model_max_length=200)
    change_json(folder / "config.json", max_position_embeddings=300)
    with pytest.raises(ValueError, match="cannot carry a 'query'/'document' pair"):
        st.CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    ours = CrossEncoder.from_pretrained(folder, chat_template="qwen3-reranker")
    same_scores(st, torch, folder, ours, processor_kwargs={"chat_template": RERANKERS["qwen3-reranker"]})
