"""Stand-ins for models whose scores can be written down, for tests of generation."""

from __future__ import annotations

import numpy as np

V = 9


class State:
    def __init__(self, last):
        self.last = last

    def reorder(self, index):
        self.last = self.last[index]


class Chain:
    """Scores that depend on the last token only: table (V, V). Counts its steps."""

    def __init__(self, table=None, positions=None):
        self.table = np.random.default_rng(5).standard_normal((V, V)).astype(np.float32) if table is None else table
        self.config = type("Config", (), {"max_position_embeddings": positions})
        self.steps = 0
        self.seen = {}

    def start(self, input_ids, attention_mask=None, *, capacity, bonus=0):
        self.seen = {"attention_mask": attention_mask, "capacity": capacity, "bonus": bonus}
        mask = np.ones(np.shape(input_ids), bool) if attention_mask is None else np.asarray(attention_mask) != 0
        last = np.array([row[tokens][-1] for row, tokens in zip(input_ids, mask, strict=True)])
        return self.table[last], State(last)

    def step(self, ids, state):
        assert ids.shape == state.last.shape
        state.last = ids
        self.steps += 1
        return self.table[ids]


class Speaker(Chain):
    """An encoder-decoder: the encoder's input is added up and shifts the table."""

    is_encoder_decoder = True

    def start(self, input_ids=None, attention_mask=None, *, capacity, decoder_input_ids, input_features=None):
        assert len(decoder_input_ids) == len(input_ids if input_features is None else input_features)
        result = super().start(decoder_input_ids, capacity=capacity)
        self.seen["attention_mask"] = attention_mask
        return result


def cycle():
    """After token i the likeliest is i + 1, then i + 2."""
    table = np.full((V, V), -3, np.float32)
    for i in range(V):
        table[i, (i + 1) % V], table[i, (i + 2) % V] = 2, 1
    return table
