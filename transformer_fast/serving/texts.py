"""`TextEngine`: embeddings, scores of pairs and labels of texts for many callers at once.

Servers and programs with several threads use it. A call tokenises in the thread that calls; the engine's own thread
takes waiting texts of all requests by tokens (`fair_queue`), runs them packed, and completes futures (`text_requests`):

    embed / score / classify  ->  FairQueue  ->  job.rows(tokens)  ->  job.finished(rows)  ->  Future
        callers' threads                              the engine's thread

What is computed is the pipelines' business: `prepared` of a `SentenceEncoder`, `CrossEncoder` or `TextClassifier` gives
the job of a call. A further kind of model is a pipeline with `prepared`, and a method here.

Tokenising is 2 to 5 % of the time that MiniLM needs for a text (float32, two threads), so that a thread of its own for
it would be idle; the caller's runs beside the computation, which holds no lock, errors of texts come from the call
itself, and a request is weighed before it is taken. An event loop gives long inputs to a thread: `is_brief`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.pipelines import CrossEncoder, SentenceEncoder
from transformer_fast.pipelines.cross_encoder import checked_pairs
from transformer_fast.pipelines.labels import ranked
from transformer_fast.pipelines.sentence_texts import checked_texts
from transformer_fast.pipelines.text_classifier import TextClassifier
from transformer_fast.pipelines.text_runs import TOKENS_OF_A_THREAD, check_positive
from transformer_fast.pipelines.texts import several
from transformer_fast.serving.errors import Busy, Stopping
from transformer_fast.serving.fair_queue import FairQueue
from transformer_fast.serving.text_requests import TextRequest
from transformer_fast.serving.turns import Turns

_KINDS = {SentenceEncoder: "embeddings", CrossEncoder: "reranker", TextClassifier: "classifier"}
_METHODS = {"embeddings": "embed", "reranker": "score", "classifier": "classify"}

# Characters that an event loop may let a call tokenise: WordPiece needs 0.15 to 0.6 us for one (Granite Rapids), so
# that this is 2 ms at most, as long as MiniLM computes for one text.
_BRIEF = 4_000


@dataclass(frozen=True)
class Embeddings:
    """vectors: (N, d) float32, one a text. tokens: how many were read in all, special ones included."""

    vectors: np.ndarray
    tokens: int


@dataclass(frozen=True)
class Scores:
    """scores: (N,) float32, or (N, labels) of a model of several labels. tokens: how many were read in all."""

    scores: np.ndarray
    tokens: int


@dataclass(frozen=True)
class Classes:
    """scores: (N, labels) float32, of each text. labels: their names. tokens: how many were read in all."""

    scores: np.ndarray
    labels: tuple[str, ...]
    tokens: int

    def ranked(self, top_k: int | None = None) -> list[list[dict[str, Any]]]:
        """The top_k labels (None: all) of each text as {"label", "score"}, the highest first."""
        return [ranked(row, self.labels, top_k) for row in self.scores]


class TextEngine:
    """One model for many callers: texts of several requests run together, and results are those of a call alone.

    Methods may be called from any thread. They tokenise and return a `concurrent.futures.Future`; `asyncio.wrap_future`
    makes one to await of it. `cancel` of a future removes what has not run yet. A request that cannot be computed fails
    alone. Vectors, scores and labels have the bits of `encode`, `predict` or a call of the model, whatever else runs.

    A waiting request is not held back to fill a batch: an idle engine begins at once, and what arrives meanwhile is the
    next batch. Texts are taken by turns of requests, weighed by tokens.

    Args:
        model: a `SentenceEncoder`, a `CrossEncoder`, or a `TextClassifier` (as `load_classifier` gives).
        turns: shared by the engines of a process, so that they compute one after the other.
        max_batch_tokens: tokens that run together; a longer text runs alone. None: 1,024 for each thread. More of them
            are hardly faster, and a request that arrives waits for all of them.
        max_tokens_in_flight: tokens of accepted requests without a result. max_queue: the number of such requests.

    Attributes:
        kind: "embeddings", "reranker" or "classifier".

    Raises:
        TypeError: the model is of another kind.
        ValueError: a limit is not positive.

    Example:
        >>> from transformer_fast import SentenceEncoder
        >>> from transformer_fast.serving import TextEngine
        >>> encoder = SentenceEncoder.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")       # doctest: +SKIP
        >>> with TextEngine(encoder) as engine:                                                       # doctest: +SKIP
        ...     futures = [engine.embed([text]) for text in ("A man eats.", "It rains.")]
        ...     [future.result().vectors.shape for future in futures]
        [(1, 384), (1, 384)]
    """

    def __init__(
        self,
        model: SentenceEncoder | CrossEncoder | TextClassifier,
        *,
        turns: Turns | None = None,
        max_batch_tokens: int | None = None,
        max_tokens_in_flight: int = 262_144,
        max_queue: int = 4096,
    ) -> None:
        kind = next((name for made, name in _KINDS.items() if isinstance(model, made)), None)
        if kind is None:
            known = ", ".join(made.__name__ for made in _KINDS)
            raise TypeError(f"model is a {type(model).__name__}; needed: one of {known}")
        if max_batch_tokens is None:
            max_batch_tokens = TOKENS_OF_A_THREAD * F.get_num_threads()
        limits = {"max_tokens_in_flight": max_tokens_in_flight, "max_queue": max_queue}
        for name, value in {"max_batch_tokens": max_batch_tokens, **limits}.items():
            check_positive(name, value)
        self.kind, self.model = kind, model
        self._turns = Turns() if turns is None else turns
        self._batch_tokens, self._most_tokens, self._most_requests = max_batch_tokens, max_tokens_in_flight, max_queue
        self._lock = threading.Lock()  # guards all that follows
        self._work = threading.Condition(self._lock)
        # Half: there is room for another request in each batch.
        self._queue: FairQueue[TextRequest] = FairQueue(max(1, max_batch_tokens // 2))
        self._open: set[TextRequest] = set()  # accepted, without a result
        self._tokens = 0  # of those in _open
        self._stopping = False
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._run, name=f"TextEngine ({kind})", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------------------------------------
    # Requests

    def embed(
        self,
        inputs: Sequence[str | tuple[str, str] | Sequence[int]],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        task: str | None = None,
        normalize: bool = False,
        truncate_dim: int | None = None,
        truncate: bool = True,
    ) -> Future[Embeddings]:
        """The embeddings of texts, as `SentenceEncoder.encode` with the same arguments gives them.

        Args:
            inputs: texts, or lists of the numbers of tokens. Numbers are taken as they are, special tokens included:
                nothing is put before or around them, not even a default prompt, and nothing is cut off.
            truncate: cut off texts that are longer than max_seq_length; False refuses them.

        Raises:
            TypeError: an input is neither a text nor a list of numbers (its index is named), or both kinds occur.
            ValueError: another argument is out of range, a text is too long, or has no tokens in UTF-8.
            Busy: the engine holds as much as it may. Stopping: it has been closed.
        """
        encoder, inputs = self._model_for("embeddings"), _listed(inputs)
        given = bool(inputs) and _is_numbers(inputs[0])
        if given and (prompt_name is not None or prompt is not None):
            raise ValueError("prompt_name or prompt is given with numbers of tokens; needed: texts")
        options = {"task": task, "normalize_embeddings": normalize, "truncate_dim": truncate_dim}
        if given:
            for i, one in enumerate(inputs):
                if not _is_numbers(one):
                    raise TypeError(f"inputs[{i}] is a {type(one).__name__} after numbers of tokens; needed: one kind")
            job = encoder.prepared(prompt="", **options)
            tokens = job.given(inputs)
        else:
            job = encoder.prepared(prompt_name=prompt_name, prompt=prompt, **options)
            tokens = job.tokens(list(checked_texts(inputs)), truncate)
        return self._submit(job, tokens, Embeddings)

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation_fn: Any = None,
        apply_softmax: bool = False,
        truncate: bool = True,
    ) -> Future[Scores]:
        """The scores of pairs of texts, as `CrossEncoder.predict` with the same arguments gives them.

        truncate: cut off the longer text of pairs that are longer than max_seq_length; False refuses them.

        Raises:
            TypeError: an input is no pair of strings (its index is named).
            ValueError: another argument is out of range, or a pair is too long.
            Busy: the engine holds as much as it may. Stopping: it has been closed.
        """
        job = self._model_for("reranker").prepared(prompt_name, prompt, activation_fn, apply_softmax)
        _, checked = checked_pairs(pairs)
        return self._submit(job, job.tokens(checked, truncate), Scores)

    def classify(
        self,
        inputs: Sequence[str | tuple[str, str]],
        *,
        function_to_apply: str | None = None,
        truncate: bool = True,
    ) -> Future[Classes]:
        """The labels of texts, with the scores that a call of the `TextClassifier` with the same arguments gives.

        truncate: cut off texts that are longer than the model takes; False refuses them.

        Raises:
            TypeError: an input is neither a string nor a pair of strings (its index is named).
            ValueError: another argument is out of range, or a text is too long.
            Busy: the engine holds as much as it may. Stopping: it has been closed.
        """
        classifier = self._model_for("classifier")
        job = classifier.prepared(function_to_apply)
        tokens = job.tokens(several("inputs", inputs, pairs=True), truncate)
        return self._submit(job, tokens, lambda scores, count: Classes(scores, classifier.labels, count))

    @staticmethod
    def is_brief(inputs: Sequence[Any]) -> bool:
        """May an event loop call with these inputs (texts, pairs or numbers of tokens) itself? Else a thread should.

        It may where tokenising takes less than 2 ms: 4,000 characters in all.
        """
        left = _BRIEF
        for one in inputs:
            left -= sum(map(len, one)) if isinstance(one, tuple) and not _is_numbers(one) else len(one)
            if left < 0:
                return False
        return True

    # ------------------------------------------------------------------------------------------------------------------
    # The engine

    def stats(self) -> dict[str, float]:
        """Figures of the engine since it was made.

        Counters: requests, texts and tokens that were accepted; batches that ran; cancelled, failed and refused
        requests (refused: `Busy`); seconds of computing. Gauges: queue_length, requests without a result, and
        tokens_in_flight, the tokens of those.
        """
        with self._lock:
            gauges = {"queue_length": len(self._open), "tokens_in_flight": self._tokens}
            return {**self._counts, "seconds": self._seconds, **gauges}

    def close(self, timeout: float | None = None) -> None:
        """Take no more requests, and return when those that were accepted have their results.

        timeout: seconds after which requests that still wait get `Stopping` in place of a result. A batch ends anyway.
        """
        with self._lock:
            self._stopping = True
            self._work.notify_all()
        if self._thread is threading.current_thread():  # from a future's callback
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            with self._lock:
                waiting = list(self._open)
            for request in waiting:
                self._fail(request, Stopping("the engine has stopped before this request's turn came"))
            self._thread.join()

    def __enter__(self) -> TextEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _model_for(self, kind: str) -> Any:
        if self.kind != kind:
            raise TypeError(
                f"{_METHODS[kind]} needs a model of the kind {kind!r}; this engine has one of the kind {self.kind!r}: "
                f"{_METHODS[self.kind]}"
            )
        return self.model

    def _submit(self, job: Any, tokens: Sequence[Any], result: Callable[[np.ndarray, int], Any]) -> Future[Any]:
        request = TextRequest(job, tokens, result)
        with self._lock:
            if self._stopping:
                raise Stopping("the engine is stopping and takes no more requests")
            if request.size > self._most_tokens:
                raise ValueError(
                    f"the request has {request.size} tokens; needed: at most {self._most_tokens}, in several requests"
                )
            self._refuse_if_full(request)
            self._counts["requests"] += 1
            self._counts["texts"] += len(tokens)
            self._counts["tokens"] += request.size
            if tokens:
                self._open.add(request)
                self._tokens += request.size
                self._queue.add(request)
                self._work.notify()
        if tokens:
            request.future.add_done_callback(lambda future: self._cancelled(request))
        else:
            request.complete()
        return request.future

    def _refuse_if_full(self, request: TextRequest) -> None:
        if len(self._open) < self._most_requests and self._tokens + request.size <= self._most_tokens:
            return
        self._counts["refused"] += 1
        done = self._counts["tokens"] - self._tokens
        seconds = self._tokens * self._seconds / done if done > 0 and self._seconds else 1.0
        raise Busy(
            f"the engine has {len(self._open)} requests with {self._tokens} tokens; it takes {self._most_requests} "
            f"with {self._most_tokens}",
            retry_after=seconds,
        )

    def _run(self) -> None:
        """The engine's thread."""
        while True:
            with self._work:
                while not self._queue and not self._stopping:
                    self._work.wait()
                if not self._queue:
                    return
            with self._turns:
                with self._lock:  # after the turn has come: what has arrived until now runs together
                    taken = self._queue.take(self._batch_tokens)
                start = time.perf_counter()
                done = self._compute(taken)
                seconds = time.perf_counter() - start
            with self._lock:
                self._seconds += seconds
                self._counts["batches"] += bool(taken)
            for request in done:
                self._complete(request)

    def _compute(self, taken: Sequence[tuple[TextRequest, int]]) -> list[TextRequest]:
        """Run texts together; the requests that have all their rows now."""
        # The longest first, so that threads end together.
        taken = sorted(taken, key=lambda one: one[0].lengths[one[1]], reverse=True)
        try:
            rows = taken[0][0].job.rows([request.tokens[i] for request, i in taken]) if taken else ()
        except Exception as error:
            requests = dict.fromkeys(request for request, _ in taken)
            if len(requests) == 1:
                self._fail(taken[0][0], error)
                return []
            # One of them is to blame: each runs alone.
            parts = ([one for one in taken if one[0] is request] for request in requests)
            return [request for part in parts for request in self._compute(part)]
        return [request for (request, i), row in zip(taken, rows, strict=True) if request.put(i, row)]

    def _complete(self, request: TextRequest) -> None:
        try:
            result = request.finished()
        except Exception as error:  # an activation of the caller's
            self._fail(request, error)
            return
        if self._end(request):
            request.future.set_result(result)

    def _fail(self, request: TextRequest, error: Exception) -> None:
        if self._end(request, "failed"):
            request.future.set_exception(error)

    def _cancelled(self, request: TextRequest) -> None:
        """Called when a future is done, by whoever has cancelled it."""
        self._end(request, "cancelled")

    def _end(self, request: TextRequest, counted: str | None = None) -> bool:
        """Forget a request; is its future to be completed? Once for each, whatever threads call at once."""
        with self._lock:
            if request.ended:
                return False
            request.ended = True
            self._open.discard(request)
            self._tokens -= request.size
            running = request.future.set_running_or_notify_cancel()
            counted = counted if running else "cancelled"
            if counted is not None:
                self._counts[counted] += 1
            return running


_COUNTS = ("requests", "texts", "tokens", "batches", "cancelled", "failed", "refused")


def _listed(inputs: Any) -> list[Any]:
    if isinstance(inputs, (str, bytes)) or not isinstance(inputs, Sequence):
        raise TypeError(f"inputs is a {type(inputs).__name__}; needed: a list of texts, or of lists of numbers")
    return list(inputs)


def _is_numbers(one: Any) -> bool:
    """Is that numbers of tokens, and not a text or a pair?"""
    return isinstance(one, (list, np.ndarray)) or (isinstance(one, tuple) and not all(isinstance(x, str) for x in one))
