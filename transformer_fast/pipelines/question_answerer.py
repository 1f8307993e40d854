"""`QuestionAnswerer`: finds the answer to a question in a text, and its place.

Follows the question-answering pipeline of transformers 4: a long text is read in windows that share some tokens; in
each, the spans with the highest probability of start times end are candidates, and equal answers add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.models.common.heads import ForQuestionAnswering
from transformer_fast.pipelines.texts import TextPipeline, several

_MAX_TOKENS, _SHARED_TOKENS = 384, 128  # of a window, as SQuAD's models were trained
# Of each window more spans are taken than answers are wanted: some of them become one when they are widened to words.
_SPARE_SPANS = 10


@dataclass(frozen=True)
class _Search:
    """The options of one call."""

    top_k: int
    max_answer_len: int
    impossible: bool
    to_words: bool


class QuestionAnswerer(TextPipeline):
    """Questions and texts in; answers with scores and character offsets out.

    Example:
        >>> from transformer_fast.pipelines import QuestionAnswerer
        >>> answerer = QuestionAnswerer.from_pretrained("deepset/minilm-uncased-squad2")              # doctest: +SKIP
        >>> answerer("Where does she live?", "Her name is Ada. She lives in London.")                 # doctest: +SKIP
        {'score': 0.98, 'start': 30, 'end': 36, 'answer': 'London'}
    """

    model_class = ForQuestionAnswering

    def __init__(self, model, tokenizer) -> None:
        super().__init__(model, tokenizer)
        first = tokenizer.special("cls_token")
        self._first = None if first is None else first[1]
        self._question_first = tokenizer.padding_side == "right"

    def __call__(
        self,
        question,
        context,
        *,
        top_k: int = 1,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """The answer to one question, {"score", "start", "end", "answer"}, or to each of several.

        Args:
            question, context: a string each, or lists of the same length.
            top_k: how many answers; more than 1 gives a list of at most that length, the best first. A text without
                tokens has one answer, the empty one, of score 0.
            max_answer_len: the most tokens of an answer.
            max_seq_len: the most tokens of a window, question included; by default 384, or what the model takes.
            doc_stride: how many tokens two windows share; by default 128, or half of max_seq_len.
            handle_impossible_answer: let the empty answer compete, with the probability of the first token.
            align_to_words: widen answers to whole words.

        Raises:
            TypeError: a question or a context is no string.
            ValueError: another argument is out of range, or a question leaves no place in the window.
        """
        questions, contexts = several("question", question), several("context", context)
        if isinstance(question, str) != isinstance(context, str) or len(questions) != len(contexts):
            raise ValueError(f"there are {len(questions)} questions and {len(contexts)} contexts; needed: as many")
        for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; needed: an integer >= 1")
        search = _Search(top_k, max_answer_len, handle_impossible_answer, align_to_words)
        windows = self._windows(questions, contexts, max_seq_len, doc_stride)
        flat = [window for own in windows for window in own]
        logits: list[Any] = [None] * len(flat)
        for indices, rows, cu_seqlens in self._hidden(flat):
            found = self.model.predictions(rows)
            for i, own in zip(indices, np.split(found, cu_seqlens[1:-1]), strict=True):
                logits[i] = own[:, 0], own[:, 1]
        results, rest = [], iter(logits)
        for text, own in zip(contexts, windows, strict=True):
            answers = self._answers(text, own, [next(rest) for _ in own], search)
            results.append(answers[0] if top_k == 1 else answers)
        return results[0] if isinstance(question, str) else results

    def _windows(
        self, questions: list[str], contexts: list[str], length: int | None, stride: int | None
    ) -> list[list[Any]]:
        """The encodings of each question with its text, in as many windows as it needs."""
        length = min(self.max_length, _MAX_TOKENS) if length is None else length
        if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= self.max_length:
            raise ValueError(f"max_seq_len is {length!r}; needed: an integer from 1 to {self.max_length}")
        stride = min(length // 2, _SHARED_TOKENS) if stride is None else stride
        if isinstance(stride, bool) or not isinstance(stride, int) or not 0 <= stride < length:
            raise ValueError(f"doc_stride is {stride!r}; needed: an integer from 0 to {length - 1}")
        self._check_questions(questions, length, stride)
        strategy = "only_second" if self._question_first else "only_first"
        pairs = [(q, c) if self._question_first else (c, q) for q, c in zip(questions, contexts, strict=True)]
        limit = {"max_length": length, "stride": stride, "strategy": strategy}
        encodings = self.tokenizer.encode_batch(pairs, offsets=True, **limit)
        return [[encoding, *encoding.overflowing] for encoding in encodings]

    def _check_questions(self, questions: list[str], length: int, stride: int) -> None:
        """Does each question leave place for more of the text than two windows share?"""
        tokenizer = self.tokenizer.tokenizer
        special = tokenizer.num_special_tokens_to_add(True)
        for question in questions:
            tokens = len(tokenizer.encode(question, add_special_tokens=False))
            if length - special - tokens <= stride:
                raise ValueError(
                    f"the question {question[:40]!r} has {tokens} tokens, which leaves {length - special - tokens} of "
                    f"max_seq_len={length} for the text; needed: more than doc_stride={stride}"
                )

    def _answers(self, text: str, windows: list[Any], logits: list[Any], search: _Search) -> list[dict[str, Any]]:
        """The best answers of all windows, equal ones as one."""
        answers: dict[str, dict[str, Any]] = {}
        no_answer = np.inf
        for window, (start, end) in zip(windows, logits, strict=True):
            allowed = self._allowed(window)
            start, end = _probabilities(start, allowed), _probabilities(end, allowed)
            no_answer = min(no_answer, float(start[0] * end[0]))
            start[0] = end[0] = 0  # the first token is no answer, it only takes part in the probabilities
            for first, last, score in _best_spans(start, end, allowed, search):
                place = self._place(window, first, last, search.to_words)
                found = text[slice(*place)]
                known = answers.setdefault(
                    found.lower(), {"score": 0.0, "start": place[0], "end": place[1], "answer": found}
                )
                known["score"] += score
        listed = list(answers.values())
        if search.impossible or not listed:
            score = no_answer if search.impossible else 0.0
            listed.append({"score": score, "start": 0, "end": 0, "answer": ""})
        return sorted(listed, key=lambda answer: answer["score"], reverse=True)[: search.top_k]

    def _allowed(self, window: Any) -> np.ndarray:
        """(L,): True for the text's tokens, and for the first token of all, which means "no answer"."""
        which = 1 if self._question_first else 0
        ids = np.asarray(window.ids)
        allowed = np.array([sequence == which for sequence in window.sequence_ids])
        return allowed if self._first is None else allowed | (ids == self._first)

    def _place(self, window: Any, first: int, last: int, to_words: bool) -> tuple[int, int]:
        """The characters of the text that the tokens from first to last cover."""
        which = 1 if self._question_first else 0
        if to_words:
            words = window.token_to_word(first), window.token_to_word(last)
            spans = [None if word is None else window.word_to_chars(word, which) for word in words]
            if None not in spans:
                return spans[0][0], spans[1][1]
        return window.offsets[first][0], window.offsets[last][1]


def _probabilities(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(L,) -> (L,): softmax over the allowed tokens."""
    logits = np.where(allowed, logits, np.float32(-10_000))
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


def _best_spans(
    start: np.ndarray, end: np.ndarray, allowed: np.ndarray, search: _Search
) -> list[tuple[int, int, float]]:
    """(first, last, probability) of the spans of at most max_answer_len tokens, the most probable ones."""
    count = search.top_k * 2 + _SPARE_SPANS if search.to_words else search.top_k
    products = np.tril(np.triu(np.outer(start, end)), search.max_answer_len - 1)
    order = np.argsort(-products, axis=None, kind="stable")[:count]
    spans = zip(*np.unravel_index(order, products.shape), strict=True)
    # A span without probability is none: it ends before it starts, or is too long.
    found = [(int(s), int(e), float(products[s, e])) for s, e in spans if allowed[s] and allowed[e]]
    return [span for span in found if span[2] > 0]
