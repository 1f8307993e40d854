"""`RecurrentSeq2Seq`: a recurrent encoder, additive attention over its states, a recurrent decoder.

Source: Bahdanau, Cho, Bengio 2014, "Neural machine translation by jointly learning to align and translate",
arXiv:1409.0473, with the output layer reduced to one projection. `generation.generate` calls `start` and `step`.
"""

from __future__ import annotations

import numpy as np

from transformer_fast.nn.attention import AdditiveAttention
from transformer_fast.nn.embedding import Embedding
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module
from transformer_fast.nn.recurrent import GRU, LSTM
from transformer_fast.nn.seq2seq.source import Sources, Tokens, token_ids

_CELLS = {"gru": GRU, "lstm": LSTM}


class RecurrentSeq2Seq(Module):
    """Source ids -> states h_j of the encoder; target ids -> decoder with attention over them -> logits.

    A step i of the decoder, with its state s and the embedding y of the last target id:
    context c = sum_j a_j h_j with a = softmax_j(v . tanh(W s_top + U h_j + b)), s' = cell([y; c], s),
    logits = O [s'_top; c; y]. The decoder begins with s = tanh(B h_last + b) in each layer (bridge), where h_last holds
    the last states of the encoder's layer, of both directions if it is bidirectional; an LSTM's cells begin likewise
    with cell_bridge, without tanh.

    cell: "gru" or "lstm", for both sides. attention_size: the width of the scores' inner layer, by default hidden_size.

    Raises:
        ValueError: cell is another one, or a size is not positive.

    Example:
        >>> import numpy as np
        >>> from transformer_fast import nn
        >>> from transformer_fast.generation import generate
        >>> nn.manual_seed(0)
        >>> model = nn.RecurrentSeq2Seq(40, 50, embedding_size=8, hidden_size=16)
        >>> ids = generate(model, np.array([[5, 6, 7]]), decoder_start_token_id=1, max_new_tokens=4)
        >>> logits, attentions = model(np.array([[5, 6, 7]]), ids, output_attentions=True)
        >>> logits.shape, attentions.shape
        ((1, 5, 50), (1, 5, 3))
    """

    is_encoder_decoder = True
    config = None  # `generate` looks here for a longest target: there is none

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: str = "gru",
        bidirectional: bool = True,
        attention_size: int | None = None,
    ) -> None:
        super().__init__()
        if cell not in _CELLS:
            raise ValueError(f"cell is {cell!r}; needed: one of {', '.join(_CELLS)}")
        states = (2 if bidirectional else 1) * hidden_size
        self.cell, self.hidden_size, self.num_layers = cell, hidden_size, num_layers
        self.source_embedding = Embedding(source_vocabulary, embedding_size)
        self.target_embedding = Embedding(target_vocabulary, embedding_size)
        self.encoder = _CELLS[cell](
            embedding_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional
        )
        self.decoder = _CELLS[cell](embedding_size + states, hidden_size, num_layers, batch_first=True)
        self.bridge = Linear(states, hidden_size)
        self.cell_bridge = Linear(states, hidden_size) if cell == "lstm" else None
        self.attention = AdditiveAttention(hidden_size, states, attention_size or hidden_size)
        self.output_projection = Linear(hidden_size + states + embedding_size, target_vocabulary)

    def forward(
        self,
        input_ids: np.ndarray,
        decoder_input_ids: np.ndarray,
        attention_mask=None,
        output_attentions: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Logits (B, T, V) after each of decoder_input_ids (B, T).

        input_ids (B, S); attention_mask (B, S), 0 for padding, which may be anywhere. output_attentions adds
        the weights (B, T, S): what each step looked at, 0 where padding is.

        Raises:
            ValueError, TypeError, IndexError: shapes, types or ids do not fit.
        """
        source, ids, state = self._begin(input_ids, attention_mask, decoder_input_ids)
        steps = [self._advance(ids[:, i], state, output_attentions) for i in range(ids.shape[1])]
        logits = np.stack([logits for logits, _ in steps], axis=1)
        if not output_attentions:
            return logits
        return logits, source.in_place(np.concatenate([weights for _, weights in steps], axis=1))

    def start(
        self, input_ids: np.ndarray, attention_mask=None, *, decoder_input_ids: np.ndarray, capacity: int | None = None
    ) -> tuple[np.ndarray, _State]:
        """The encoder over input_ids (B, S), the decoder over decoder_input_ids (B, n): (logits (B, V), state).

        capacity has no effect: the state does not grow.

        Raises:
            ValueError, TypeError, IndexError: as in `forward`.
        """
        _, ids, state = self._begin(input_ids, attention_mask, decoder_input_ids)
        for i in range(ids.shape[1]):
            logits, _ = self._advance(ids[:, i], state)
        return logits, state

    def step(self, ids: np.ndarray, state: _State) -> np.ndarray:
        """ids (B,), one more token for each row -> logits (B, V)."""
        return self._advance(np.asarray(ids), state)[0]

    def _begin(self, input_ids, attention_mask, decoder_input_ids) -> tuple[Tokens, np.ndarray, _State]:
        source = Tokens(input_ids, attention_mask)
        ids = token_ids("decoder_input_ids", decoder_input_ids)
        if len(ids) != len(source.ids):
            needed = f"needed: {len(source.ids)} rows, as many as input_ids"
            raise ValueError(f"decoder_input_ids has shape {ids.shape}; {needed}")
        outputs, last = self.encoder(self.source_embedding(source.ids), lengths=source.lengths)
        h, c = last if self.cell == "lstm" else (last, None)
        h = self.bridge(self._of_layers(h), activation="tanh")
        if c is not None:
            c = self.cell_bridge(self._of_layers(c))
        return source, ids, _State(h, c, [outputs, self.attention.project_keys(outputs), source.padding])

    def _of_layers(self, last: np.ndarray) -> np.ndarray:
        """(layers * directions, B, H) -> (layers, B, directions * H)."""
        _, B, H = last.shape
        return last.reshape(self.num_layers, -1, B, H).swapaxes(1, 2).reshape(self.num_layers, B, -1)

    def _advance(self, ids: np.ndarray, state: _State, need_weights: bool = False):
        """(logits (B, V), attention weights (B, 1, n) or None)."""
        embedded = self.target_embedding(ids)
        keys, projected, padding = state.source.arrays
        query = state.source.grouped(state.h[-1][:, None])
        context, weights = self.attention(
            query, keys, key_padding_mask=padding, projected_keys=projected, need_weights=need_weights
        )
        context = context.reshape(len(ids), -1)
        x = np.concatenate([embedded, context], axis=1)[:, None]
        if self.cell == "lstm":
            output, (state.h, state.c) = self.decoder(x, (state.h, state.c))
        else:
            output, state.h = self.decoder(x, state.h)
        return self.output_projection(np.concatenate([output[:, 0], context, embedded], axis=1)), weights


class _State:
    """The decoder's h and c (layers, B, hidden_size), c for LSTM, and what it looks at."""

    def __init__(self, h: np.ndarray, c: np.ndarray | None, source: list[np.ndarray]) -> None:
        self.h, self.c = h, c
        self.source = Sources(source)

    def reorder(self, index: np.ndarray) -> None:
        """Row i becomes what row index[i] was; there may be more or fewer rows than before."""
        index = np.asarray(index)
        self.h = self.h[:, index]
        self.c = None if self.c is None else self.c[:, index]
        self.source.reorder(index)
