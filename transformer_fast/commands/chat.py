"""`transformer-fast chat`: a conversation with a language model in a terminal, or one message a line from stdin.

A further command of the conversation ("/name") is a method of `_Conversation` with an entry in `command`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer_fast.commands import common, language_model

# Tokens of an answer where nothing is said: half of a short context, so that messages have the other half.
_NEW_TOKENS = 1024
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_PROMPT = "> "
# What a model writes may hold sequences that steer a terminal: control characters but tab and line end are left out.
_UNSAFE = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])
_HELP = """\
/clear       forget the conversation
/undo        forget the last message and its answer
/save FILE   write the messages to FILE, as JSON
/exit        end (also Ctrl-D, or Ctrl-C twice)
//text       a message that begins with /
Ctrl-C stops an answer."""


def add(commands: Any) -> None:
    command = commands.add_parser(
        "chat",
        help="a conversation with a language model",
        description="Answers messages with a language model that has a chat template. In a terminal, Ctrl-C stops an"
        " answer, /help lists commands, and reasoning is dim. Where stdin is no terminal, each line is a message, and"
        " the answers go to stdout without their reasoning. What of the conversation was computed for the last answer"
        " is not computed again. Where it is too long for the model, its oldest messages are left out.",
    )
    command.add_argument(
        "model", metavar="MODEL", help="a folder or GGUF file with a language model, or its name on the hub"
    )
    command.add_argument("--system", metavar="TEXT", help="what the model is told before all messages")
    command.add_argument(
        "--max-new-tokens",
        type=common.positive,
        metavar="N",
        help=f"at most so many tokens an answer (default {_NEW_TOKENS}, or half of what the model can hold)",
    )
    language_model.add_sampling(command)
    language_model.add_constraint(command)
    common.add_compute_type(command)
    common.add_threads(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    search = language_model.search_options(options)
    constraint = language_model.constraint(options)
    common.set_threads(options)
    model, tokenizer = language_model.load(options.model, options.compute_type)
    conversation = _Conversation(model, tokenizer, options, search, constraint)
    if sys.stdin.isatty():
        _converse(conversation)
        return
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8-sig")
    for line in sys.stdin:
        if line.strip():
            conversation.answer(line.removesuffix("\n"))


def _converse(conversation: _Conversation) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  input() then edits lines and knows earlier ones
    stopped = False
    while True:
        try:
            line = input(_PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            if stopped:
                return
            stopped = True
            common.say("Ctrl-C again, or Ctrl-D, ends the conversation")
            continue
        stopped = False
        try:
            if line.startswith("/") and not line.startswith("//"):
                if not conversation.command(line):
                    return
            elif line.strip():
                conversation.answer(line.removeprefix("/") if line.startswith("//") else line)
        except (ValueError, OSError) as error:
            common.say(f"error: {error}")
        except KeyboardInterrupt:  # the second one of an answer
            print()


class _Conversation:
    """Messages, and the session that holds the keys and values of what was computed."""

    def __init__(
        self, model: Any, tokenizer: Any, options: argparse.Namespace, search: dict[str, Any], constraint: Any
    ) -> None:
        from transformer_fast.generation import GenerationSession, constraint_processor
        from transformer_fast.serving import ChatFormat

        self.chat, self.tokenizer = ChatFormat(tokenizer), tokenizer
        self.chat.check()
        self.session = GenerationSession(model, kv_cache_dtype=options.kv_cache_dtype)
        self.search = search
        self.constraint, self._constrained = constraint, constraint_processor
        self.system = [] if options.system is None else [{"role": "system", "content": options.system}]
        self.messages: list[dict[str, Any]] = []
        self.limit: int | None = getattr(model.config, "max_position_embeddings", None)
        shortest = _NEW_TOKENS if self.limit is None else max(min(_NEW_TOKENS, self.limit // 2), 1)
        self.most = options.max_new_tokens or shortest

    # commands ---------------------------------------------------------------------------------------------------------

    def command(self, line: str) -> bool:
        """Whether the conversation goes on."""
        name, _, rest = line.strip().partition(" ")
        if name == "/exit":
            return False
        known = {"/help": self._help, "/clear": self._clear, "/undo": self._undo, "/save": self._save}
        if name not in known:
            raise ValueError(f"there is no command {name}; /help lists them, // begins a message with /")
        known[name](rest.strip())
        return True

    def _help(self, rest: str) -> None:
        print(_HELP)

    def _clear(self, rest: str) -> None:
        self.messages.clear()

    def _undo(self, rest: str) -> None:
        last = max((i for i, message in enumerate(self.messages) if message["role"] == "user"), default=None)
        if last is None:
            raise ValueError("there is no message to forget")
        del self.messages[last:]

    def _save(self, rest: str) -> None:
        if not rest:
            raise ValueError("needed: /save FILE")
        text = json.dumps([*self.system, *self.messages], ensure_ascii=False, indent=2)
        Path(rest).write_text(text + "\n", encoding="utf-8")

    # answers ----------------------------------------------------------------------------------------------------------

    def answer(self, text: str) -> None:
        """Print the answer to a message; both become part of the conversation, a stopped answer as far as it came."""
        self.messages.append({"role": "user", "content": text})
        try:
            prompt, room = self._fitting()
            content, thoughts = self._generate(prompt, room)
        except BaseException:
            if self.messages and self.messages[-1]["role"] == "user":
                del self.messages[-1]
            raise
        self.messages.append({"role": "assistant", "content": content})
        if thoughts:
            self.messages[-1]["reasoning_content"] = thoughts

    def _fitting(self) -> tuple[Any, int]:
        """The prompt, and how many tokens the answer may have; the oldest messages go where there is no room."""
        left_out = 0
        while True:
            prompt = self.chat.prompt([*self.system, *self.messages], constraint=self.constraint)
            room = self.most if self.limit is None else min(self.most, self.limit - len(prompt.ids))
            later = next((i for i, one in enumerate(self.messages) if i and one["role"] == "user"), None)
            if room == self.most or later is None:
                break
            del self.messages[:later]
            left_out += later
        if left_out:
            common.say(f"the oldest {left_out} messages no longer fit and are left out")
        if room < 1:
            raise ValueError(f"the message has {len(prompt.ids)} tokens with its form; the model holds {self.limit}")
        return prompt, room

    def _generate(self, prompt: Any, room: int) -> tuple[str, str]:
        """Print an answer as it comes; returns (content, reasoning)."""
        import numpy as np

        from transformer_fast.generation import TextStreamer

        options = {"max_new_tokens": room, "tokenizer": self.tokenizer, **self.search}
        if prompt.constraint is not None:
            options["logits_processor"] = self._constrained(prompt.constraint, self.tokenizer)
        parser, printer = self.chat.parser(prompt=prompt), _Printer()
        streamer = TextStreamer(
            self.tokenizer,
            skip_special_tokens=prompt.skip_special_tokens,
            write=lambda text: printer.add(parser.feed(text)),
        )
        ids = np.array([prompt.ids])
        streamer.put(ids)
        with _stoppable() as stopped:
            stream = self.session.stream(ids, **options)
            for new in stream:
                streamer.put(new)
                if stopped:
                    break
            stream.close()
        streamer.end()
        printer.add(parser.end())
        printer.end("[stopped]" if stopped else "")
        return "".join(printer.content), "".join(printer.thoughts)


class _Printer:
    """Writes deltas to stdout: reasoning dim in a terminal, and not at all elsewhere."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.thoughts: list[str] = []
        self._terminal = sys.stdout.isatty()

    def add(self, delta: Any) -> None:
        if delta.reasoning_content:
            self.thoughts.append(delta.reasoning_content)
            if self._terminal:
                self._write(f"{_DIM}{delta.reasoning_content.translate(_UNSAFE)}{_PLAIN}")
        if delta.content:
            if self.thoughts and not self.content and self._terminal:
                self._write("\n\n")
            self.content.append(delta.content)
            self._write(delta.content.translate(_UNSAFE) if self._terminal else delta.content)

    def end(self, remark: str) -> None:
        self._write(f" {_DIM}{remark}{_PLAIN}\n" if remark and self._terminal else "\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def _stoppable() -> Iterator[list[bool]]:
    """Ctrl-C fills the list, after which the caller ends in its own time; a second one is a KeyboardInterrupt."""
    stopped: list[bool] = []

    def stop(signum: int, frame: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(True)

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not the main thread: the signal is somebody else's affair
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
