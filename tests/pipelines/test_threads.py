"""One pipeline in several Python threads, each call with options of its own: the results of one thread.

Calls switch what tokenizers cut off and how; what a call sets must not reach another one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from model_folders import SENTENCES, write_json, write_sentence_model
from pipeline_folders import QUESTIONS, TEXTS, write_head
from threads import FEW, MANY, storm

from transformer_fast import pipelines

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

GOLDEN = Path(__file__).parent.parent / "golden"
LONG = [f"{text} {' '.join(['the cat ran far'] * 9)}" for text in TEXTS]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def write_words(folder: Path, end: int) -> None:
    """A tokenizer with the words w0, w1, ... of the golden encoder-decoders; `end` follows each text."""
    words = [*SPECIAL, *(f"w{i}" for i in range(4, 24))]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"$A {words[end]}", special_tokens=[(words[end], end)]
    )
    tokenizer.add_special_tokens(SPECIAL[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def sentences(folder):
    made = write_sentence_model(folder)

    def calls(encoder):
        return [
            lambda: encoder.encode(SENTENCES),
            lambda: encoder.encode(SENTENCES, prompt="query: ", normalize_embeddings=True),
            lambda: encoder.encode(LONG, batch_size=2, truncate_dim=5),
            lambda: encoder.encode("dog", output_value="token_embeddings"),
            lambda: encoder.tokenize(LONG),
            lambda: encoder.count_tokens(LONG),
            lambda: list(encoder.encode_stream(iter(SENTENCES * 3), batch_size=2)),
        ]

    return lambda: calls(pipelines.SentenceEncoder.from_pretrained(made))


def classifier(folder):
    made = write_head(folder, "SequenceClassification")

    def calls(classify):
        return [
            lambda: classify(TEXTS),
            lambda: classify(LONG, top_k=None),
            lambda: classify(TEXTS[:1], truncation=False, function_to_apply="sigmoid"),
            lambda: classify(list(zip(TEXTS, LONG, strict=True)), top_k=2),
            lambda: error(lambda: classify(LONG, truncation=False)),
        ]

    return lambda: calls(pipelines.TextClassifier.from_pretrained(made))


def pairs(folder):
    made = write_head(folder, "SequenceClassification", 1)

    def calls(encoder):
        return [
            lambda: encoder.predict(list(zip(TEXTS, LONG, strict=True)), batch_size=2),
            lambda: encoder.predict((TEXTS[0], TEXTS[1]), activation_fn="Identity", prompt="the cat "),
            lambda: encoder.rank(TEXTS[0], LONG, top_k=3),
            lambda: error(lambda: encoder.predict([("a", "b")], prompt_name="dogs")),
        ]

    return lambda: calls(pipelines.CrossEncoder.from_pretrained(made))


def tagger(folder):
    made = write_head(folder, "TokenClassification")

    def calls(tag):
        return [
            lambda: tag(TEXTS),
            lambda: tag(LONG, aggregation_strategy="simple", stride=4),
            lambda: tag(LONG, aggregation_strategy="max", stride=12),
            lambda: tag(LONG, aggregation_strategy="first"),
        ]

    return lambda: calls(pipelines.TokenTagger.from_pretrained(made))


def answerer(folder):
    made = write_head(folder, "QuestionAnswering")

    def calls(answer):
        return [
            lambda: answer(QUESTIONS, [LONG[0]] * 3),
            lambda: answer(QUESTIONS[0], LONG[1], max_seq_len=14, doc_stride=3),
            lambda: answer(QUESTIONS[1], LONG[1], max_seq_len=18, doc_stride=8, top_k=3),
            lambda: answer(QUESTIONS[2], TEXTS[3], handle_impossible_answer=True),
        ]

    return lambda: calls(pipelines.QuestionAnswerer.from_pretrained(made))


def masks(folder):
    made = write_head(folder, "MaskedLM")

    def calls(fill):
        return [
            lambda: fill("the [MASK] sat"),
            lambda: fill(["a [MASK] [MASK].", "the cat [MASK] far"], top_k=2),
            lambda: fill("the [MASK]", targets=["dog", "cat"]),
        ]

    return lambda: calls(pipelines.FillMask.from_pretrained(made))


def summaries(folder):
    shutil.copytree(GOLDEN / "seq2seq" / "bart", folder)
    write_words(folder, 2)
    texts = ["w5 w9 w7", "w11", "", " ".join(["w5", "w9"] * 20)]

    def calls(summarise):
        return [
            lambda: summarise(texts, max_new_tokens=6),
            lambda: summarise(texts, max_new_tokens=6, num_beams=3),
            lambda: summarise(texts[:3], max_new_tokens=5, truncation=False),
            lambda: error(lambda: summarise(texts, truncation=False)),
        ]

    return lambda: calls(pipelines.Summariser.from_pretrained(folder))


def transcripts(folder):
    shutil.copytree(GOLDEN / "seq2seq" / "whisper", folder)
    write_words(folder, 2)
    settings = {"feature_size": 6, "chunk_length": 4, "hop_length": 4000}
    write_json(folder / "preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor", **settings})
    sound = (np.random.default_rng(0).standard_normal(100_000) * 0.3).astype(np.float32)

    def calls(transcribe):
        return [
            lambda: transcribe(sound),
            lambda: transcribe([sound[:9000], sound], language="de", num_beams=2),
            lambda: list(transcribe.stream(sound, task="translate", language="french")),
        ]

    return lambda: calls(pipelines.Transcriber.from_pretrained(folder))


def labels_of_pictures(folder):
    pytest.importorskip("PIL.Image")
    shutil.copytree(GOLDEN / "deit", folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}}
    write_json(folder / "preprocessor_config.json", processor)
    pictures = [np.random.default_rng(i).integers(0, 256, (17 + i, 20, 3), np.uint8) for i in range(3)]

    def calls(classify):
        return [lambda: classify(pictures), lambda: classify(pictures[0], top_k=2, function_to_apply="sigmoid")]

    return lambda: calls(pipelines.ImageClassifier.from_pretrained(folder))


def pictures_and_texts(folder):
    pytest.importorskip("PIL.Image")
    shutil.copytree(GOLDEN / "clip", folder)
    words = [*"abcdefghijklmnopqrstuvwxyz", *"0123456789", "cat", "dog", "<start>", "<end>"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 38), ("<end>", 39)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    pictures = [np.random.default_rng(i).integers(0, 256, (17 + i, 20, 3), np.uint8) for i in range(3)]

    def calls(similarity):
        return [
            lambda: similarity(pictures, ["a cat", "b dog"]),
            lambda: similarity.encode_texts(["a cat", "a b c d e f g h i j k l m n o p q r s t u v w", "dog"]),
            lambda: similarity.encode_images(pictures[:2]),
        ]

    return lambda: calls(pipelines.ImageTextSimilarity.from_pretrained(folder))


def error(call) -> str:
    """The text of the ValueError that the call raises: it must not depend on other calls either."""
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


KINDS = [
    sentences,
    classifier,
    pairs,
    tagger,
    answerer,
    masks,
    summaries,
    transcripts,
    labels_of_pictures,
    pictures_and_texts,
]


@pytest.mark.parametrize("turns", [FEW, pytest.param(MANY, marks=pytest.mark.stress)])
@pytest.mark.parametrize("kind", KINDS)
def test_pipelines(tmp_path, kind, turns):
    storm(kind(tmp_path / "model"), turns)
