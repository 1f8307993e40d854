"""`transformer-fast serve`: models behind HTTP, in the interfaces of OpenAI, Cohere and Jina."""

from __future__ import annotations

import argparse
import gc
import math
from pathlib import Path
from typing import Any

from transformer_fast.commands import common

_CACHE_TYPES = ("float32", "bfloat16", "float16", "int8")  # of models.common.decoding, without importing it
_KINDS = ("embeddings", "reranker", "classifier", "language")  # server.served.KINDS, likewise
# Option without "-timeout", the default of server.Settings, help.
_TIMEOUTS = (
    ("read", 30.0, "for a request's headers, and for its body"),
    ("write", 30.0, "in which a client has to take something of its answer, else it is cut off"),
    ("stop", 60.0, "that running requests have after SIGTERM"),
)


def add(commands: Any) -> None:
    command = commands.add_parser(
        "serve",
        help="models behind HTTP, in OpenAI's interface",
        description="Offers models at http://HOST:PORT/v1, in the interfaces of OpenAI, Cohere and Jina. /docs lists"
        " what there is. Without --host, only this machine can reach it. It stops on SIGTERM or Ctrl-C, after running"
        " requests. Needs the extra `serve`.",
    )
    command.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]PATH_OR_ID[:KIND]",
        help="a folder, a GGUF file or a name on the Hugging Face hub; may be given several times. NAME is what"
        " requests call it (default: the folder's or the model's name). The kind follows from the files;"
        f" KIND says it where they do not: {', '.join(_KINDS)}",
    )
    common.add_compute_type(command)
    command.add_argument("--host", default="127.0.0.1", help="the address to listen at (default 127.0.0.1)")
    command.add_argument("--port", type=_port, default=8080, help="the port; 0 takes a free one (default 8080)")
    _add_safety(command)
    _add_limits(command)
    common.add_threads(command)
    command.add_argument(
        "--kv-cache-dtype",
        choices=_CACHE_TYPES,
        help="how language models keep keys and values of earlier tokens (default: float32)",
    )
    command.add_argument("--log-json", action="store_true", help="log lines are JSON objects")
    command.add_argument("--log-texts", action="store_true", help="log lines have the bodies of requests")
    command.set_defaults(run=run)


def _add_safety(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="a file with keys, one a line (# begins a comment); requests then need Authorization: Bearer KEY",
    )
    command.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name in the header Host, as a proxy passes it on; may be given several times",
    )
    command.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin whose pages may call the server from a browser, or *; may be given several times",
    )


def _add_limits(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-tokens-in-flight",
        type=common.positive,
        metavar="N",
        help="tokens of running and waiting requests of each model; beyond them they get 429 (default: the engine's)",
    )
    command.add_argument(
        "--max-queue",
        type=common.positive,
        metavar="N",
        help="requests that wait, of each model; beyond them the answer is 429 (default: the engine's)",
    )
    command.add_argument(
        "--max-body", type=common.positive, default=8 << 20, metavar="BYTES", help="of a request (default 8 MiB)"
    )
    command.add_argument(
        "--max-input-texts", type=common.positive, default=2048, metavar="N", help="of a request (default 2048)"
    )
    command.add_argument(
        "--default-max-tokens",
        type=common.positive,
        default=1024,
        metavar="N",
        help="new tokens of a chat's answer whose request does not say how many (default 1024)",
    )
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="after which a request is cancelled (default 600)",
    )
    for name, default, told in _TIMEOUTS:
        command.add_argument(
            f"--{name}-timeout", type=_seconds, default=default, metavar="SECONDS", help=f"{told} (default {default:g})"
        )


def run(options: argparse.Namespace) -> None:
    named = _models(options.model)
    from transformer_fast.server import Settings, create_app
    from transformer_fast.server.run import bound_socket
    from transformer_fast.server.run import run as serve

    settings = Settings(
        host=options.host,
        port=options.port,
        api_keys=() if options.api_key_file is None else _keys(options.api_key_file),
        allowed_hosts=tuple(options.allowed_host),
        cors_origins=tuple(options.cors_origin),
        max_body=options.max_body,
        max_input_texts=options.max_input_texts,
        default_max_tokens=options.default_max_tokens,
        timeout=options.timeout,
        read_timeout=options.read_timeout,
        write_timeout=options.write_timeout,
        stop_timeout=options.stop_timeout,
        log_json=options.log_json,
        log_texts=options.log_texts,
    )
    common.set_threads(options)
    with bound_socket(settings) as listening:  # an address that is taken is told before models are read
        if not settings.is_local and not settings.api_keys:
            common.say(
                f"warning: {settings.host} may be reached from other machines, and no key is asked for: --api-key-file"
            )
        models = _loaded(named, options)

        def started(port: int) -> None:
            listed = ", ".join(f"{one.name} ({one.kind})" for one in models.values())
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            common.say(f"http://{host}:{port} offers {listed}")
            # What is there now stays. To look through it, as a full collection does, takes 19 ms in which nobody is
            # answered.
            gc.collect()
            gc.freeze()

        try:
            serve(create_app(models, settings), settings, listening=listening, started=started)
        finally:
            for one in models.values():
                one.engine.close(timeout=0)


def _loaded(named: dict[str, tuple[str, str | None]], options: argparse.Namespace) -> dict[str, Any]:
    from transformer_fast.server import load_served
    from transformer_fast.serving import Turns

    turns, models = Turns(), {}
    for name, (place, kind) in named.items():
        models[name] = load_served(
            name,
            place,
            kind,
            compute_type=options.compute_type,
            turns=turns,
            max_tokens_in_flight=options.max_tokens_in_flight,
            max_queue=options.max_queue,
            kv_cache_dtype=options.kv_cache_dtype,
        )
    return models


def _models(given: list[str]) -> dict[str, tuple[str, str | None]]:
    """Name -> (path or id, kind or None) of what --model says."""
    found: dict[str, tuple[str, str | None]] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not equals:
            name, place = "", text
        kind = None
        head, colon, tail = place.rpartition(":")
        if colon and tail in _KINDS:
            place, kind = head, tail
        if not place or (equals and not name):
            raise common.UsageError(f"--model {text}: needed: [NAME=]PATH_OR_ID[:KIND]")
        name = name or _name(place)
        if name in found:
            raise common.UsageError(f"--model {text}: there are two models with the name {name!r}; say NAME=")
        found[name] = (place, kind)
    return found


def _name(place: str) -> str:
    """What a model is called that has no NAME: a path's last part, a name on the hub as it is."""
    path = Path(place)
    if not path.exists():
        return place
    return path.resolve().name.removesuffix(".gguf")


def _keys(file: str) -> tuple[str, ...]:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is no text in UTF-8") from None
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise ValueError(f"{file}: holds no key")
    return keys


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return seconds
