"""`text_attention`: who attends whom in one text, or two, with the tokens as they stand in the text.

Users, `transformer-fast attend` and the server's page call it; `visualize.explore` shows what it returns. A kind of
model whose inputs are others than those below is a case in `text_attention`.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

Maps = dict[str, tuple[Any, ...]]


def text_attention(
    model: Any,
    tokenizer: Any,
    text: str,
    text_pair: str | None = None,
    *,
    max_tokens: int | None = None,
    truncate: bool = False,
) -> Maps:
    """Attention weights of each layer for one text: `visualize.explore` takes the result as it is.

    Encoders and decoders give "self-attention". An encoder-decoder gives "encoder", "decoder" and "cross-attention",
    where text_pair is what the decoder reads, after the token that its texts begin with.

    Args:
        model: of `models` (`load_model`), or the `model` of a pipeline.
        tokenizer: its tokenizer (`load_tokenizer`), or the `tokenizer` of the pipeline.
        text_pair: an encoder reads it with `text`, as its tokenizer joins two texts.
        max_tokens: a text of more tokens is refused.
        truncate: take what a tokenizer that cuts off leaves of a text; it is refused otherwise.

    Returns:
        name -> (attentions: (H, Lq, Lk) of each layer, Lq tokens), of cross-attention with the Lk tokens of the keys.

    Raises:
        ValueError: text is empty or too long, or the model takes a pair and got none, or the other way round.

    Example:
        >>> from transformer_fast import load_model, visualize
        >>> from transformer_fast.tokenization import load_tokenizer
        >>> name = "sentence-transformers/all-MiniLM-L6-v2"
        >>> maps = text_attention(load_model(name), load_tokenizer(name), "it rains")      # doctest: +SKIP
        >>> visualize.explore(maps).save("attention.html")                                 # doctest: +SKIP
    """
    pairs = takes_pair(model)
    if pairs == "required":
        return _encoder_decoder(model, tokenizer, text, text_pair, max_tokens, truncate)
    if text_pair is not None and pairs == "none":
        raise ValueError(f"text_pair is given, but a {type(model).__name__} reads one text; needed: text alone")
    encoding = tokenizer.encode(text, text_pair)
    tokens = _checked_tokens("text", encoding, [text, text_pair], max_tokens, truncate)
    types = {}
    if text_pair is not None and getattr(model.config, "type_vocab_size", 0) > 1:
        types["token_type_ids"] = np.array([encoding.type_ids])
    found = model(np.array([encoding.ids]), output_attentions=True, **types)
    return {"self-attention": (_first_row(found.attentions), tokens)}


def takes_pair(model: Any) -> str:
    """Does `text_attention` of the model take a second text? "none", "optional" or "required"."""
    accepted = inspect.signature(type(model).forward).parameters
    if "decoder_input_ids" in accepted:
        return "required"
    return "optional" if "token_type_ids" in accepted else "none"


def _encoder_decoder(
    model: Any, tokenizer: Any, text: str, text_pair: str | None, max_tokens: int | None, truncate: bool
) -> Maps:
    if text_pair is None:
        raise ValueError(f"text_pair is None; needed: the text that the decoder of a {type(model).__name__} reads")
    source, target = tokenizer.encode(text), tokenizer.encode(text_pair)
    start = model.config.decoder_start_token_id
    keys = _checked_tokens("text", source, [text], max_tokens, truncate)
    queries = _checked_tokens("text_pair", target, [text_pair], max_tokens, truncate)
    # Each token is predicted from those before it: the last one is read by nobody.
    ids = [start, *target.ids[:-1]]
    queries = [tokenizer.decode([start]) or "<start>", *queries[:-1]]
    found = model(np.array([source.ids]), decoder_input_ids=np.array([ids]), output_attentions=True)
    return {
        "encoder": (_first_row(found.encoder_attentions), keys),
        "decoder": (_first_row(found.decoder_attentions), queries),
        "cross-attention": (_first_row(found.cross_attentions), queries, keys),
    }


def _first_row(attentions: Any) -> tuple[np.ndarray, ...]:
    if not attentions:
        raise ValueError("the model has no attention weights to give")
    return tuple(layer[0] for layer in attentions)


def _checked_tokens(
    name: str, encoding: Any, texts: list[str | None], max_tokens: int | None, truncate: bool
) -> list[str]:
    """The tokens as they stand in the texts: vocabularies spell them in ways of their own ("##ing", "Ġthe")."""
    count = len(encoding.ids)
    if count == 0:
        raise ValueError(f"{name} has no tokens; needed: at least one")
    if encoding.overflowing and not truncate:
        raise ValueError(f"{name} has more than {count} tokens, the most that the model takes; needed: a shorter one")
    if max_tokens is not None and count > max_tokens:
        raise ValueError(f"{name} has {count} tokens; needed: at most {max_tokens}")
    return [
        token if of is None else texts[of][first:last].strip() or token
        for token, of, (first, last) in zip(encoding.tokens, encoding.sequence_ids, encoding.offsets, strict=True)
    ]
