"""`ignore_fields` of every pipeline: the model's config.json may hold a field that the caller knows to be harmless."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from model_folders import write_json, write_sentence_model
from pipeline_folders import write_head

from transformer_fast import SentenceEncoder, pipelines
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import read_json_object
from transformer_fast.pipelines.classifier import load_classifier

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

GOLDEN = Path(__file__).parent.parent / "golden"


def write_words(folder: Path) -> None:
    words = {f"w{i}": i for i in range(24)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w3")).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def of_head(task):
    return lambda folder: write_head(folder, task)


def golden(name, **files):
    def made(folder):
        shutil.copytree(GOLDEN / name, folder)
        write_words(folder)
        for file, content in files.items():
            write_json(folder / f"{file}.json", content)

    return made


PICTURES = {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 12}}
FOLDERS = {
    "FillMask": of_head("MaskedLM"),
    "ImageClassifier": golden("deit", preprocessor_config=PICTURES),
    "ImageTextSimilarity": golden("clip"),
    "QuestionAnswerer": of_head("QuestionAnswering"),
    "SentenceEncoder": write_sentence_model,
    "Summariser": golden("seq2seq/bart"),
    "TextClassifier": of_head("SequenceClassification"),
    "TokenTagger": of_head("TokenClassification"),
    "Transcriber": golden("seq2seq/whisper"),
    "Translator": golden("seq2seq/marian"),
}


@pytest.mark.parametrize("name", [*FOLDERS, "load_classifier"])
def test_fields_that_the_caller_knows(tmp_path, name):
    folder = tmp_path / name
    FOLDERS["TextClassifier" if name == "load_classifier" else name](folder)
    if name == "load_classifier":
        load = load_classifier
    else:
        load = (SentenceEncoder if name == "SentenceEncoder" else getattr(pipelines, name)).from_pretrained
    load(folder)
    write_json(folder / "config.json", read_json_object(folder / "config.json") | {"mine": 1})
    with pytest.raises(CheckpointError, match=r"does not know 'mine', .*ignore_fields=\['mine'\]"):
        load(folder)
    load(folder, ignore_fields=["mine"])
