"""Servers of embeddings under load: `python -m benchmarks.serving`, ours beside `encode` alone and other servers.

MiniLM's own weights, short texts (8 to 16 words) and mixed ones (8 to 250), requests of 1 and of 16 texts, 1 to 64
clients (`load.py`, a process of its own). In each round every server has a turn, and before them `encode` has one with
the same texts, in a process of its own: a busy neighbour or a change of clock frequency meets all alike. Then requests
come at random times, at half of what 64 clients got. Started by hand; prints tables, and writes JSON with --out.

Peers: "fastapi" and "fastapi, threads" (`serving_peer.py`), in this environment; and any server with OpenAI's
/v1/embeddings, by its command, in which {model} and {port} are replaced:

    --server 'infinity=infinity_emb v2 --engine torch --device cpu --model-id {model} --served-model-name m
              --url-prefix /v1 --no-model-warmup --port {port}'
    --server 'llama.cpp=llama-server -m minilm.gguf --embedding --ubatch-size 2048 --port {port}'
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT, runner
from benchmarks.load import TEXTS, texts_of

OURS = "transformer-fast"
_COMMANDS = {
    OURS: "{python} -m transformer_fast serve --model m={model} --port {port}",
    "fastapi": "{python} -m benchmarks.serving_peer {model} {port} plain",
    "fastapi, threads": "{python} -m benchmarks.serving_peer {model} {port} threads",
}
_SIZES = (1, 16)
_CLIENTS = (1, 4, 16, 64)
_PEER_CLIENTS = (1, 64)
_SAMPLE = 4  # requests whose answers are compared with `encode`
_PATIENCE = 120.0  # seconds in which a server has to be there


class Process:
    """A process that answers a line of JSON with a line of JSON."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **fields: Any) -> dict[str, Any]:
        """
        Raises:
            RuntimeError: it could not, or is gone.
        """
        self._process.stdin.write(json.dumps(fields) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process has died"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


class Server:
    """A running server."""

    def __init__(self, label: str, command: str, model: str, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.label = label
        fields = {"{python}": sys.executable, "{model}": model, "{port}": str(self.port)}
        words = []
        for word in shlex.split(command):
            for name, value in fields.items():
                word = word.replace(name, value)
            words.append(word)
        self._log = log.open("w")
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "true"}
        self._process = subprocess.Popen(
            words,
            cwd=log.parent if label == OURS else ROOT,  # a checkout would hide the installed package
            env=os.environ | offline,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait(log)
        except BaseException:
            self.close()
            raise

    def _wait(self, log: Path) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.label} did not start: {log.read_text(errors='replace')[-800:]}")
            time.sleep(0.1)

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._log.close()


# ----------------------------------------------------------------------------------------------------------------------
# The worker: `encode` without a server


def encode_worker(folder: str) -> None:
    import transformer_fast as tf

    encoder = tf.SentenceEncoder.from_pretrained(folder)
    for line in sys.stdin:
        job = json.loads(line)
        texts = texts_of(job["kind"])
        if "sample" in job:
            print(json.dumps({"vectors": encoder.encode(texts[: job["sample"]]).tolist()}), flush=True)
            continue
        peak = tf.functional.measure_fma_peak(tf.get_num_threads(), 0.02)
        done, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < job["seconds"]:
            encoder.encode(texts, show_progress_bar=False)
            done += len(texts)
        print(json.dumps({"texts_per_second": done / seconds, "fma_peak_gflops": peak}), flush=True)


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


class Run:
    """Servers, clients and the worker of one measurement."""

    def __init__(self, folder: str, commands: dict[str, str], seconds: float, logs: Path) -> None:
        self.seconds, self.servers = seconds, []
        self.load, self.worker = Process("benchmarks.load"), Process("benchmarks.serving", "--encode-worker", folder)
        for i, (label, command) in enumerate(commands.items()):
            try:
                self.servers.append(Server(label, command, folder, logs / f"{i}.log"))
            except (RuntimeError, OSError) as error:
                _say(f"{label} is left out: {error}")

    def request(self, server: Server, kind: str, size: int, **fields: Any) -> dict[str, Any]:
        where = {"port": server.port, "path": "/v1/embeddings", "model": "m"}
        return self.load.ask(kind=kind, size=size, **where, **fields)

    def distance(self, server: Server) -> float:
        """1 - the least cosine of the server's vectors and `encode`'s; 0 where all have the same bits."""
        least = 1.0
        for kind in TEXTS:
            wanted = np.array(self.worker.ask(kind=kind, sample=_SAMPLE)["vectors"], np.float32)
            found = np.array(self.request(server, kind, 1, sample=_SAMPLE)["vectors"], np.float32)
            if not np.array_equal(wanted, found):
                norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
                least = min(least, float(((wanted * found).sum(axis=1) / norms).min()), 1 - 1e-9)
        return 1 - least

    def closed(self, rounds: int) -> Iterator[dict[str, Any]]:
        """Rows of every load, of servers in turns; share: of `encode`'s texts a second just before."""
        for kind in TEXTS:
            for size in _SIZES:
                for clients in _CLIENTS:
                    servers = [s for s in self.servers if s.label == OURS or clients in _PEER_CLIENTS]
                    yield from self._row(servers, {"kind": kind, "size": size, "clients": clients}, rounds)

    def _row(self, servers: Sequence[Server], case: dict[str, Any], rounds: int) -> Iterator[dict[str, Any]]:
        found: dict[str, list[dict[str, Any]]] = {server.label: [] for server in servers}
        for _ in range(rounds):
            alone = self.worker.ask(kind=case["kind"], seconds=self.seconds / 2)
            for server in servers:
                got = self.request(server, **case, seconds=self.seconds)
                speed = len(got["latencies"]) * case["size"] / got["seconds"]
                found[server.label].append({**alone, **got, "speed": speed})
        for label, turns in found.items():
            latencies = sorted(x for turn in turns for x in turn["latencies"])
            yield {
                "server": label,
                **case,
                "texts_per_second": statistics.median(turn["speed"] for turn in turns),
                "encode_texts_per_second": statistics.median(turn["texts_per_second"] for turn in turns),
                "share": statistics.median(turn["speed"] / turn["texts_per_second"] for turn in turns),
                "client_cpu": statistics.median(turn["cpu_seconds"] / turn["seconds"] for turn in turns),
                "fma_peak_gflops": statistics.median(turn["fma_peak_gflops"] for turn in turns),
                **_quantiles(latencies),
            }

    def half_load(self, rows: Sequence[dict[str, Any]], rounds: int) -> Iterator[dict[str, Any]]:
        """Rows of requests at random times, at half of what 64 clients got; of our server."""
        (server,) = [one for one in self.servers if one.label == OURS]
        for row in [one for one in rows if one["server"] == OURS and one["clients"] == max(_CLIENTS)]:
            case = {"kind": row["kind"], "size": row["size"]}
            rate = row["texts_per_second"] / row["size"] / 2
            alone, open_ = [], []
            for _ in range(rounds):
                alone += self.request(server, **case, clients=1, seconds=self.seconds)["latencies"]
                open_ += self.request(server, **case, rate=rate, seconds=2 * self.seconds)["latencies"]
            lone, half = _quantiles(sorted(alone)), _quantiles(sorted(open_))
            yield {
                **case,
                "requests_per_second": rate,
                **half,
                "lone_p50": lone["p50"],
                "lone_p99": lone["p99"],
                "p99_of_lone": half["p99"] / lone["p50"],
                "p99_of_lone_p99": half["p99"] / lone["p99"],
            }

    def close(self) -> None:
        for one in (*self.servers, self.load, self.worker):
            one.close()


def _quantiles(latencies: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(latencies, (50, 99))
    return {"p50": float(p50), "p99": float(p99)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rows."""
    from transformer_fast import functional
    from transformer_fast.weights import find_minilm

    folder = str(options.model or find_minilm())
    commands = {name: command for name, command in _COMMANDS.items() if name == OURS or not options.no_peers}
    commands |= dict(text.split("=", 1) for text in options.server)
    started = time.time()
    with tempfile.TemporaryDirectory() as logs:
        run = Run(folder, commands, options.seconds, Path(logs))
        try:
            distances = {server.label: run.distance(server) for server in run.servers}
            if distances.get(OURS) != 0:
                sys.exit(f"the server's vectors are not encode's: {distances}")
            rows = []
            for row in run.closed(options.rounds):
                rows.append(row)
                _say(_line(row))
            half = list(run.half_load(rows, options.rounds))
        finally:
            run.close()
    config = functional.show_config()
    about = {"versions": {"transformer_fast": config["version"]}, "settings": config}
    return runner.head("serving", about, functional.get_num_threads(), started) | {
        "rounds": options.rounds,
        "distance_to_encode": distances,
        "rows": rows,
        "half_load": half,
        "times_of_peers": _times(rows),
    }


def _times(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times as many texts a second as each peer."""
    found = []
    for ours in (row for row in rows if row["server"] == OURS):
        case = {name: ours[name] for name in ("kind", "size", "clients")}
        peers = {row["server"]: row for row in rows if row["server"] != OURS and case.items() <= row.items()}
        if peers:
            times = {name: ours["texts_per_second"] / row["texts_per_second"] for name, row in peers.items()}
            found.append({**case, "times": times})
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Tables


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['kind']}, {row['size']} texts, {row['clients']} clients, {row['server']}: "
        f"{row['texts_per_second']:.0f} texts/s, {row['share']:.2f} of encode, p50 {1e3 * row['p50']:.1f} ms, "
        f"p99 {1e3 * row['p99']:.1f} ms, client {row['client_cpu']:.2f} of a processor"
    )


def tables(result: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = ["| Texts | a request | clients | server | texts/s | of encode | p50, ms | p99, ms |", "|---" * 8 + "|"]
    for row in result["rows"]:
        lines.append(
            f"| {row['kind']} | {row['size']} | {row['clients']} | {row['server']} | {row['texts_per_second']:.0f} | "
            f"{row['share']:.2f} | {1e3 * row['p50']:.1f} | {1e3 * row['p99']:.1f} |"
        )
    lines += ["", "| Half load | a request | requests/s | p50, ms | p99, ms | alone, p50 / p99, ms | p99 / alone |"]
    lines.append("|---" * 7 + "|")
    for row in result["half_load"]:
        lines.append(
            f"| {row['kind']} | {row['size']} | {row['requests_per_second']:.0f} | {1e3 * row['p50']:.1f} | "
            f"{1e3 * row['p99']:.1f} | {1e3 * row['lone_p50']:.1f} / {1e3 * row['lone_p99']:.1f} | "
            f"{row['p99_of_lone']:.1f} (of its p99: {row['p99_of_lone_p99']:.1f}) |"
        )
    lines += ["", "Texts a second, times those of peers:"]
    for row in result["times_of_peers"]:
        times = ", ".join(f"{name} {ratio:.1f}" for name, ratio in row["times"].items())
        lines.append(f"- {row['kind']}, {row['size']} a request, {row['clients']} clients: {times}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, help="a sentence encoder's folder (default: MiniLM of `weights`)")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=COMMAND", help="a further server")
    parser.add_argument("--no-peers", action="store_true", help="without FastAPI and sentence-transformers")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each server (default 2)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn (default 1.5)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--encode-worker", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.encode_worker is not None:
        encode_worker(options.encode_worker)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers end as well
    result = measure(options)
    if options.out is not None:
        options.out.write_text(runner.to_text(result), encoding="utf-8")
    print(tables(result))


if __name__ == "__main__":
    main()
