"""`PlainTokenizer`: tokenizer.json as it stands, without the settings and special tokens that a model's class adds.

`pipelines.sentence_inputs` makes one for static embeddings, which were made with it. For models, `Tokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer.tokenizer import errors_of_texts, refusals


class PlainTokenizer:
    """The `tokenizers.Tokenizer` of tokenizer.json, `tokenizer`, which pads nothing.

    Raises:
        CheckpointError: there is no such file, it is malformed, or it has more tokens than `most_tokens`.
        ImportError: the package tokenizers is not installed.
    """

    def __init__(self, source: ModelSource, most_tokens: int) -> None:
        library = optional_import("tokenizers")
        self._made_from = source, most_tokens
        self.place = source.place("tokenizer.json")
        data = source.read("tokenizer.json")
        if data is None:
            raise CheckpointError(f"{self.place}: there is no such file")
        with refusals(self.place):
            self.tokenizer = library.Tokenizer.from_str(data.decode("utf-8"))
            self.tokenizer.no_padding()
        numbers = self.tokenizer.get_vocab(with_added_tokens=True).values()
        if max(numbers, default=-1) >= most_tokens:
            raise CheckpointError(f"{self.place}: has the token {max(numbers)}; needed: less than {most_tokens}")

    def __reduce__(self) -> tuple:
        return PlainTokenizer, self._made_from

    def __copy__(self) -> PlainTokenizer:
        return self  # nothing in it changes

    def __deepcopy__(self, memo: dict[int, Any]) -> PlainTokenizer:
        return self

    def encode_batch(self, texts: Sequence[str | tuple[str, str]]) -> list[Any]:
        """The `tokenizers.Encoding` of each text, or of each pair, without special tokens.

        Raises:
            ValueError: a text holds a character that UTF-8 cannot write.
        """
        with errors_of_texts(self.place, texts):
            return self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
