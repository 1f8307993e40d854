"""Two builds of the library, old and new, on the same cases: which is faster, and do they give the same bits?

    python -m benchmarks.compare OLD NEW [--questions attention,linear,models,families] [--threads 1] [--out FILE]

OLD and NEW are each a folder that holds the package built (a checkout built in place, or the target of `pip install
--target`), or a Python executable that has it installed. Each build runs in a process of its own; they take turns, and
who begins changes with every round. The ratio of a case is old time / new time, of medians: above 1 the new one is
faster. A case that differs by more than 2 % is measured once more at the end, with three times as many rounds, and all
its rounds count. Let nothing else run meanwhile. The cases and the calls are those of `python -m benchmarks`; a new
question is a line in `_QUESTIONS`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import artifacts, attention, families, linear, models, report, wire
from benchmarks.runner import Lane, Worker, WorkerDied

Say = Callable[[str], None]
BUILDS = ("old", "new")
_NOISE = 0.02
_AGAIN = 3
# Long calls have fewer rounds: what they lose in rounds they have in length.
_CASE_SECONDS, _LEAST_ROUNDS = 6.0, 5


def _attention(quick: bool, say: Say) -> Iterator[tuple[wire.Case, dict]]:
    yield from ((work.case, {}) for work in attention.works(quick))


def _linear(quick: bool, say: Say) -> Iterator[tuple[wire.Case, dict]]:
    yield from ((work.case, {}) for work in linear.works(quick))


def _models(quick: bool, say: Say) -> Iterator[tuple[wire.Case, dict]]:
    for model in models.MODELS:
        found = artifacts.prepare(model, (), say)
        yield from ((case, found) for case in models.model_cases(model, quick))
    case = models.texts_case(quick)
    yield case, artifacts.prepare("minilm", (), say, case.count)


def _families(quick: bool, say: Say) -> Iterator[tuple[wire.Case, dict]]:
    for one in families.measured():
        if wire.needs_artifacts(one.case) and (not quick or families.is_small(one)):
            found = artifacts.prepare(one.case.model, (), say)
            if found:
                yield one.case, found


_QUESTIONS = {"attention": _attention, "linear": _linear, "models": _models, "families": _families}


@dataclass
class Row:
    """One case: seconds a call of each round, by build; why it was not measured; whether all bits are the same."""

    question: str
    case: wire.Case
    artifacts: dict[str, Any]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {build: [] for build in BUILDS})
    variant: str = ""
    same_bits: bool | None = None
    failure: str = ""

    def median(self, build: str) -> float:
        return statistics.median(self.seconds[build])

    @property
    def ratio(self) -> float:
        return self.median("old") / self.median("new")

    @property
    def ratio_of_fastest(self) -> float:
        """Of the fastest round of each: what is left when another process took the processor away now and then."""
        return min(self.seconds["old"]) / min(self.seconds["new"])


def lane(build: str, place: str, threads: int, isa: str | None) -> Lane:
    """The lane of a build that is at `place`. Raises ValueError for a place that is neither of the two kinds."""
    path = Path(place).absolute()
    if (path / "transformer_fast").is_dir():
        return Lane(build, "ours", threads, isa, path=str(path))
    if path.is_file() and os.access(path, os.X_OK):
        # No PYTHONPATH: what this executable has installed is the build.
        return Lane(build, "ours", threads, isa, python=str(path), path="")
    raise ValueError(f"{place} is neither, needed: a folder that holds transformer_fast, or a Python executable")


class Comparison:
    """The processes of both builds. Use as a context manager."""

    def __init__(self, lanes: Sequence[Lane], rounds: int, sample_seconds: float, say: Say) -> None:
        self.lanes, self.rounds, self.sample_seconds, self.say = lanes, rounds, sample_seconds, say
        self.about: dict[str, Any] = {}

    def __enter__(self) -> Comparison:
        with ExitStack() as stack:
            self.workers = {}
            for one in self.lanes:
                worker = self.workers[one.label] = Worker(one, None)
                stack.callback(worker.close)
                hello = worker.answer()
                if "missing" in hello:
                    raise SystemExit(f"{one.label} does not start: {hello['missing']}")
                place = worker.ask("place")["place"]
                if one.path and Path(place).parent != Path(one.path).resolve():
                    raise SystemExit(f"{one.label} is {place}, needed: the package in {one.path}")
                self.say(f"{one.label}: {place}")
                self.about[one.label] = {"versions": hello["versions"], "settings": hello["settings"]}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def measure(self, row: Row, times: int = 1) -> None:
        """Adds rounds to the row: as many as the run has, `times` over."""
        request = {"case": wire.to_json(row.case), "artifacts": row.artifacts, "sample_seconds": self.sample_seconds}
        request |= {"rows": [], "expected": None, "tolerance": 0.0, "only": row.variant or None}
        digests = []
        for build in BUILDS:
            answer = self.workers[build].ask("prepare", **request)
            if "unsupported" in answer:
                row.failure = f"{build}: {answer['unsupported']}"
                return
            row.variant = request["only"] = answer["variant"]
            digests.append(self.workers[build].ask("digest")["digest"])
        row.same_bits = digests[0] == digests[1]
        start, n = time.perf_counter(), 0
        while n < _LEAST_ROUNDS or n < times * self.rounds and time.perf_counter() - start < times * _CASE_SECONDS:
            for build in BUILDS if n % 2 else BUILDS[::-1]:
                row.seconds[build].append(self.workers[build].ask("time")["seconds"])
            n += 1
        for build in BUILDS:
            self.workers[build].ask("forget")


def run(comparison: Comparison, questions: Sequence[str], quick: bool, pattern: str, say: Say) -> list[Row]:
    """All cases of the questions whose name the pattern finds."""
    rows = []
    for question in questions:
        for case, found in _QUESTIONS[question](quick, say):
            if re.search(pattern, case.name):
                row = Row(question, case, found)
                comparison.measure(row)
                said = row.failure or f"{row.ratio:.3f}{'' if row.same_bits else ', other bits'}"
                say(f"{question}: {case.name}: {said}")
                rows.append(row)
    for row in rows:
        if not row.failure and abs(row.ratio - 1) > _NOISE:
            first = row.ratio
            comparison.measure(row, _AGAIN)
            say(f"once more: {row.question}: {row.case.name}: {first:.3f}, of all rounds {row.ratio:.3f}")
    return rows


def summary(rows: Sequence[Row]) -> str:
    """A line a question and one for all; then the cases, the slowest first; as Markdown."""
    measured = [row for row in rows if not row.failure]
    groups = {question: [row for row in measured if row.question == question] for question in _QUESTIONS}
    lines = [_summary_line(question, group) for question, group in groups.items() if group]
    if len(lines) > 1:
        lines.append(_summary_line("all", measured))
    head = ("Question", "cases", "median", "smallest", "below 0.98", "other bits", "smallest at")
    parts = [report.table(head, lines, left=(0, 6))]
    cases = [
        (
            row.question,
            row.case.name,
            report.duration(row.median("old")),
            report.duration(row.median("new")),
            f"{row.ratio:.3f}",
            f"{row.ratio_of_fastest:.3f}",
            str(len(row.seconds["new"])),
            "same" if row.same_bits else "**other**",
        )
        for row in sorted(measured, key=lambda row: row.ratio)
    ]
    head = ("Question", "Case", "old", "new", "old / new", "of the fastest", "rounds", "bits")
    parts.append(report.table(head, cases, left=(0, 1)))
    parts += [f"- {row.question}, {row.case.name}: not measured ({row.failure})" for row in rows if row.failure]
    return "\n\n".join(parts)


def _summary_line(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    least = min(rows, key=lambda row: row.ratio)
    return (
        name,
        str(len(rows)),
        f"{statistics.median(row.ratio for row in rows):.3f}",
        f"{least.ratio:.3f}",
        str(sum(row.ratio < 1 - _NOISE for row in rows)),
        str(sum(not row.same_bits for row in rows)),
        least.case.name,
    )


def as_json(rows: Sequence[Row], about: dict[str, Any]) -> dict[str, Any]:
    """What --out writes."""
    return {
        "benchmark": "compare",
        "builds": about,
        "rows": [
            {"question": row.question, "case": wire.to_json(row.case), "variant": row.variant}
            | ({"failure": row.failure} if row.failure else {})
            | ({} if row.failure else {"old": row.median("old"), "new": row.median("new"), "ratio": row.ratio})
            | ({} if row.failure else {"ratio_of_fastest": row.ratio_of_fastest})
            | {"rounds": len(row.seconds["new"]), "same_bits": row.same_bits}
            for row in rows
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", help="folder or Python executable")
    parser.add_argument("new", help="folder or Python executable")
    parser.add_argument("--questions", default="attention,linear,models", help="default: attention,linear,models")
    parser.add_argument("--cases", default="", help="only cases whose name this regular expression finds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", help="instruction set of both (default: the best that the machine has)")
    parser.add_argument("--rounds", type=int, default=21, help="turns of each build a case (default: 21)")
    parser.add_argument("--sample", type=float, default=0.02, help="seconds a turn lasts at least (default: 0.02)")
    parser.add_argument("--quick", action="store_true", help="small cases only")
    parser.add_argument("--out", type=Path, help="a JSON file with all cases")
    options = parser.parse_args()
    questions = options.questions.split(",")
    unknown = set(questions) - set(_QUESTIONS)
    if unknown:
        parser.error(f"--questions names {', '.join(sorted(unknown))}; known: {', '.join(_QUESTIONS)}")
    try:
        places = zip(BUILDS, (options.old, options.new), strict=True)
        lanes = [lane(build, place, options.threads, options.isa) for build, place in places]
    except ValueError as error:
        parser.error(str(error))

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    try:
        with Comparison(lanes, options.rounds, options.sample, say) as comparison:
            rows = run(comparison, questions, options.quick, options.cases, say)
    except WorkerDied as error:
        raise SystemExit(f"a build died: {error}") from None
    if options.out:
        options.out.write_text(json.dumps(as_json(rows, comparison.about), indent=1) + "\n", encoding="utf-8")
    print(summary(rows) if any(not row.failure for row in rows) else "no case was measured")


if __name__ == "__main__":
    main()
