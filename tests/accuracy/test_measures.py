"""Statistics and collectors of transformer_fast.accuracy: inputs made by hand, whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transformer_fast.accuracy import differences, measures
from transformer_fast.accuracy.measures import Cosines


def test_cosines():
    a = np.array([[1, 0], [1, 1], [2, -1], [0, 0], [0, 0]], np.float32)
    b = np.array([[5, 0], [1, 0], [-4, 2], [0, 0], [1, 2]], np.float32)
    np.testing.assert_allclose(measures.cosines(a, b), [1, math.sqrt(0.5), -1, 1, 0], atol=1e-15)


def test_equal_vectors_have_cosine_1_to_the_last_bit():
    a = np.random.default_rng(0).standard_normal((1000, 37), np.float32)
    assert (measures.cosines(a, a) == 1).all()
    assert measures.rank_correlation(a[:, 0], a[:, 0]) == 1


def test_cosine_of_nan_is_nan():
    """A model that gives NaN must not look fine."""
    found = measures.cosines(np.array([[np.nan, 1], [1, 1]]), np.ones((2, 2)))
    assert np.isnan(found[0]) and np.isnan(measures.summary(found).mean) and np.isnan(measures.summary(found).least)


def test_summary():
    values = np.append(np.linspace(0.5, 1, 100), 0.1)
    assert measures.summary(values) == Cosines(values.mean(), 0.5, 0.1)
    assert measures.summary(np.array([0.25])) == Cosines(0.25, 0.25, 0.25)


def test_pair_similarities():
    vectors = np.random.default_rng(1).standard_normal((6, 4))
    vectors[2] = 0
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    expected = [0 if 2 in (i, j) else measures.cosines(vectors[[i]], vectors[[j]])[0] for i, j in pairs]
    np.testing.assert_allclose(measures.pair_similarities(vectors), expected, atol=1e-15)
    assert measures.pair_similarities(vectors[:1]).shape == (0,)


@pytest.mark.parametrize("values", [1000, 7])
def test_rank_correlation_is_scipys(values):
    """Also where most numbers are there several times."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, values, (2, 200))
    b = a + b // 2
    assert measures.rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert measures.rank_correlation(a, -a) == -1


def test_rank_correlation_that_is_not_defined():
    assert measures.rank_correlation(np.ones(5), np.arange(5)) is None
    assert measures.rank_correlation(np.ones(1), np.ones(1)) is None
    assert measures.rank_correlation(np.empty(0), np.empty(0)) is None


def test_embeddings():
    collector = differences.EmbeddingCollector()
    a = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    b = np.array([[1, 0], [0, 2], [1, 0]], np.float32)
    collector.add(["a", "b"], a[:2], b[:2])
    collector.add(["c"], a[2:], b[2:])
    found = collector.result()
    assert found.cosine.least == pytest.approx(math.sqrt(0.5)) and found.cosine.mean == pytest.approx(
        (2 + math.sqrt(0.5)) / 3
    )
    # Similarities of pairs: 0, .71, .71 and 0, 1, 0; ranks 0, 1.5, 1.5 and .5, 2, .5.
    assert found.rank_correlation == pytest.approx(0.5)


def test_pairs_are_those_of_the_first_texts(monkeypatch):
    monkeypatch.setattr(differences, "_MOST_PAIRED", 3)
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 10, 5)).astype(np.float32)
    collector = differences.EmbeddingCollector()
    for first in range(0, 10, 2):
        collector.add(["text"] * 2, a[first : first + 2], b[first : first + 2])
    expected = measures.rank_correlation(*(measures.pair_similarities(x[:3]) for x in (a, b)))
    assert collector.result().rank_correlation == expected
    assert collector.result().cosine == measures.summary(measures.cosines(a, b))


def test_labels():
    collector = differences.LabelCollector(["no", "yes"], {7: "##z"}.get)
    a = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], np.float32)
    b = np.array([[0.75, 0.25], [0.25, 0.75], [0.75, 0.25]], np.float32)
    whole = [None] * 2
    collector.add(["x", "y"], differences.Labelled(a[:2], [0, 1], whole), differences.Labelled(b[:2], [0, 1], whole))
    collector.add(["z"], differences.Labelled(a[2:], [0], [7]), differences.Labelled(b[2:], [0], [7]))
    found = collector.result()
    assert (found.labelled, found.changed) == (3, pytest.approx(2 / 3))
    assert (found.largest_change, found.mean_change) == (0.5, 0.25)
    assert found.examples == (
        differences.ChangedLabel("y", None, ("no", "yes"), (0.5, 0.75)),
        differences.ChangedLabel("z", "##z", ("yes", "no"), (0.75, 0.75)),
    )


def test_few_changed_labels_are_told():
    collector = differences.LabelCollector(["no", "yes"])
    a, tokens = np.tile(np.array([[0.9, 0.1]], np.float32), (8, 1)), [None] * 8
    for _ in range(2):
        collector.add(
            list("abcdefgh"),
            differences.Labelled(a, range(8), tokens),
            differences.Labelled(a[:, ::-1], range(8), tokens),
        )
    found = collector.result()
    assert found.changed == 1 and [example.text for example in found.examples] == [*"abcdefgh", *"ab"]


def test_next_tokens():
    collector = differences.NextTokenCollector()
    half, quarter = math.log(0.5), math.log(0.25)

    def tokens(best, logarithms):
        return differences.NextTokens(np.array(best), np.array(logarithms))

    collector.add(["a"], tokens([1, 2, 3], [half, half]), tokens([1, 2, 4], [quarter, half]))
    collector.add(["b"], tokens([7], [quarter]), tokens([7], [half]))
    found = collector.result()
    assert (found.places, found.agreement, found.predicted) == (4, 0.75, 3)
    assert found.mean_change == pytest.approx(0) and found.mean_absolute_change == pytest.approx(2 / 3 * -half)
    assert found.reference_perplexity == pytest.approx(2 ** (4 / 3)) == found.compared_perplexity


def test_perplexity_without_bound():
    collector = differences.NextTokenCollector()
    one = differences.NextTokens(np.array([1]), np.array([-1e6]))
    collector.add(["a"], one, one)
    assert collector.result().compared_perplexity == math.inf


def test_masked_words():
    collector = differences.MaskedWordCollector()
    hidden = np.array([[1, 0], [0, 1]], np.float32)
    collector.add(
        ["a"],
        differences.MaskedWords(hidden, np.array([3, 4])),
        differences.MaskedWords(hidden[::-1] + hidden, np.array([3, 5])),
    )
    found = collector.result()
    assert (found.places, found.agreement) == (2, 0.5)
    assert found.cosine.mean == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("collector", [differences.NextTokenCollector, differences.MaskedWordCollector])
def test_texts_without_tokens(collector):
    empty = np.empty((0, 2), np.float32)
    results = {
        differences.NextTokenCollector: differences.NextTokens(np.empty(0, np.int64), np.empty(0)),
        differences.MaskedWordCollector: differences.MaskedWords(empty, np.empty(0, np.int64)),
    }
    made = collector()
    made.add([""], results[collector], results[collector])
    with pytest.raises(ValueError, match="texts have .* needed: at least one"):
        made.result()
