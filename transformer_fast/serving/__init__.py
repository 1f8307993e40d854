"""Engines that many callers share: requests join and leave running batches, and get the results they would get alone.

`transformer_fast.server` puts HTTP before them; programs use them without it. An engine has a thread of its own and
one copy of the weights; its methods may be called from many threads and return at once. `Busy` says that it holds as
much as it may, `Stopping` that it ends. `Turns` lets several engines of a process compute one after the other.
"""

from transformer_fast.serving.answers import AnswerParser, Delta
from transformer_fast.serving.chat import ChatFormat, Prompt
from transformer_fast.serving.errors import Busy, Stopping
from transformer_fast.serving.tool_calls import ToolCall
from transformer_fast.serving.turns import Turns

__all__ = ["AnswerParser", "Busy", "ChatFormat", "Delta", "Prompt", "Stopping", "ToolCall", "Turns"]
