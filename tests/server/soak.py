"""`make soak`: minutes of everything that clients do to a server, and what it must still be afterwards.

    python tests/server/soak.py [--seconds 600] [--clients 24] [--seed 0] [--report FILE]

Requests of all kinds at random moments, some of whose clients go, send nonsense, write or read slowly, or send too much
(soak_traffic.py). Meanwhile memory, file descriptors and threads of the server are watched (soak_watch.py). At the end
it gets SIGTERM while requests run. Prints a summary; FILE gets the figures as JSON. Exit code 1 says that a condition
of `verdict` does not hold. A further kind of traffic is a function in soak_traffic.py and a line in its KINDS.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from served_folders import write_served
from servers import KEY, Server
from soak_traffic import Traffic
from soak_watch import Watch

TIMEOUT = 3  # seconds: so small that the run meets it often
OPTIONS = (
    *("--read-timeout", str(TIMEOUT), "--write-timeout", str(TIMEOUT), "--max-body", str(1 << 20)),
    *("--max-queue", "64", "--max-tokens-in-flight", "12000"),
)
STOP_LIMIT = 2.0  # seconds from the last answer to the end of the process
GROWTH_LIMIT = 0.05  # of the memory after the warm-up
# Seconds; in shorter runs the allocator's arenas still fill up, and memory is reported and not judged.
JUDGED_FROM = 120


async def drive(server: Server, traffic: Traffic, watch: Watch, seconds: float, clients: int) -> None:
    """Sends for that long; then waits until the server has nothing in flight."""
    end = time.monotonic() + seconds
    sampling = asyncio.create_task(watch.sample())
    await asyncio.gather(*(traffic.client(number, end) for number in range(clients)))
    await traffic.quiet()
    sampling.cancel()


async def stop(server: Server, traffic: Traffic) -> dict:
    """SIGTERM while requests run: they end, others are refused, and the process ends at once after the last."""
    idle = [await traffic.idle_connection() for _ in range(4)]
    running = [asyncio.create_task(traffic.long_stream()) for _ in range(8)]
    await asyncio.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.1)
    refused = await traffic.refused()
    ended = await asyncio.gather(*running, return_exceptions=True)
    last = time.monotonic()
    code = await asyncio.to_thread(server.process.wait, 60)
    for writer in idle:
        writer.close()
    return {
        "exit_code": code,
        "seconds_after_last_answer": round(time.monotonic() - last, 3),
        "running": len(running),
        "running_failed": [repr(error) for error in ended if isinstance(error, BaseException)],
        "new_request": refused,
    }


def verdict(report: dict) -> list[str]:
    """What does not hold."""
    memory, stopped = report["memory"], report["stop"]
    conditions = {
        "requests failed": not report["failures"],
        "answers with a 5xx": not [status for status in report["statuses"] if status.startswith("5")],
        f"memory grew by more than {GROWTH_LIMIT:.0%}": report["seconds"] < JUDGED_FROM
        or memory["growth_mb"] <= GROWTH_LIMIT * memory["warm_mb"],
        "file descriptors stay open": report["descriptors"]["end"] <= report["descriptors"]["start"],
        "threads stay": report["threads"]["end"] <= report["threads"]["warm_max"],
        "something is in flight at the end": not any(report["in_flight"].values()),
        "the log has a traceback": not report["tracebacks"],
        "the exit code is not 0": stopped["exit_code"] == 0,
        f"it ended later than {STOP_LIMIT} s after the last answer": stopped["seconds_after_last_answer"] < STOP_LIMIT,
        "running requests were lost at the stop": not stopped["running_failed"],
        "a new request was taken while stopping": stopped["new_request"] in ("503", "refused"),
    }
    return [told for told, holds in conditions.items() if not holds]


def run(seconds: float, clients: int, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.write_text(KEY, encoding="utf-8")
        server = Server(write_served(Path(folder)), "--api-key-file", str(keys), *OPTIONS)
        try:
            return asyncio.run(_run(server, seconds, clients, seed))
        finally:
            server.stop()


async def _run(server: Server, seconds: float, clients: int, seed: int) -> dict:
    traffic = Traffic(server.port, KEY, np.random.default_rng(seed), TIMEOUT)
    await traffic.learn()
    watch = Watch(server.process.pid)
    before = await traffic.descriptors(watch)
    began = time.monotonic()
    await drive(server, traffic, watch, seconds, clients)
    report = {
        "seconds": round(time.monotonic() - began, 1),
        "clients": clients,
        "seed": seed,
        **traffic.report(),
        "memory": watch.memory(),
        "descriptors": {"start": before, "max": watch.most("descriptors"), "end": watch.now()["descriptors"]},
        "threads": watch.threads(),
        "in_flight": await traffic.in_flight(),
    }
    report["stop"] = await stop(server, traffic)
    report["tracebacks"] = [line for line in server.lines if line.startswith("Traceback")]
    report["verdict"] = verdict(report)
    return report


def summary(report: dict) -> str:
    memory, stopped = report["memory"], report["stop"]
    return "\n".join(
        [
            f"{report['seconds']} s, {report['clients']} clients, {sum(report['kinds'].values())} requests: "
            + ", ".join(f"{kind} {count}" for kind, count in sorted(report["kinds"].items())),
            "answers: " + ", ".join(f"{status} {count}" for status, count in sorted(report["statuses"].items())),
            f"right answers: {report['right']}; failures: {len(report['failures'])}",
            f"memory: {memory['warm_mb']} MB after the warm-up, {memory['end_mb']} MB at the end, at most "
            f"{memory['max_mb']} MB, slope {memory['slope_mb_per_minute']} MB a minute",
            f"file descriptors: {report['descriptors']}; threads: {report['threads']}",
            f"stop: exit code {stopped['exit_code']}, {stopped['seconds_after_last_answer']} s after the last answer",
            "held" if not report["verdict"] else "NOT held: " + "; ".join(report["verdict"]),
            *(failure[:300] for failure in report["failures"][:10]),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    report = run(options.seconds, options.clients, options.seed)
    if options.report:
        options.report.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(summary(report))
    return int(bool(report["verdict"]))


if __name__ == "__main__":
    sys.exit(main())
