"""transformer-fast generate: what it prints where, its options, its exit codes. The model is tiny and speaks bytes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from decoder_cases import write_byte_gpt2
from model_folders import write_json
from subprocesses import PACKAGE_PARENT, environment

from transformer_fast import cli

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of 256 tokens, one a byte, and its tokenizer."""
    return write_byte_gpt2(tmp_path_factory.mktemp("speaker"))


@pytest.fixture
def run(folder, run):
    """The suite's `run`, of this command with this model."""
    return lambda *arguments: run("generate", "--model", str(folder), *arguments)


def test_text_to_stdout_and_figures_to_stderr(run):
    code, out, err = run("Hello", "--max-new-tokens", "6")
    assert code == 0 and out.endswith("\n") and len(out) >= 2
    assert err.startswith("transformer-fast: 6 tokens after 5 in ") and err.endswith("tokens/s\n")
    assert run("Hello", "--max-new-tokens", "6")[1] == out


def test_json(run):
    _, out, _ = run("Hello", "--max-new-tokens", "6")
    code, text, err = run("Hello", "--max-new-tokens", "6", "--json")
    result = json.loads(text)
    assert (code, err) == (0, "") and result.keys() == {"prompt", "text", "prompt_tokens", "tokens", "seconds"}
    assert (result["prompt"], result["prompt_tokens"], result["tokens"]) == ("Hello", 5, 6)
    assert result["text"] + "\n" == out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_types_of_the_cache(run, dtype):
    from transformer_fast.models.common.decoding import CACHE_TYPES

    assert dtype in CACHE_TYPES and len(CACHE_TYPES) == 4
    code, out, _ = run("Hello", "--max-new-tokens", "6", "--kv-cache-dtype", dtype)
    assert code == 0 and len(out) >= 2
    if dtype == "float32":
        assert out == run("Hello", "--max-new-tokens", "6")[1]


def test_sampling(run):
    def sample(*options):
        return run("Hello", "--max-new-tokens", "12", *options)[1]

    greedy = sample()
    assert sample("--temperature", "0") == greedy == sample("--top-k", "1")
    assert sample("--seed", "3") == sample("--seed", "3") != sample("--seed", "4")
    assert sample("--seed", "3", "--temperature", "3") != sample("--seed", "3")
    assert len({sample("--temperature", "2", "--top-p", "0.99") for _ in range(3)}) > 1


def test_beams(run, folder):
    from transformer_fast.generation import load_tokenizer
    from transformer_fast.models import load_model

    tokenizer = load_tokenizer(folder)
    ids = load_model(folder).generate([tokenizer.encode("Hi").ids], num_beams=3, max_new_tokens=5)
    assert run("Hi", "--beams", "3", "--max-new-tokens", "5")[1] == tokenizer.decode(ids[0, 2:].tolist()) + "\n"


def command(folder, *arguments, **options):
    line = [sys.executable, "-m", "transformer_fast", "generate", "--model", str(folder), *arguments]
    return subprocess.Popen(
        line, env=environment(), cwd=PACKAGE_PARENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_prompt_from_stdin(run, folder):
    process = command(folder, "--max-new-tokens", "6", stdin=subprocess.PIPE)
    out, err = process.communicate("H\u00e9llo\n".encode(), timeout=60)
    assert process.returncode == 0 and out.decode() == run("H\u00e9llo", "--max-new-tokens", "6")[1]
    assert b"6 tokens after 6" in err


def test_ctrl_c_stops_it(folder, tmp_path):
    """After the first text has come: within a token, with exit code 130 and no traceback."""
    process = command(folder, "Hello", "--max-new-tokens", "390", "--temperature", "5")
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, 0) and b"Traceback" not in err
    assert process.returncode == 0 or time.monotonic() - started < 10


@pytest.mark.parametrize(
    "arguments, code, text",
    [
        (("",), 2, "PROMPT is empty"),
        (("a", "--temperature", "-1"), 2, "'-1' is no number >= 0"),
        (("a", "--temperature", "hot"), 2, "'hot' is no number"),
        (("a", "--temperature", "nan"), 2, "'nan' is no number"),
        (("a", "--top-p", "1.5"), 2, "'1.5' is no number above 0, up to 1"),
        (("a", "--top-k", "0"), 2, "'0' is no whole number >= 1"),
        (("a", "--seed", "-2"), 2, "no whole number >= 0"),
        (("a", "--max-new-tokens", "0"), 2, "'0' is no whole number >= 1"),
        (("a", "--temperature", "0", "--seed", "1"), 2, "--temperature 0 means no sampling"),
        (("a", "--max-new-tokens", "999"), 1, "needed: at most n_positions=400"),
    ],
)
def test_wrong_arguments(run, arguments, code, text):
    got, out, err = run(*arguments)
    assert (got, out) == (code, "") and text in err and err.count("\n") == 1


def test_folders_that_do_not_fit(folder, tmp_path, capsys):
    def error(path):
        assert cli.main(["generate", "a", "--model", str(path)]) == 1
        return capsys.readouterr().err

    assert "there is no such folder" in error(tmp_path / "nowhere")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert "tokenizer.json: there is no such file" in error(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "tokenizer.json: not a tokenizer" in error(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    write_json(tmp_path / "config.json", {**config, "architectures": ["GPT2Model"]})
    assert "GPT2Model does not generate text" in error(tmp_path)


def test_gguf_file(tmp_path, run):
    """Model and tokenizer in one file."""
    pytest.importorskip("gguf")
    from decoder_cases import LLAMA
    from gguf_files import metadata_of, tensors_in_gguf, tensors_of_llama, write_gguf

    tokens = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    config = {**LLAMA, "vocab_size": len(tokens)}
    keys = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": ["a b"]} | {"tokens": [*tokens[:25], "ab"]}
    metadata = metadata_of(config) | {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    path = write_gguf(tmp_path / "a.gguf", "llama", metadata, tensors_in_gguf(config, tensors_of_llama(config)))
    code, out, err = run("cab", "--model", str(path), "--max-new-tokens", "5")
    assert code == 0, err
    assert out.strip() and "5 tokens after 2" in err


def test_chat(run, folder, tmp_path):
    """The prompt as a user's message, by the model's template."""
    chat = tmp_path / "chat"
    shutil.copytree(folder, chat)
    (chat / "chat_template.jinja").write_text("{{ messages[0].role }}:{{ messages[0].content }}", encoding="utf-8")
    code, told, _ = run("Hi", "--chat", "--model", str(chat), "--max-new-tokens", "4")
    assert code == 0 and told == run("user:Hi", "--max-new-tokens", "4")[1] != run("Hi", "--max-new-tokens", "4")[1]
    code, _, err = run("Hi", "--chat")
    assert code == 1 and "there is no chat_template; needed" in err
