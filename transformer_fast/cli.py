"""The command `transformer-fast`: its parser, its errors and its exit codes.

Called by the console script and by `python -m transformer_fast`. Results go to stdout, messages and progress to stderr;
bad input ends with one line on stderr and exit code 2 (the arguments are wrong) or 1 (what they name is), Ctrl-C with
130. What each command does stands in commands/<name>.py; to add one, write that file and name it in `_COMMANDS`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from transformer_fast.commands import (
    attend,
    bench,
    chat,
    classify,
    common,
    compare,
    embed,
    generate,
    info,
    quantize,
    rerank,
    search,
    serve,
    similarity,
    tag,
    transcribe,
)

# In the order of --help.
_COMMANDS = (
    info,
    embed,
    search,
    rerank,
    similarity,
    classify,
    tag,
    attend,
    generate,
    chat,
    serve,
    transcribe,
    quantize,
    compare,
    bench,
)

# What wrong input, a missing file or a missing package raise, here and in the layers below: told in one line. Anything
# else is a fault of this program and keeps its traceback.
_EXPECTED_ERRORS = (OSError, ValueError, ImportError, NotImplementedError)
_INTERRUPTED, _TERMINATED, _BROKEN_PIPE = 130, 143, 141  # 128 + the signal's number, as shells report it


# Packages that are no part of the extra `models` -> the extra that brings them.
_EXTRAS = {"matplotlib": "plot", "llguidance": "grammar"}
_EXTRAS |= dict.fromkeys(("starlette", "pydantic", "orjson", "uvicorn"), "serve")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (sys.argv's by default) and returns its exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to stop
    try:
        options = _parser().parse_args(arguments)
        with _terminate_as_exception():
            options.run(options)
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has gone. Python flushes stdout once more at exit: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        common.say("interrupted")
        return _INTERRUPTED
    except _EXPECTED_ERRORS as error:
        common.say(f"error: {_one_line(error)}")
        return 2 if isinstance(error, common.UsageError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from transformer_fast import __version__

    parser = _Parser(
        prog="transformer-fast",
        description="Transformer inference on the CPU. Results go to stdout, messages to stderr.",
    )
    parser.add_argument("--version", action="version", version=f"transformer-fast {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = _EXTRAS.get(error.name.split(".")[0], "models")
        return f"the package {error.name!r} is missing: pip install 'transformer-fast[{extra}]'"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _terminate_as_exception() -> Iterator[None]:
    """Lets SIGTERM unwind the stack, so that what was begun is cleaned up."""

    def leave(signum: int, frame: object) -> NoReturn:
        raise SystemExit(_TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: the signal is somebody else's affair
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
