"""Memory, file descriptors and threads of a process over time, out of /proc; soak.py asks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np

PERIOD = 0.5  # seconds between two looks
# Of the run: packed weights, caches of tokenizers and the allocator's arenas fill up in it.
WARM_UP = 0.25


class Watch:
    """The samples of one process; `sample` runs until it is cancelled."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._samples: list[dict[str, float]] = []

    def now(self) -> dict[str, float]:
        status = dict(line.split(":", 1) for line in (self._folder / "status").read_text(encoding="utf-8").splitlines())
        return {
            "time": time.monotonic(),
            "mb": int(status["VmRSS"].split()[0]) / 1024,
            "threads": int(status["Threads"]),
            "descriptors": len(list((self._folder / "fd").iterdir())),
        }

    async def sample(self) -> None:
        while True:
            self._samples.append(self.now())
            await asyncio.sleep(PERIOD)

    def most(self, name: str) -> float:
        return max(sample[name] for sample in self._samples)

    def memory(self) -> dict[str, float]:
        """growth_mb: between the medians of the first and the last fifth after the warm-up. Slope: least squares."""
        warm = self._samples[int(len(self._samples) * WARM_UP) :]
        mb = np.array([sample["mb"] for sample in warm])
        minutes = np.array([sample["time"] for sample in warm]) / 60
        fifth = max(1, len(mb) // 5)
        first, last = np.median(mb[:fifth]), np.median(mb[-fifth:])
        slope = np.polyfit(minutes - minutes[0], mb, 1)[0] if len(mb) > 1 else 0.0
        figures = {
            "start_mb": self._samples[0]["mb"],
            "warm_mb": first,
            "end_mb": last,
            "max_mb": self.most("mb"),
            "growth_mb": last - first,
            "slope_mb_per_minute": slope,
        }
        return {name: round(float(value), 2) for name, value in figures.items()}

    def threads(self) -> dict[str, float]:
        """Pools grow to their size while it warms up, and not later."""
        warm = self._samples[: max(1, int(len(self._samples) * WARM_UP))]
        return {
            "start": self._samples[0]["threads"],
            "warm_max": max(sample["threads"] for sample in warm),
            "max": self.most("threads"),
            "end": self.now()["threads"],
        }
