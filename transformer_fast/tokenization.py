"""The public names for a model's tokens, which users import; the code is in `files.tokenizer`."""

from transformer_fast.files.tokenizer import Tokenizer, read_tokenizer

__all__ = ["Tokenizer", "read_tokenizer"]
