"""Engines that many callers share: requests join and leave running batches, and get the results they would get alone.

`transformer_fast.server` puts HTTP before them; programs use them without it. An engine has a thread of its own and
one copy of the weights; its methods may be called from many threads and return at once. `Busy` says that it holds as
much as it may, `Stopping` that it ends. `Turns` lets several engines of a process compute one after the other.

    texts (TextEngine) -> text_requests, fair_queue        embeddings, scores of pairs, labels
    language (LanguageEngine) -> language_loop             its thread
        rows, prompts                                      the past of rows and prompts
        choice, answer_text                                ids and text
        results                                            what callers get
    chat (ChatFormat) -> tool_calls, answers               messages to prompts, answers to messages
"""

from transformer_fast.serving.answers import AnswerParser, Delta
from transformer_fast.serving.chat import ChatFormat, Prompt
from transformer_fast.serving.errors import Busy, Stopping
from transformer_fast.serving.language import LanguageEngine
from transformer_fast.serving.results import Completion, Generation, Piece, TokenLogprobs
from transformer_fast.serving.texts import Classes, Embeddings, Scores, TextEngine
from transformer_fast.serving.tool_calls import ToolCall
from transformer_fast.serving.turns import Turns

__all__ = [
    "AnswerParser",
    "Busy",
    "ChatFormat",
    "Classes",
    "Completion",
    "Delta",
    "Embeddings",
    "Generation",
    "LanguageEngine",
    "Piece",
    "Prompt",
    "Scores",
    "Stopping",
    "TextEngine",
    "TokenLogprobs",
    "ToolCall",
    "Turns",
]
