"""`python -m benchmarks QUESTION`, or `all`: measures, judges, and writes one JSON file a question and thread count.

The command behind `make bench`. A new question is a module with `CLAIMS` and `run`, and a line in `_QUESTIONS`; one
whose lanes are not just ours and a lane a peer has `lanes`, too.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    ROOT,
    attention,
    backends,
    claims,
    decoders,
    families,
    late_interaction,
    linear,
    low_precision,
    models,
    plots,
    report,
    retrieval,
    runner,
    sparse,
)
from benchmarks.backends import FLOAT32
from benchmarks.runner import Lane, Run
from transformer_fast import functional

# Question -> (module, peers that have an answer).
_QUESTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "attention": (attention, ("numpy", "torch", "onnxruntime", "openvino")),
    "masks": (sparse, ("torch", "flex_attention")),
    "linear": (linear, ("numpy", "torch", "onnxruntime", "openvino")),
    "late_interaction": (late_interaction, ("numpy", "torch")),
    "models": (models, ("torch", "onnxruntime", "openvino", "ctranslate2", "sentence_transformers")),
    "families": (families, ("torch", "onnxruntime", "openvino", "ctranslate2")),
    "low_precision": (low_precision, ("torch", "onnxruntime", "openvino", "ctranslate2", "sentence_transformers")),
    "retrieval": (retrieval, ("sentence_transformers", "torch")),
    "decoders": (decoders, ("llama_cpp", "torch", "ctranslate2")),
}
# Not among the results, where somebody might quote them.
_QUICK_RESULTS = ROOT / "build" / "benchmarks" / "quick"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("question", choices=[*_QUESTIONS, "all"])
    parser.add_argument("--threads", default="1", help="numbers of threads, one run each: 1 or 1,2 (default: 1)")
    parser.add_argument("--isa", help="instruction set of ours (default: the best that the machine has)")
    parser.add_argument("--peers", help="comma-separated, of " + ", ".join(backends.NAMES[1:]) + " (default: all)")
    parser.add_argument("--compute-types", help="comma-separated: no lanes of other narrow types (default: all)")
    parser.add_argument("--only", help="comma-separated: cases whose names hold one of these (decoders alone)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each peer a case (default: 5)")
    parser.add_argument("--sample", type=float, default=0.02, help="seconds a turn lasts at least (default: 0.02)")
    parser.add_argument("--quick", action="store_true", help="small cases, two short rounds: does everything work?")
    parser.add_argument("--out", type=Path, help="the JSON file; only with one question and one number of threads")
    parser.add_argument("--machine", help='what titles and the folder call the machine: "Zen 4" (default: unnamed)')
    parser.add_argument("--folder", type=Path, help="of the machines' folders, where files without --out go")
    options = parser.parse_args()
    options.folder = options.folder or (_QUICK_RESULTS if options.quick else runner.RESULTS)
    options.threads = [int(n) for n in options.threads.split(",")]
    options.question = list(_QUESTIONS) if options.question == "all" else [options.question]
    options.peers = list(backends.NAMES) if options.peers is None else options.peers.split(",")
    unknown = set(options.peers) - set(backends.NAMES)
    if unknown:
        parser.error(f"--peers names {', '.join(sorted(unknown))}; known: {', '.join(backends.NAMES[1:])}")
    if options.machine is not None and not runner.machine_folder(options.machine):
        parser.error(f"--machine is {options.machine!r}; letters or digits are needed, for the name of the folder")
    if options.only is not None and options.question != ["decoders"]:
        parser.error("--only is for the question decoders")
    if options.out and len(options.threads) * len(options.question) > 1:
        parser.error("--out takes one question and one number of threads")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if max(options.threads) > available:
        parser.error(f"--threads asks for {max(options.threads)}; this process may use {available} processors")
    return options


def _lanes(peers: tuple[str, ...], chosen: list[str], threads: int, below: list[str]) -> list[Lane]:
    """below: levels of ours that are measured beside the one in force, on one thread."""
    lanes = [Lane("ours", "ours", threads)]
    lanes += [Lane(name, name, threads) for name in peers if name in chosen]
    if threads > 1:
        lanes.append(Lane("ours, 1 thread", "ours", 1))
    else:
        lanes += [Lane(f"ours, {isa}", "ours", threads, isa=isa) for isa in below]
    return lanes


def _measure(question: str, threads: int, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    module, peers = _QUESTIONS[question]
    forced = options.isa or os.environ.get("TRANSFORMER_FAST_ISA") or functional.get_isa()
    levels = functional.available_isas()
    left_out = ("portable",) if question in ("attention", "linear") else ("portable", "avx2")
    below = [isa for isa in levels[: levels.index(forced)] if isa not in left_out]
    own = getattr(module, "lanes", None)
    lanes = own(options.peers, threads) if own else _lanes(peers, options.peers, threads, below)
    if options.compute_types is not None:
        lanes = [lane for lane in lanes if lane.compute_type in (FLOAT32, *options.compute_types.split(","))]
    rounds, sample = (2, 0.005) if options.quick else (options.rounds, options.sample)
    with Run(question, lanes, isa=options.isa, rounds=rounds, sample_seconds=sample, report=say) as session:
        module.run(session, options.quick, **({} if options.only is None else {"only": options.only}))
        result = session.result()
    result["quick"] = options.quick
    if options.machine:
        result["machine"]["name"] = options.machine
    result["claims"] = claims.judge(result, module.CLAIMS)
    return result


def _failed(result: dict[str, Any]) -> list[str]:
    """The cases that a lane of ours took part in and did not measure."""
    ours = [label for label, backend in result["backends"].items() if backend["backend"] == "ours"]
    return [
        row["case"]["name"] if label == "ours" else f"{row['case']['name']} ({label})"
        for row in result["rows"]
        for label in ours
        if "seconds" not in row["lanes"].get(label, {"seconds": 0})
    ]


def main() -> None:
    options = _arguments()

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    written, failed = [], []
    for threads in options.threads:
        for question in options.question:
            result = _measure(question, threads, options, say)
            path = options.out or options.folder / runner.place(result)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(runner.to_text(result), encoding="utf-8")
            written.append(path)
            failed += _failed(result)
            say(f"{path}: {result['seconds']} s")
    print(report.markdown(written))
    if not options.out:
        for folder in {path.parent for path in written}:
            report.write_tables(folder)
            say(f"{folder / report.TABLES}")
    for path in plots.draw(written):
        say(f"{path}")
    if failed:
        sys.exit(f"the library itself failed, or was wrong, in {len(failed)} cases: {', '.join(failed)}")


if __name__ == "__main__":
    main()
