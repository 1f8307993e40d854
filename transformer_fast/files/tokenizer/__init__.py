"""A model's tokens: what AutoTokenizer of transformers makes of the same folder, without transformers.

`tokenizer` has `Tokenizer`, which pipelines and generation use; `settings` reads the small files beside a vocabulary,
`vocabulary` the vocabulary, `choice` finds the class of transformers that a folder asks for, `classes` knows how each
sets up a tokenizer, `build` puts it together, `marian` runs the one that is no `tokenizers.Tokenizer`, `plain` takes
tokenizer.json alone, `chat` has chat templates, and `token_bytes` says which bytes a token stands for. A further class
is an entry in `classes.CLASSES`.
"""

from transformer_fast.files.tokenizer.plain import PlainTokenizer
from transformer_fast.files.tokenizer.settings import typed
from transformer_fast.files.tokenizer.tokenizer import Tokenizer, load_tokenizer, packed, read_tokenizer

__all__ = ["PlainTokenizer", "Tokenizer", "load_tokenizer", "packed", "read_tokenizer", "typed"]
