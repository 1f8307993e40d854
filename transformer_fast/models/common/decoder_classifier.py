"""`DecoderClassifier`: a decoder with a head that scores labels by a text's last token.

Families of decoders derive from it, as from `decoder.CausalLM`; classifiers of texts and `CrossEncoder` run it. What
all decoders share is in `decoder`.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

import numpy as np

from transformer_fast.models.common.base import PretrainedModel, Source, under
from transformer_fast.models.common.decoder import Decoder
from transformer_fast.models.common.decoding import DecoderState
from transformer_fast.models.common.inputs import packed_ids
from transformer_fast.models.common.output import SequenceClassifierOutputWithPast
from transformer_fast.nn import Linear


class DecoderClassifier(PretrainedModel):
    """A decoder with a head that scores labels by a row's last token; a family sets `body_class` and `body_name`.

    The last token is the rightmost id that is not config.pad_token_id, as in transformers.
    """

    body_class: type[Decoder]
    body_name: str
    head_prefixes = ("score.",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        body = self.body_class(config)
        setattr(self, self.body_name, body)
        self.score = Linear(body.width, config.label_count, bias=False)

    @classmethod
    def sources(cls, config: Any, names: Collection[str]) -> dict[str, Source]:
        own = cls.body_class.sources(config, names)
        return under(cls.body_name, own) | {"score.weight": Source("score.weight")}

    @property
    def body(self) -> Decoder:
        return self._modules[self.body_name]

    def last_logits(self, input_ids: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        """Packed texts as in `Decoder.encode_packed` -> logits (B, num_labels).

        Raises:
            ValueError, TypeError, IndexError: as `Decoder.encode_packed`, or a text is empty.
        """
        ids, cu_seqlens = packed_ids(input_ids, cu_seqlens, self.config.vocab_size, empty=False)
        pad = self.config.pad_token_id
        last = np.diff(cu_seqlens) - 1
        if pad is not None:
            places = np.arange(len(ids)) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
            last = np.array([(places[a:b] * (ids[a:b] != pad)).argmax() for a, b in pairwise(cu_seqlens)], np.int64)
        return self.score(self.body.encode_packed(ids, cu_seqlens, pooled_rows=last))

    def forward(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
        past_key_values: DecoderState | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> SequenceClassifierOutputWithPast:
        """Integers (B, L) -> logits (B, num_labels); arguments and errors as in `Decoder.forward`.

        Raises:
            ValueError: B > 1 and config.pad_token_id is None.
        """
        output = self.body(
            input_ids, attention_mask, position_ids, past_key_values, use_cache, output_attentions, output_hidden_states
        )
        ids, pad = np.asarray(input_ids), self.config.pad_token_id
        if pad is None and len(ids) > 1:
            raise ValueError(f"input_ids has {len(ids)} rows and pad_token_id is None; needed: one row, or that id")
        last = np.full(len(ids), ids.shape[1] - 1)
        if pad is not None:
            last = (np.arange(ids.shape[1]) * (ids != pad)).argmax(axis=1)
        logits = self.score(output.last_hidden_state[np.arange(len(ids)), last])
        return SequenceClassifierOutputWithPast(logits, output.past_key_values, output.hidden_states, output.attentions)
