"""Models that score pairs of texts: pairs to tokens, and tokens to logits. The inner half of `CrossEncoder`.

`CrossEncoder.from_pretrained` calls `read_pair_model`, `CrossEncoder.predict` then `PairModel.tokens` and `logits`. The
model is an encoder or a decoder with a head for sequence classification, or a language model of which some tokens'
logits are the score (sentence-transformers' module LogitScore). A further kind is a case in `read_pair_model`.

Source: sentence-transformers 6, cross_encoder/model.py and cross_encoder/modules/logit_score.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer, packed, typed
from transformer_fast.models import find_class
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.models.common.decoder import CausalLM
from transformer_fast.models.common.decoder_classifier import DecoderClassifier
from transformer_fast.models.common.heads import ForMultipleChoice, ForSequenceClassification
from transformer_fast.pipelines.sentence_chats import RERANKERS, Chats, format_of
from transformer_fast.pipelines.sentence_inputs import TextTokens, read_text_settings
from transformer_fast.pipelines.sentence_settings import ModuleFiles, check_fields
from transformer_fast.pipelines.sentence_texts import with_prompt
from transformer_fast.pipelines.texts import TextPipeline

Pair = tuple[str, str]

_KINDS = (["Transformer"], ["Transformer", "LogitScore"])
# What sentence-transformers asks for where a language model's folder does not say.
_SCORE_TOKENS = ("yes", "no")


class PairModel(TextPipeline):
    """A model and its tokenizer, for pairs.

    source: of the model. limit: the most tokens of a pair, None: as many as the model takes. chats: how pairs become
    texts, None: the tokenizer puts them together. token_ids: of a language model, those that its head scores.

    Attributes:
        source; model; tokenizer; max_length: the most tokens of a pair, may be set.
        model_limit: the most tokens that the model itself takes, or None. num_labels: the number of logits of a pair.
    """

    def __init__(
        self,
        source: ModelSource,
        model: Any,
        tokenizer: Tokenizer,
        limit: int | None = None,
        chats: Chats | None = None,
        token_ids: Sequence[int] = (),
    ) -> None:
        self.source, self._chats, self._token_ids = source, chats, tuple(token_ids)
        self._decodes = isinstance(model, (CausalLM, DecoderClassifier))
        super().__init__(model, tokenizer)
        limits = [length for length in (limit, self.model_limit) if length is not None]
        self.max_length = min(limits, default=None)
        self.num_labels = 1 if token_ids else model.config.label_count

    @property
    def model_limit(self) -> int | None:
        return self._model_limit()

    def _model_limit(self) -> int | None:
        return self.model.body.max_length if self._decodes else super()._model_limit()

    def tokens(self, pairs: Sequence[Pair], prompt: str = "", truncate: bool = True) -> list[Any]:
        """The tokens of each pair with a prompt, cut off at max_length; truncate=False refuses what is longer.

        Raises:
            ValueError: a string cannot be written as UTF-8, a chat template refuses it, or a pair is too long.
        """
        most = self.max_length if truncate else None
        if self._chats is not None:
            found = [TextTokens(ids, None, cut) for ids, cut in self._chats.encode(pairs, prompt, most)]
        else:
            found = self.tokenizer.encode_batch(with_prompt(prompt, pairs), max_length=most)
        for i, one in enumerate(found):
            if self.max_length is not None and len(one) > self.max_length:
                raise ValueError(
                    f"inputs[{i}] has {len(one)} tokens; needed: at most {self.max_length} (max_seq_length), "
                    "or truncate=True"
                )
        return found

    def logits(self, tokens: Sequence[Any]) -> np.ndarray:
        """The logits (B, num_labels) of pairs; of two scored tokens the difference of theirs."""
        if not self._decodes:
            return self.model(**self._arguments(tokens)).logits
        found = self.model.last_logits(*packed([one.ids for one in tokens]))
        return found[:, :1] - found[:, 1:] if len(self._token_ids) == 2 else found


def read_pair_model(
    source: ModelSource,
    modules: Sequence[ModuleFiles] | None,
    compute_type: ComputeType,
    ignore_fields: Collection[str],
    packed_cache: str | Path | None = None,
    chat_template: str | None = None,
    score_tokens: Sequence[str] | None = None,
) -> PairModel:
    """The model of a folder; modules: of modules.json, None without one. The rest: of `CrossEncoder.from_pretrained`.

    Raises:
        CheckpointError: a file is malformed, asks for what is not supported, or holds a model of another kind.
        ValueError, TypeError: an argument does not fit.
    """
    model_source, kinds = source, [files.kind for files in modules or ()]
    if modules is not None:
        if kinds not in _KINDS:
            raise CheckpointError(
                f"{source.place('modules.json')}: the modules are {', '.join(kinds) or 'none'}; supported: Transformer "
                "alone, a model with a head for sequence classification, or with LogitScore, a language model"
            )
        model_source = modules[0].part()
    model_class = find_class(model_source)
    scores_tokens = kinds == _KINDS[1] if modules is not None else issubclass(model_class, CausalLM)
    needed = CausalLM if scores_tokens else (ForSequenceClassification, DecoderClassifier)
    if not issubclass(model_class, needed) or issubclass(model_class, ForMultipleChoice):
        raise CheckpointError(
            f"{model_source}: holds a {model_class.__name__}; CrossEncoder needs here a model "
            f"{'ForCausalLM' if scores_tokens else 'ForSequenceClassification'}"
        )
    if score_tokens is not None and (modules is not None or not scores_tokens):
        raise ValueError(
            f"score_tokens is {score_tokens!r}; needed: None, except for a language model without modules.json"
        )
    task = "text-generation" if scores_tokens else "sequence-classification"
    tokenizer, limit, chats = read_text_settings(model_source, task, modules is None, chat_template is not None)
    least = tokenizer.tokenizer.num_special_tokens_to_add(True)
    if chats is None and limit is not None and limit < least:
        raise CheckpointError(
            f"{model_source}: the maximal length of a pair is {limit} tokens; needed: at least {least}, special ones"
        )
    if chat_template is not None:
        template = _template(chat_template)
        chats = Chats(tokenizer, format_of(template) == "structured", template=template)
    if chats is not None and chats.pair_failure is not None:
        raise CheckpointError(chats.pair_failure)
    token_ids: tuple[int, ...] = ()
    if scores_tokens:
        token_ids = _read_scored(modules[1]) if modules is not None else _numbers(tokenizer, score_tokens)
        model_class = model_class.scoring(token_ids)
    model = model_class.from_checkpoint(
        Checkpoint.open(model_source),
        compute_type=compute_type,
        ignore_fields=ignore_fields,
        packed_cache=packed_cache,
        whole_texts=True,
    )
    return PairModel(model_source, model, tokenizer, limit, chats, token_ids)


def _template(chosen: str) -> str:
    """A template in Jinja, which has braces, or the one of that name."""
    if not isinstance(chosen, str) or (chosen not in RERANKERS and "{" not in chosen):
        raise ValueError(
            f"chat_template is {chosen!r:.60}; needed: a template in Jinja, or one of {', '.join(map(repr, RERANKERS))}"
        )
    return RERANKERS.get(chosen, chosen)


def _read_scored(files: ModuleFiles) -> tuple[int, ...]:
    """The tokens of the module LogitScore: one, whose logit is the score, or two, whose difference is."""
    source = files.part()
    config, place = source.object("config.json"), source.place("config.json")
    check_fields(place, config, {"true_token_id", "false_token_id", "module_input_name"})
    if typed(place, config, "module_input_name", str, "causal_logits") != "causal_logits":
        raise CheckpointError(
            f"{place}: module_input_name is {config['module_input_name']!r}; supported: 'causal_logits'"
        )
    found = [config.get(name) for name in ("true_token_id", "false_token_id")]
    if type(found[0]) is not int or not (found[1] is None or type(found[1]) is int):
        raise CheckpointError(
            f"{place}: true_token_id is {found[0]!r} and false_token_id {found[1]!r}; needed: an integer, and an "
            "integer or null"
        )
    return tuple(number for number in found if number is not None)


def _numbers(tokenizer: Tokenizer, tokens: Sequence[str] | None) -> tuple[int, ...]:
    """The numbers of score_tokens."""
    chosen = _SCORE_TOKENS if tokens is None else tokens
    if isinstance(chosen, str) or not 1 <= len(chosen) <= 2 or not all(isinstance(token, str) for token in chosen):
        raise ValueError(f"score_tokens is {chosen!r}; needed: one or two strings in a list")
    numbers = [tokenizer.tokenizer.token_to_id(token) for token in chosen]
    if None in numbers:
        token = chosen[numbers.index(None)]
        raise CheckpointError(
            f"{tokenizer.place}: the vocabulary has no token {token!r}; needed for a score, or other score_tokens"
        )
    return tuple(numbers)
