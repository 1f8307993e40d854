"""Time over length: self-attention looks at all pairs but at once, a GRU goes step by step.

One sees a table (and with -o FILE a plot) of both, measured here, on one thread. Attention's cost for a token grows
with the length, the GRU's does not; but each of its steps waits for the one before, so that short inputs take longer.
"""

import argparse
import time

import numpy as np

import transformer_fast as tf
from transformer_fast import nn

E, H = 256, 4
LENGTHS = [32, 64, 128, 256, 512, 1024, 2048, 4096]


def seconds(call, budget: float = 0.4) -> float:
    """The median time of a call, over as many as fit into the budget, three at least."""
    call()
    taken = []
    while len(taken) < 3 or sum(taken) < budget:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def plot(path: str, attention: list[float], gru: list[float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="length", ylabel="microseconds a token", xscale="log")
    for name, times in (("self-attention", attention), ("GRU", gru)):
        axes.plot(LENGTHS, [1e6 * t / L for t, L in zip(times, LENGTHS, strict=True)], "o-", label=name)
    axes.set_xticks(LENGTHS, [str(L) for L in LENGTHS])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", metavar="FILE", help="draw FILE.png or FILE.svg (needs matplotlib)")
    options = parser.parse_args()
    tf.set_num_threads(1)
    attend = nn.MultiheadAttention(E, H, batch_first=True)
    recur = nn.GRU(E, E, batch_first=True)
    rng = np.random.default_rng(0)
    attention, gru = [], []
    print(f"one layer of {E} features, one sequence, one thread; milliseconds\n")
    print(f"{'length':>7}{'attention':>12}{'GRU':>12}{'GRU / attention':>18}")
    for L in LENGTHS:
        x = rng.standard_normal((1, L, E), dtype=np.float32)
        attention.append(seconds(lambda x=x: attend(x, x, x, need_weights=False)))
        gru.append(seconds(lambda x=x: recur(x)))
        print(f"{L:7}{1e3 * attention[-1]:12.2f}{1e3 * gru[-1]:12.2f}{gru[-1] / attention[-1]:18.1f}")
    if options.o:
        plot(options.o, attention, gru)


if __name__ == "__main__":
    main()
