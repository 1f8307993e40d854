"""`Metrics`: what /metrics says, in Prometheus' text format 0.0.4.

`guard` counts requests, `endpoints/` what generations do, and /metrics adds `stats()` of engines.
Everything happens in the event loop's thread: no locks. A new measure is a line in `Metrics.__init__`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "transformer_fast_"
# Seconds, four a decade: from an embedding of some words (1 ms) to a long answer of a chat.
_SECONDS = (
    0.001,
    0.002,
    0.003,
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    1,
    2,
    3,
    5,
    10,
    20,
    30,
    60,
    120,
    300,
)
# What engines have now; all else of `stats()` only grows.
_GAUGES = frozenset(
    ("queue_length", "tokens_in_flight", "queue", "reading", "running", "tokens_held", "tokens_known", "max_tokens")
)


class Counter:
    """Numbers that only grow, one for each combination of labels."""

    kind = "counter"

    def __init__(self, name: str, help: str, *labels: str) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, amount: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + amount

    def lines(self) -> Iterable[str]:
        for labels, value in self._values.items():
            yield f"{_PREFIX}{self.name}{_labelled(zip(self.labels, labels, strict=True))} {_number(value)}"


class Histogram:
    """How many observations were at most so large, their sum and their number."""

    kind = "histogram"

    def __init__(self, name: str, help: str, *labels: str) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._values: dict[tuple[str, ...], list[float]] = {}  # counts of buckets, those above, the sum

    def observe(self, value: float, *labels: str) -> None:
        counts = self._values.get(labels)
        if counts is None:
            counts = self._values[labels] = [0.0] * (len(_SECONDS) + 2)
        counts[bisect_left(_SECONDS, value)] += 1
        counts[-1] += value

    def lines(self) -> Iterable[str]:
        for labels, (*counts, total) in self._values.items():
            named = list(zip(self.labels, labels, strict=True))
            below = 0.0
            for most, count in zip((*_SECONDS, "+Inf"), counts, strict=True):
                below += count
                yield f"{_PREFIX}{self.name}_bucket{_labelled([*named, ('le', str(most))])} {_number(below)}"
            yield f"{_PREFIX}{self.name}_sum{_labelled(named)} {_number(total)}"
            yield f"{_PREFIX}{self.name}_count{_labelled(named)} {_number(below)}"


class Metrics:
    def __init__(self) -> None:
        self.requests = Counter("http_requests_total", "answers by endpoint and status", "endpoint", "status")
        self.seconds = Histogram("http_request_seconds", "seconds from headers to the end of an answer", "endpoint")
        self.first_token = Histogram("first_token_seconds", "seconds from a request to its first text", "model")
        self.prompt_tokens = Counter("prompt_tokens_total", "tokens read for answers", "model")
        self.new_tokens = Counter("generated_tokens_total", "tokens of generations that ended", "model")

    def text(self, in_flight: int, stats: Mapping[str, Mapping[str, Any]]) -> str:
        """All of it. stats: a model's name -> the numbers of its engine."""
        written = []
        for measure in (self.requests, self.seconds, self.first_token, self.prompt_tokens, self.new_tokens):
            written += _head(measure.name, measure.kind, measure.help)
            written += measure.lines()
        written += _head("http_requests_in_flight", "gauge", "requests that have no whole answer yet")
        written.append(f"{_PREFIX}http_requests_in_flight {in_flight}")
        for name in dict.fromkeys(name for one in stats.values() for name in one):
            shown, kind = (f"engine_{name}", "gauge") if name in _GAUGES else (f"engine_{name}_total", "counter")
            written += _head(shown, kind, f"{name.replace('_', ' ')} of a model's engine")
            for model, one in stats.items():
                if name in one:
                    written.append(f"{_PREFIX}{shown}{_labelled([('model', model)])} {_number(one[name])}")
        return "\n".join(written) + "\n"


def _head(name: str, kind: str, help: str) -> list[str]:
    return [f"# HELP {_PREFIX}{name} {help}", f"# TYPE {_PREFIX}{name} {kind}"]


def _labelled(labels: Iterable[tuple[str, str]]) -> str:
    written = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{written}}}" if written else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
