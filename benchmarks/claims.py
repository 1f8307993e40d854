"""What has to be shown, held against what was measured.

Every question's file lists its claims; `judge` makes verdicts of them
for the result file, which report.py prints. A claim that a run did not measure (a missing peer, another number of
threads) is said to be unmeasured, never held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# What is claimed of machines with AVX-512 is claimed of those with a tile unit beside it, too. The FMA peak is that of
# AVX-512 in both cases.
AVX512 = ("avx512", "avx512vnni", "avx512bf16", "amx")


class Unmeasured(Exception):
    """The run lacks what the claim is about."""


class Results:
    """A result file's rows by case."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.threads: int = result["threads"]
        self.isa: str = result["isa"]
        self.extra = result
        self.rows = {row["case"]["name"]: row for row in result["rows"]}

    def entry(self, case: str, lane: str = "ours", figure: str = "seconds") -> dict[str, Any]:
        """What a lane has of a case, that figure among it."""
        entry = self.rows.get(case, {"lanes": {}})["lanes"].get(lane, {})
        if figure not in entry:
            raise Unmeasured(f"{case} on {lane}: {entry.get('unsupported', 'not in this run')}")
        return entry

    def seconds(self, case: str, lane: str = "ours") -> float:
        return self.entry(case, lane)["seconds"]

    def figure(self, case: str, name: str, lane: str = "ours") -> float:
        return self.entry(case, lane, name)[name]

    def pairs(self, lane: str, cases: Iterable[str] | None = None) -> list[tuple[float, str]]:
        """(that lane's time over ours, case) wherever both were measured."""
        found = []
        for case in self.rows if cases is None else cases:
            try:
                found.append((self.seconds(case, lane) / self.seconds(case), case))
            except Unmeasured:
                continue
        if not found:
            raise Unmeasured(f"{lane} has no case in common with ours")
        return found


Value = float | tuple[float, str]


@dataclass(frozen=True)
class Claim:
    """`value` gives a figure, or a figure and a remark on it; at least (or, with at_most, at most) `bound` is claimed.

    threads, isas: the runs that the claim is about; None: all.
    """

    text: str
    value: Callable[[Results], Value]
    bound: float
    at_most: bool = False
    threads: int | None = None
    isas: tuple[str, ...] | None = None


def of_peak(text: str, case: str, bound: float) -> Claim:
    """A share of the FMA peak on one thread with AVX-512."""
    return Claim(f"{text}: share of the FMA peak", lambda r: r.figure(case, "of_peak"), bound, threads=1, isas=AVX512)


def of_read(text: str, case: str, bound: float) -> Claim:
    """A share of the streaming read of as many bytes, on one thread with AVX-512."""
    return Claim(
        f"{text}: share of the streaming read", lambda r: r.figure(case, "of_read"), bound, threads=1, isas=AVX512
    )


def of_avx2_peak(text: str, case: str, bound: float) -> Claim:
    name = f"{text}, AVX2 forced: share of the AVX2 FMA peak"
    return Claim(name, lambda r: r.figure(case, "of_peak", "ours, avx2"), bound, threads=1)


def time_ratio(text: str, case: str, other: str, at_most: float, threads: int | None = 1) -> Claim:
    """How long `case` lasts in units of `other`."""
    return Claim(text, lambda r: r.seconds(case) / r.seconds(other), at_most, at_most=True, threads=threads)


def faster_than(
    peer: str, cases: Sequence[str], bound: float, text: str, threads: int | None = None, lane: str = "ours"
) -> Claim:
    """The smallest ratio over these cases, the peer's time over the lane's; all of them have to be measured."""

    def value(results: Results) -> Value:
        return min((results.seconds(case, peer) / results.seconds(case, lane), case) for case in cases)

    return Claim(f"{text}: times as fast as {peer}", value, bound, threads=threads)


def never_slower(peer: str) -> Claim:
    """The smallest ratio over all cases that the peer has too."""

    def value(results: Results) -> Value:
        pairs = sorted(results.pairs(peer))
        slower = sum(ratio < 1 for ratio, _ in pairs)
        return pairs[0][0], f"{pairs[0][1]}; slower at {slower} of {len(pairs)} points"

    return Claim(f"never slower than {peer}: smallest ratio", value, 1.0)


def two_threads(bound: float, least_seconds: float, cases: Sequence[str] | None = None) -> Claim:
    """The smallest gain wherever one thread takes longer than `least_seconds`."""

    def value(results: Results) -> Value:
        pairs = results.pairs("ours, 1 thread", cases)
        long = [(x, case) for x, case in pairs if results.seconds(case, "ours, 1 thread") > least_seconds]
        if not long:
            raise Unmeasured(f"no case takes longer than {least_seconds} s on one thread")
        few = sum(ratio < bound for ratio, _ in long)
        ratio, case = min(long)
        return ratio, f"{case}; below at {few} of {len(long)} cases"

    return Claim("two threads against one: smallest gain", value, bound, threads=2)


def judge(result: dict[str, Any], claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """One verdict a claim that is about this run: claim, bound, value, holds (None: unmeasured), remark."""
    results = Results(result)
    verdicts = []
    for claim in claims:
        other_threads = claim.threads not in (None, results.threads)
        if other_threads or claim.isas is not None and results.isa not in claim.isas:
            continue
        sign = "<=" if claim.at_most else ">="
        verdict = {"claim": claim.text, "bound": f"{sign} {claim.bound:g}", "value": None, "holds": None, "remark": ""}
        try:
            value = claim.value(results)
        except Unmeasured as error:
            verdict["remark"] = f"unmeasured: {error}"
        else:
            value, verdict["remark"] = value if isinstance(value, tuple) else (value, "")
            verdict["value"] = value
            verdict["holds"] = value <= claim.bound if claim.at_most else value >= claim.bound
        verdicts.append(verdict)
    return verdicts
