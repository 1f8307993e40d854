"""Retrieval: rerankers, sparse and multi-vector encoders, exact search, and DeBERTa, from texts on.

Run as `python -m benchmarks retrieval --threads 1`. A model that reads texts is a line in `ENCODERS`, an encoder of
ids a line in `DEBERTA`; both are made with random weights (artifacts.py). Texts are docstrings of the standard library,
joined until they have the number of tokens that a case names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cases import LinearCase

from benchmarks import artifacts, linear, models, wire
from benchmarks.claims import Claim, Results, faster_than
from benchmarks.runner import Lane, Run, Work, write_rows
from benchmarks.wire import EncodeCase, ModelCase, SearchCase

INT8, AVX2, AVX2_INT8 = "ours, int8", "ours, avx2", "ours, avx2, int8"
_TEXTS_PEER = "sentence_transformers"
LABELS = ("ours", INT8, AVX2, AVX2_INT8, _TEXTS_PEER, "torch")
# Case -> (model, number of texts, tokens of each). Fewer texts for the large shapes: a round of a peer lasts seconds.
ENCODERS = (
    EncodeCase("rerank 100 of 200 tokens", "cross-encoder", "rank", 100, 200),
    EncodeCase("sparse 32 of 160 tokens", "splade", "sparse", 32, 160),
    EncodeCase("multi-vector 32 of 160 tokens", "colbert", "multi_vector", 32, 160),
)
_QUERY = "how do I read a compressed file line by line"
SEARCH = SearchCase("search 1,000 in 1,000,000 x 384", 1000, 1_000_000, 384, 10)
# The linear layer whose speed a search is held against: the queries are its rows, what is sought its features.
PRODUCT = LinearCase("linear 1,000 x 384 -> 65,536", 1000, 65536, 384, bias=False)
DEBERTA = ((8, 128), (1, 512), (1, 2048))
_PRECISE = 1e-4
_ROWS = 64


def _deberta_name(B: int, L: int) -> str:
    return f"deberta-v3-base {B}x{L}"


def _of_product(results: Results) -> float:
    return results.figure(SEARCH.name, "gflops") / results.figure(PRODUCT.name, "gflops")


_RERANK, _SPARSE, _MULTI_VECTOR = (case.name for case in ENCODERS)
CLAIMS: tuple[Claim, ...] = (
    faster_than(_TEXTS_PEER, [_RERANK], 2.0, "reranking, float32", threads=1),
    faster_than(_TEXTS_PEER, [_RERANK], 3.5, "reranking, AVX2, int8", threads=1, lane=AVX2_INT8),
    faster_than(_TEXTS_PEER, [_SPARSE], 2.0, "SPLADE", threads=1),
    faster_than(_TEXTS_PEER, [_MULTI_VECTOR], 2.0, "ColBERT", threads=1),
    Claim("search: speed in units of the linear layer's", _of_product, 0.9),
    Claim("search: MB beyond the data", lambda r: r.extra["search_bytes"] / 1e6, 200, at_most=True),
    faster_than("torch", [_deberta_name(B, L) for B, L in DEBERTA], 2.0, "DeBERTa-v3-base", threads=1),
)


def lanes(chosen: Sequence[str], threads: int) -> list[Lane]:
    found = [Lane("ours", "ours", threads), Lane(INT8, "ours", threads, compute_type="int8")]
    found += [Lane(AVX2, "ours", threads, isa="avx2")]
    found += [Lane(AVX2_INT8, "ours", threads, isa="avx2", compute_type="int8")]
    return found + [Lane(name, name, threads) for name in (_TEXTS_PEER, "torch") if name in chosen]


def cases(quick: bool = False) -> list[wire.Case]:
    """All of them but DeBERTa's, in order."""
    if not quick:
        return [*ENCODERS, SEARCH, PRODUCT]
    small = [replace(case, count=4, tokens=16) for case in ENCODERS]
    return [
        *small,
        replace(SEARCH, queries=10, vectors=5000),
        replace(PRODUCT, M=10, N=4096),
    ]


def deberta_cases(quick: bool = False) -> list[ModelCase]:
    shapes = ((1, 16),) if quick else DEBERTA
    return [ModelCase(_deberta_name(B, L), "deberta-v3-base", B, L) for B, L in shapes]


def run(session: Run, quick: bool) -> None:
    for case in cases(quick):
        work = _WORKS[type(case)](case, session)
        if work is not None:
            session.measure(work)
        if isinstance(case, SearchCase):
            growth = session.ask("ours", "growth", case=wire.to_json(case))
            session.extra["search_bytes"] = growth.get("bytes", float("nan"))
    found = artifacts.prepare("deberta-v3-base", (), session.report)
    for case in deberta_cases(quick) if found else ():
        session.measure(replace(models.model_work(case, found), group="DeBERTa", peers=("torch",), extra=()))


def _encode_work(case: EncodeCase, session: Run) -> Work | None:
    found = artifacts.prepare(case.model, (), session.report)
    if not found:
        return None
    checkpoint = Path(found["checkpoint"])
    texts = _texts(checkpoint, case)
    path = checkpoint.with_name(f"texts-{case.count}x{case.tokens}.json")
    path.write_text(json.dumps({"query": _QUERY, "documents": texts}), encoding="utf-8")
    found["texts"] = str(path)
    query = len(_tokenizer(checkpoint).encode(_QUERY)) - 1 if case.task == "rank" else 0
    return Work(
        case=case,
        group="Texts to results",
        flops=_flops(case, found["config"], case.tokens + query),
        rows=_rows_of(case),
        expected=partial(_of_sentence_transformers, case, found),
        tolerance=_PRECISE,
        peers=(_TEXTS_PEER,),
        extra=(INT8, AVX2, AVX2_INT8) if case.task == "rank" else (AVX2,),
        # Scores of random weights say little of what rounding costs: low_precision.py judges that.
        least_cosine=0.9 if case.task == "rank" else None,
        artifacts=found,
    )


def _of_sentence_transformers(case: EncodeCase, found: dict[str, Any], session: Run, path: str) -> bool:
    request = {"case": wire.to_json(case), "artifacts": found, "picked": _rows_of(case), "path": path}
    return "unsupported" not in session.ask(_TEXTS_PEER, "reference", **request)


def _rows_of(case: EncodeCase) -> list[int]:
    """Every row of scores and of sparse vectors; some of the tokens' vectors, all texts' in a line."""
    return list(
        range(0, case.count * (1 if case.task != "multi_vector" else case.tokens // 2), 1 + case.count // _ROWS)
    )


def _flops(case: EncodeCase, config: dict[str, Any], tokens: int) -> int:
    """tokens: of a text, the query before it included."""
    total, h = case.count * tokens, config["hidden_size"]
    further = {"rank": 0, "sparse": h * h + h * config["vocab_size"], "multi_vector": h * wire.MULTI_VECTOR_DIM}
    return models.flops(config, total, total * tokens) + 2 * total * further[case.task]


def _tokenizer(checkpoint: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _texts(checkpoint: Path, case: EncodeCase) -> list[str]:
    """Sentences in a row, cut after the last whole word within the number of tokens."""
    from transformer_fast import passages

    tokenizer = _tokenizer(checkpoint)
    texts, parts = [], []
    for sentence in passages.sentences(case.count * case.tokens // 8):
        parts.append(sentence)
        encoding = tokenizer.encode(" ".join(parts))
        if len(encoding) > case.tokens:
            end = encoding.offsets[case.tokens - 2][1]  # [CLS] stands before it, [SEP] behind
            texts.append(" ".join(parts)[:end])
            parts = []
        if len(texts) == case.count:
            return texts
    raise ValueError(f"the standard library has {len(texts)} texts of {case.tokens} tokens; needed: {case.count}")


def _search_work(case: SearchCase, session: Run) -> Work:
    return Work(
        case=case,
        group="Vectors",
        flops=2 * case.queries * case.vectors * case.D,
        rows=list(range(0, case.queries, max(1, case.queries // _ROWS))),
        expected=partial(_best_scores, case),
        tolerance=_PRECISE,
        peers=(_TEXTS_PEER,),
        extra=(AVX2,),
    )


def _best_scores(case: SearchCase, session: Run, path: str) -> bool:
    """The k highest cosines of the compared queries, in float64 from float32 products, which choose them."""
    queries, corpus = case.make_inputs()
    picked = queries[:: max(1, case.queries // _ROWS)].astype(np.float64)
    picked /= np.linalg.norm(picked, axis=1, keepdims=True)
    best = np.full((len(picked), case.k), -np.inf)
    for start in range(0, case.vectors, 1 << 14):
        block = corpus[start : start + (1 << 14)].astype(np.float64)
        scores = picked @ (block / np.linalg.norm(block, axis=1, keepdims=True)).T
        together = np.concatenate([best, scores], axis=1)
        best = -np.sort(np.partition(-together, case.k - 1, axis=1)[:, : case.k], axis=1)
    return write_rows(path, best)


def _product_work(case: LinearCase, session: Run) -> Work:
    return replace(linear.work_of(case), group="Vectors", peers=False, extra=(AVX2,))


_WORKS = {
    EncodeCase: _encode_work,
    SearchCase: _search_work,
    LinearCase: _product_work,
}
