"""`transformer-fast serve`: what --model says, kinds of models, and what is told in one line before it listens."""

from __future__ import annotations

import socket

import pytest
from decoder_cases import write_byte_gpt2
from hub_models import write_llama_gguf
from model_folders import write_json, write_sentence_model
from pipeline_folders import write_head

for _name in ("starlette", "uvicorn", "pydantic", "orjson"):
    pytest.importorskip(_name)

from transformer_fast import cli  # noqa: E402
from transformer_fast.commands import serve  # noqa: E402
from transformer_fast.files.errors import CheckpointError  # noqa: E402
from transformer_fast.files.folder import open_source  # noqa: E402
from transformer_fast.server import load_served  # noqa: E402
from transformer_fast.server.served import kind_of  # noqa: E402


def told(capsys, *arguments: str) -> tuple[int, str]:
    """(exit code, stderr) of a server that does not start."""
    try:
        code = cli.main(["serve", *arguments])
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()
    assert not out and err.splitlines()[-1].startswith("transformer-fast")
    return code, err


@pytest.mark.parametrize(
    "given, expected",
    [
        (["a/b"], {"a/b": ("a/b", None)}),
        (["x=a/b", "y=a/b"], {"x": ("a/b", None), "y": ("a/b", None)}),
        (["org/name:reranker"], {"org/name": ("org/name", "reranker")}),
        (["x=C:/models/m"], {"x": ("C:/models/m", None)}),
        (["x=/a=b:language"], {"x": ("/a=b", "language")}),
    ],
)
def test_models_are_named(given, expected):
    assert serve._models(given) == expected


def test_a_folder_gives_its_name(tmp_path):
    (tmp_path / "minilm").mkdir()
    (tmp_path / "small.gguf").touch()
    given = [str(tmp_path / "minilm"), f"{tmp_path}/small.gguf:language"]
    assert list(serve._models(given)) == ["minilm", "small"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "--model"),
        (("--model", "x="), "NAME=]PATH"),
        (("--model", "=a"), "NAME=]PATH"),
        (("--model", "m=a", "--model", "m=b"), "two models"),
        (("--model", "m=a", "--port", "70000"), "70000"),
        (("--model", "m=a", "--timeout", "nan"), "nan"),
        (("--model", "m=a", "--compute-type", "int3"), "int3"),
    ],
    ids=str,
)
def test_wrong_arguments(capsys, arguments, words):
    code, err = told(capsys, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1


def test_what_cannot_be_served(capsys, tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "vit", "architectures": ["ViTForImageClassification"]})
    keys = tmp_path / "keys"
    keys.write_text("# none\n")
    for arguments, words in [
        (("--model", f"m={tmp_path}"), "ViTForImageClassification"),
        (("--model", f"m={tmp_path}/no"), "no such folder"),
        (("--model", "m=a", "--api-key-file", str(tmp_path / "no")), "no"),
        (("--model", "m=a", "--api-key-file", str(keys)), "no key"),
        (("--model", "m=a", "--host", "256.1.1.1"), "--host 256.1.1.1"),
    ]:
        code, err = told(capsys, "--port", "0", *arguments)
        assert code == 1 and words in err and err.count("\n") == 1


def test_an_address_that_is_taken_is_told_before_models_are_read(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, err = told(capsys, "--model", "/no/such/folder", "--port", port)
    assert code == 1 and port in err and "in use" in err


def test_other_machines_without_a_key_are_warned_of(capsys):
    _, err = told(capsys, "--model", "/no/such/folder", "--host", "0.0.0.0", "--port", "0")
    assert "warning" in err.splitlines()[0] and "--api-key-file" in err


def test_kinds(tmp_path):
    folders = {
        "embeddings": write_sentence_model(tmp_path / "a"),
        "reranker": write_head(tmp_path / "b", "SequenceClassification", labels=1),
        "classifier": write_head(tmp_path / "c", "SequenceClassification"),
    }
    (tmp_path / "d").mkdir()
    folders["language"] = write_byte_gpt2(tmp_path / "d")
    for kind, folder in folders.items():
        assert kind_of(open_source(folder)) == kind
    assert kind_of(open_source(write_llama_gguf(tmp_path / "e.gguf"))) == "language"
    with pytest.raises(CheckpointError, match="TokenClassification"):
        kind_of(open_source(write_head(tmp_path / "f", "TokenClassification")))


def test_a_kind_that_is_said_goes_before_the_files(tmp_path):
    folder = write_head(tmp_path / "a", "SequenceClassification", labels=1)
    served = load_served("m", folder, "classifier")
    assert served.kind == served.engine.kind == "classifier"
    served.engine.close()
    with pytest.raises(ValueError, match="embeddings, reranker"):
        load_served("m", folder, "sparse")
