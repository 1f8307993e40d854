"""nn/labelling.py: scores of tokens, of words, and spans."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import normal

from transformer_fast import nn
from transformer_fast.nn import Span, aggregate_words, decode_bio


class Given(nn.Module):
    """An encoder that gives what it was made with."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, ids, *, scale=1):
        return self.result


@pytest.mark.parametrize("kind", ["array", "tuple", "output"])
def test_classifier_takes_states_in_any_form(kind):
    states = normal(2, 5, 8)
    result = {"array": states, "tuple": (states, "state"), "output": SimpleNamespace(last_hidden_state=states)}[kind]
    tagger = nn.TokenClassifier(Given(result), 8, 3)
    assert np.array_equal(tagger(np.zeros((2, 5), int), scale=2), tagger.classifier(states))
    assert list(tagger.state_dict()) == ["classifier.weight", "classifier.bias"]


def test_classifier_on_a_recurrent_encoder():
    tagger = nn.TokenClassifier(nn.LSTM(4, 6, bidirectional=True, batch_first=True), 12, 3)
    assert tagger(normal(2, 5, 4)).shape == (2, 5, 3)


SCORES = np.array([[9, 9], [1, 2], [7, 0], [3, 3], [4, 8], [4, 1], [9, 9]], np.float32)
WORDS = [None, 0, 0, 2, 3, 3, None]
AGGREGATED = {
    "first": [[1, 2], [3, 3], [4, 8]],
    "mean": [[4, 1], [3, 3], [4, 4.5]],
    "max": [[7, 0], [3, 3], [4, 8]],
}


@pytest.mark.parametrize("strategy", AGGREGATED)
def test_words_from_tokens(strategy):
    words, scores = aggregate_words(SCORES, WORDS, strategy)
    assert words.tolist() == [0, 2, 3]
    assert np.array_equal(scores, AGGREGATED[strategy]) and scores.dtype == np.float32


def test_max_takes_the_first_of_equals_and_no_words_give_no_rows():
    _, scores = aggregate_words(np.array([[1, 5], [5, 0]]), [0, 0], "max")
    assert scores.tolist() == [[1, 5]]
    words, scores = aggregate_words(SCORES[:2], [None, None])
    assert words.shape == (0,) and scores.shape == (0, 2)


def test_word_ids_that_do_not_fit():
    with pytest.raises(ValueError, match="strategy is 'last'"):
        aggregate_words(SCORES, WORDS, "last")
    with pytest.raises(ValueError, match=r"scores has shape \(7, 2\); needed: \(6, N\)"):
        aggregate_words(SCORES, WORDS[:-1])
    with pytest.raises(ValueError, match="word 1 at 0 and again at 2"):
        aggregate_words(SCORES[:3], [1, 2, 1])


def test_spans():
    labels = ["O", "B-PER", "I-PER", "B-PER", "O", "B-LOC", "I-LOC", "I-LOC"]
    assert decode_bio(labels) == [(1, 3, "PER"), (3, 4, "PER"), (5, 8, "LOC")]
    assert decode_bio(["O", "O"]) == decode_bio([]) == []
    assert decode_bio(["B-a-b", "I-a-b"]) == [Span(0, 2, "a-b")]


@pytest.mark.parametrize(
    ("labels", "position", "repaired"),
    [
        (["I-PER", "I-PER"], 0, [(0, 2, "PER")]),
        (["B-PER", "I-LOC", "I-LOC"], 1, [(0, 1, "PER"), (1, 3, "LOC")]),
        (["B-PER", "O", "I-PER"], 2, [(0, 1, "PER"), (2, 3, "PER")]),
    ],
)
def test_malformed_sequences(labels, position, repaired):
    with pytest.raises(ValueError, match=rf"labels\[{position}\] is '{labels[position]}'"):
        decode_bio(labels)
    assert decode_bio(labels, strict=False) == repaired


@pytest.mark.parametrize("label", ["", "B", "B-", "S-PER", "PER", "o"])
def test_unknown_labels_are_refused_either_way(label):
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"labels\[1\] is"):
            decode_bio(["O", label], strict)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from("XY"))))
def test_spans_survive_being_written_as_labels(parts):
    labels, spans = [], []
    for gap, length, kind in parts:
        labels += ["O"] * gap
        spans.append((len(labels), len(labels) + length, kind))
        labels += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
    assert decode_bio(labels) == decode_bio(labels, strict=False) == spans
