"""transformer-fast chat: lines of stdin, a terminal's conversation, Ctrl-C, and what of all of it is computed."""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
from chat_templates import CHATML, MISTRAL
from decoder_cases import write_byte_gpt2
from model_folders import write_json
from subprocesses import PACKAGE_PARENT, environment

from transformer_fast.commands import chat

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")
pytest.importorskip("jinja2")

# Handlers of signals and stdin belong to the process.
pytestmark = pytest.mark.thread_unsafe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of 256 bytes and 400 positions, with a template."""
    folder = write_byte_gpt2(tmp_path_factory.mktemp("speaker"))
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    return folder


@pytest.fixture
def lines(folder, run, monkeypatch):
    """Runs the command with lines on a stdin that is no terminal."""

    def call(text, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return run("chat", str(folder), "--max-new-tokens", "6", *arguments)

    return call


class Terminal(io.StringIO):
    """A stdin that is a terminal; what is typed comes from `input`."""

    def isatty(self):
        return True


@pytest.fixture
def typed(folder, run, monkeypatch):
    """Runs the command as in a terminal: strings are lines, exceptions are raised by input()."""

    def call(*inputs, options=()):
        left = iter([*inputs, EOFError()])

        def read(prompt):
            found = next(left)
            if isinstance(found, BaseException) or isinstance(found, type):
                raise found
            return found

        monkeypatch.setattr(sys, "stdin", Terminal())
        monkeypatch.setattr("builtins.input", read)
        return run("chat", str(folder), "--max-new-tokens", "6", *options)

    return call


def answered(folder, messages, new=6, **options):
    """What `generate` makes of the messages so far."""
    from transformer_fast.generation import load_tokenizer
    from transformer_fast.models import load_model

    tokenizer = load_tokenizer(folder)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    made = load_model(folder).generate([ids], max_new_tokens=new, **options)
    return tokenizer.decode(made[0, len(ids) :].tolist(), skip_special_tokens=True)


def user(text):
    return {"role": "user", "content": text}


def test_each_line_is_a_message(lines, folder):
    system = {"role": "system", "content": "Be brief."}
    first = answered(folder, [system, user("Hi")])
    second = answered(folder, [system, user("Hi"), {"role": "assistant", "content": first}, user("And?")])
    code, out, err = lines("Hi\n\nAnd?\n", "--system", "Be brief.")
    assert (code, err) == (0, "") and out == f"{first}\n{second}\n"


def test_options_of_generation(lines, folder):
    sampled = answered(folder, [user("Hi")], do_sample=True, seed=3, temperature=2.0)
    assert lines("Hi", "--seed", "3", "--temperature", "2")[1] == sampled + "\n"
    assert lines("Hi", "--kv-cache-dtype", "int8")[0] == 0


def test_the_conversation_is_not_computed_again(lines, monkeypatch):
    """The second prompt begins with the first one and its answer, which the session holds."""
    from transformer_fast.generation import GenerationSession

    fed = []
    forget = GenerationSession._forget_what_differs

    def noted(self, row):
        forget(self, row)
        fed.append((len(row), len(row) - len(self.ids)))

    monkeypatch.setattr(GenerationSession, "_forget_what_differs", noted)
    assert lines("Hi\nAnd?\n")[0] == 0
    (first, all_of_it), (second, rest) = fed
    assert all_of_it == first and rest <= second - first  # the form around the new message, and one id


def test_commands_of_the_conversation(typed, folder, tmp_path):
    saved = tmp_path / "saved.json"
    first = answered(folder, [user("Hi")])
    code, out, err = typed("Hi", "And?", "/undo", f"/save {saved}", "/clear", "//x", "/help", "/exit", "never")
    assert code == 0 and err == ""
    assert json.loads(saved.read_text(encoding="utf-8")) == [user("Hi"), {"role": "assistant", "content": first}]
    assert "/save FILE" in out and answered(folder, [user("/x")]) in out
    code, out, err = typed("/undo", "/nope", "/save", "/save /nowhere/at/all", "  ")
    assert code == 0 and out == "\n"
    for told in ("there is no message to forget", "there is no command /nope; /help lists them", "needed: /save FILE"):
        assert f"error: {told}" in err
    assert "/nowhere/at/all" in err


def test_ctrl_c_stops_the_answer(typed, folder, monkeypatch, tmp_path):
    """At the third token; what was written so far stays in the conversation, which goes on."""
    from transformer_fast.models import GPT2LMHeadModel

    stream, saved = GPT2LMHeadModel.stream, tmp_path / "saved.json"

    def interrupting(self, *arguments, **options):
        for i, ids in enumerate(stream(self, *arguments, **options)):
            if i == 2 and not saved.exists():
                os.kill(os.getpid(), signal.SIGINT)
            yield ids

    monkeypatch.setattr(GPT2LMHeadModel, "stream", interrupting)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = typed("Hi", f"/save {saved}", "And?", options=("--max-new-tokens", "40"))
    assert (code, err) == (0, "") and signal.getsignal(signal.SIGINT) is before
    begun = answered(folder, [user("Hi")], 3)
    kept = json.loads(saved.read_text(encoding="utf-8"))
    assert kept[1]["content"] == begun
    assert answered(folder, [*kept, user("And?")], 40) in out


def test_ctrl_c_at_the_prompt(typed):
    code, out, err = typed(KeyboardInterrupt, "/undo", KeyboardInterrupt, KeyboardInterrupt, "/never")
    assert code == 0 and err.count("Ctrl-C again, or Ctrl-D, ends the conversation") == 2 and "/never" not in err


def test_constraints(folder, lines, run, monkeypatch, tmp_path):
    """Of `chat` and of `generate`, with a model whose answers the byte 10 ends."""
    pytest.importorskip("llguidance")
    speaker = tmp_path / "speaker"
    shutil.copytree(folder, speaker)
    write_json(speaker / "config.json", json.loads((folder / "config.json").read_text()) | {"eos_token_id": 10})
    schema, broken = tmp_path / "schema.json", tmp_path / "broken.json"
    schema.write_text('{"enum": ["yes", "no"]}')
    broken.write_text('{"type": "nope"')
    answers = []
    for options in (("--json-schema", str(schema)), ("--regex", "yes|no")):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\nAnd?"))
        answers += [
            run("chat", str(speaker), *options)[:2],
            run("generate", "Hi", "--model", str(speaker), *options)[:2],
        ]
    assert [code for code, _ in answers] == [0] * 4
    assert {line[:-1] if line.endswith("+") else line for _, out in answers for line in out.splitlines()} <= {
        '"yes"',
        '"no"',
        "yes",
        "no",
    }
    assert "needed by a constraint: ids that end a row" in lines("Hi", "--regex", "a")[2]  # this model has none
    assert "broken.json: the JSON schema is malformed" in lines("Hi", "--json-schema", str(broken))[2]
    code, _, err = lines("Hi", "--json-schema", str(tmp_path / "none.json"))
    assert code == 1 and "none.json: No such file" in err
    assert lines("Hi", "--json-schema", "a", "--regex", "b")[0] == 2


def test_reasoning_is_dim_in_a_terminal(capsys, monkeypatch):
    from transformer_fast.serving import Delta

    def shown(terminal):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
        printer = chat._Printer()
        for delta in (Delta(reasoning_content="hm"), Delta("a\x1b[2Jb\n")):
            printer.add(delta)
        printer.end("[stopped]")
        assert ("".join(printer.content), "".join(printer.thoughts)) == ("a\x1b[2Jb\n", "hm")
        return capsys.readouterr().out

    assert shown(True) == "\x1b[2mhm\x1b[0m\n\na[2Jb\n \x1b[2m[stopped]\x1b[0m\n"
    assert shown(False) == "a\x1b[2Jb\n\n"


def test_a_conversation_that_grows_too_long(lines, folder):
    """The model has 400 positions: the oldest turns go, and a message that is too long itself is an error."""
    code, out, err = lines("a" * 150 + "\n" + "b" * 150 + "\n" + "c\n", "--max-new-tokens", "60")
    assert code == 0 and "the oldest 2 messages no longer fit and are left out" in err
    code, _, err = lines("a" * 500)
    assert code == 1 and "tokens with its form; the model holds 400" in err


def test_models_that_cannot_chat(folder, run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi"))
    write_byte_gpt2(tmp_path)
    assert "the model has no chat template" in run("chat", str(tmp_path))[2]
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": MISTRAL, "bos_token": "a", "eos_token": "b"})
    code, _, err = run("chat", str(tmp_path), "--system", "Be brief.")
    assert code == 1 and "the chat template refuses the messages: Roles must alternate" in err


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_in_a_terminal(folder):
    """Ctrl-C at the prompt does not end it, an answer comes after it, Ctrl-D ends it."""
    import pty

    own, other = pty.openpty()
    line = [sys.executable, "-m", "transformer_fast", "chat", str(folder), "--max-new-tokens", "5"]
    process = subprocess.Popen(
        line,
        env=environment(TERM="dumb"),
        cwd=PACKAGE_PARENT,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(other)
    try:
        assert "> " in _until(own, "> ")
        shown = False
        while not shown:  # Python's readline sees a signal of the moment before it waits only with the next one
            os.write(own, b"\x03")
            shown = bool(select.select([own], [], [], 2)[0])
        assert "Ctrl-C again" in _until(own, "conversation\r\n> ")
        os.write(own, b"Hi\n")
        assert "Hi" in _until(own, "\n> ")
        os.write(own, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(own)


def _own_terminal():
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the suite may ignore it
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _until(file, end, seconds=20):
    """What a terminal shows up to a text."""
    shown, last = "", time.monotonic() + seconds
    while end not in shown:
        assert select.select([file], [], [], max(last - time.monotonic(), 0))[0], shown
        shown += os.read(file, 4096).decode("utf-8", "replace")
    return shown
