"""What the recipes of tokenizer classes share: the named tokens while a tokenizer is built, and post-processors.

Called by classes.py and unigram.py, which have the recipes, and by build.py and tokenizer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformer_fast.files.errors import optional_import
from transformer_fast.files.tokenizer.settings import text_of

# What SentencePiece writes for a space.
SPACE = "\u2581"


class Tokens:
    """The named tokens of a tokenizer while it is built, and their numbers once they are added.

    texts: name -> text or None.
    """

    def __init__(self, named: Mapping[str, Any]) -> None:
        self.named = dict(named)
        self.texts = {n: None if token is None else text_of(token) for n, token in named.items()}

    def __getitem__(self, name: str) -> str:
        """The text of a token; "None" where there is none, which is what transformers' classes ask for then."""
        return str(self.texts.get(name))

    def number(self, tokenizer: Any, token: str) -> int:
        """The number of a token, or of the unknown token."""
        found = tokenizer.token_to_id(token)
        return tokenizer.token_to_id(self["unk_token"]) if found is None else found


def set_template(
    tokenizer: Any,
    tokens: Tokens,
    single: str,
    pair: str,
    special: tuple[str, ...],
    numbers: Mapping[str, int] | None = None,
) -> None:
    """numbers: of special tokens that the vocabulary is not asked for."""
    known = dict(numbers or {})
    found = [(token, known[token] if token in known else tokens.number(tokenizer, token)) for token in special]
    template = optional_import("tokenizers").processors.TemplateProcessing
    tokenizer.post_processor = template(single=single, pair=pair, special_tokens=list(dict(found).items()))


def set_roberta(tokenizer: Any, tokens: Tokens, last: str, first: str, trim: bool, prefix: bool) -> None:
    ends = [(tokens[name], tokens.number(tokenizer, tokens[name])) for name in (last, first)]
    tokenizer.post_processor = optional_import("tokenizers").processors.RobertaProcessing(*ends, trim, prefix)
