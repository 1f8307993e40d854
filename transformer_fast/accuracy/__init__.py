"""What a compute_type costs in accuracy, and brings in memory and time: `compare`, on a model and texts of yours.

Scripts and `transformer-fast compare` call it. A model is loaded twice, as float32 and as asked for; both run the same
texts. `runners` says how each kind of model is loaded and run, `differences` what is kept of two results and what is
made of it, `measures` how; `cost` counts bytes. A new kind of model is a runner there and, if its results are new, a
pair of classes in `differences`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_fast import functional as F
from transformer_fast.accuracy.cost import memory, read_weights
from transformer_fast.accuracy.differences import Differences
from transformer_fast.accuracy.runners import Runner, runner_for
from transformer_fast.files.folder import find_model, open_source
from transformer_fast.models.common.compute_types import ComputeType, weight_format_of
from transformer_fast.pipelines.texts import several

__all__ = ["REFERENCE", "Comparison", "Cost", "compare"]

# What everything is compared with: the values of a file of floating-point numbers, as they are.
REFERENCE = "float32"


@dataclass(frozen=True)
class Cost:
    """What one of the two models takes.

    Attributes:
        load_seconds: from the files to a model that can run; the files are in the system's memory already.
        run_seconds: all texts once, tokenising included; the median of the rounds.
        packed_bytes: of the weights that are packed for products.
        other_bytes: of all other parameters in the types that they are kept in, embeddings above all. What an output
            layer shares with the embeddings is packed for the one and read from the file for the other: it counts in
            both. Dense layers that a sentence encoder has behind its pooling are left out of both numbers.
    """

    load_seconds: float
    run_seconds: float
    packed_bytes: int
    other_bytes: int


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `dataclasses.asdict` makes a dict of it that JSON takes.

    Attributes:
        model: the path or hub id. model_class: its class here. kind: what it is for.
        compute_type: what is compared with float32.
        texts, tokens: how many ran in a round, special tokens included and what is cut off left out.
        differences: by kind, one of `EmbeddingDifferences`, `LabelDifferences`, `NextTokenDifferences` and
            `MaskedWordDifferences` of `accuracy.differences`.
        reference, compared: what the model takes as float32, and with compute_type.
        speedup: seconds of float32 over those of compute_type, the median of the rounds: above 1, it is faster.
        rounds, isa, num_threads: how often everything ran, and on what.
    """

    model: str
    model_class: str
    kind: str
    compute_type: ComputeType
    texts: int
    tokens: int
    differences: Differences
    reference: Cost
    compared: Cost
    speedup: float
    rounds: int
    isa: str
    num_threads: int


def compare(
    path_or_hub_id: str | Path,
    compute_type: ComputeType,
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    rounds: int = 3,
    ignore_fields: Collection[str] = (),
    **hub: Any,
) -> Comparison:
    """Runs a model as float32 and with `compute_type` on the same texts, and says how far apart they are.

    Sentence encoders and encoders without a head, classifiers of texts and of tokens, language models and masked
    language models are supported; the folder says which it is. Texts that are too long are cut off. Both models are in
    memory together. Batches run on both in turns, so that whatever else the machine does meets both; of their results
    only a few numbers a text or token are kept.

    Args:
        compute_type, ignore_fields; hub: revision, cache_dir, token, local_files_only: as in `load_model`.
        texts: what both run; some hundred of the kind that the model is for say more than many of another.
        batch_size: texts of a batch.
        rounds: how often all texts run. Only times need more than one.

    Raises:
        ValueError: there is no such compute_type, no text (for a language model: none with two tokens), or batch_size
            or rounds is not positive.
        TypeError: a text is no string.
        CheckpointError: there is no such folder or model, its files are malformed, or it is of no kind above.

    Example:
        >>> texts = ["A man eats.", "Someone has a meal."]
        >>> found = compare("sentence-transformers/all-MiniLM-L6-v2", "int8", texts)                  # doctest: +SKIP
        >>> found.differences.cosine.least > 0.99, found.compared.packed_bytes                        # doctest: +SKIP
        (True, 11083776)
    """
    weight_format_of(compute_type)
    texts = several("texts", texts)
    if not texts:
        raise ValueError("texts is empty; needed: at least one text")
    for name, value in (("batch_size", batch_size), ("rounds", rounds)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; needed: an integer >= 1")
    place = find_model(path_or_hub_id, **hub)
    kind = runner_for(open_source(place))
    read_weights(kind.model_source(open_source(place)))
    runners, load_seconds = [], []
    for name in (REFERENCE, compute_type):
        started = time.perf_counter()
        runners.append(kind(open_source(place), name, ignore_fields))
        load_seconds.append(time.perf_counter() - started)
    batches = [texts[first : first + batch_size] for first in range(0, len(texts), batch_size)]
    differences, seconds = _run(runners, batches, rounds)
    costs = [
        Cost(load, statistics.median(own), *memory(runner.model))
        for runner, load, own in zip(runners, load_seconds, zip(*seconds, strict=True), strict=True)
    ]
    return Comparison(
        model=str(path_or_hub_id),
        model_class=type(runners[0].model).__name__,
        kind=kind.kind,
        compute_type=compute_type,
        texts=len(texts),
        tokens=sum(map(runners[0].count_tokens, batches)),
        differences=differences,
        reference=costs[0],
        compared=costs[1],
        speedup=statistics.median(reference / compared for reference, compared in seconds),
        rounds=rounds,
        isa=F.get_isa(),
        num_threads=F.get_num_threads(),
    )


def _run(
    runners: Sequence[Runner], batches: Sequence[list[str]], rounds: int
) -> tuple[Differences, list[tuple[float, float]]]:
    """The differences, and the seconds that each of the two took in each round."""
    collector = runners[0].collector()
    for runner in runners:  # what only a first call does: scratch memory, pages of the tables
        runner.run(batches[0])
    seconds = []
    for number in range(rounds):
        total = [0.0, 0.0]
        for i, batch in enumerate(batches):
            results: list[Any] = [None, None]
            for which in (0, 1) if (i + number) % 2 == 0 else (1, 0):
                started = time.perf_counter()
                results[which] = runners[which].run(batch)
                total[which] += time.perf_counter() - started
            if number == 0:
                collector.add(batch, *results)
        seconds.append((total[0], total[1]))
    return collector.result(), seconds
