"""Engines that many callers share: requests join and leave running batches, and get the results they would get alone.

`transformer_fast.server` puts HTTP before them; programs use them without it. An engine has a thread of its own and
one copy of the weights; its methods may be called from many threads and return at once. `Busy` says that it holds as
much as it may, `Stopping` that it ends. `Turns` lets several engines of a process compute one after the other.

`language.py` has the engine of language models, `language_loop.py` its thread, `rows.py` and `prompts.py` the past of
its rows and prompts, `choice.py` and `answer_text.py` ids and text, `results.py` what callers get.
"""

from transformer_fast.serving.errors import Busy, Stopping
from transformer_fast.serving.language import LanguageEngine
from transformer_fast.serving.results import Completion, Generation, Piece, TokenLogprobs
from transformer_fast.serving.turns import Turns

__all__ = [
    "Busy",
    "Completion",
    "Generation",
    "LanguageEngine",
    "Piece",
    "Stopping",
    "TokenLogprobs",
    "Turns",
]
