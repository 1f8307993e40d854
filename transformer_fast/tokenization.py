"""The public names for a model's tokens, which users import; the code is in `files.tokenizer`."""

from transformer_fast.files.tokenizer import Tokenizer, load_tokenizer, read_tokenizer

__all__ = ["Tokenizer", "load_tokenizer", "read_tokenizer"]
