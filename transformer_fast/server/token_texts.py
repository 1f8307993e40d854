"""Texts and bytes of tokens, as log probabilities name them; `chat` and `completions` call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformer_fast.files.errors import CheckpointError
from transformer_fast.serving import TokenLogprobs


class TokenTexts:
    """The text of each token of a vocabulary: that of its bytes where a tokenizer has such, else what it decodes to."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        try:
            self._bytes, _ = tokenizer.token_bytes()
        except CheckpointError:
            self._bytes = []

    def data(self, token: int) -> bytes:
        """Its bytes; of a special token those of its name."""
        own = self._bytes[token] if token < len(self._bytes) else b""
        return own or (self._tokenizer.decode([token]) or str(token)).encode("utf-8", "replace")

    def text(self, token: int) -> str:
        """What of the bytes is no character by itself is U+FFFD."""
        return self.data(token).decode("utf-8", "replace")

    def chat(self, found: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        """As the answers of chats have them."""
        return [
            {
                **self._entry(one.id, one.logprob),
                "top_logprobs": [self._entry(token, logprob) for token, logprob in one.top],
            }
            for one in found
        ]

    def completion(self, found: Sequence[TokenLogprobs], offset: int) -> tuple[dict[str, Any], int]:
        """As those of completions have them, and the offset of what follows. offset: in characters of the answer."""
        tokens = [self.text(one.id) for one in found]
        offsets = []
        for text in tokens:
            offsets.append(offset)
            offset += len(text)
        content = {
            "tokens": tokens,
            "token_logprobs": [finite(one.logprob) for one in found],
            "top_logprobs": [{self.text(token): finite(logprob) for token, logprob in one.top} for one in found],
            "text_offset": offsets,
        }
        return content, offset

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        data = self.data(token)
        return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(data)}


def finite(logprob: float) -> float:
    """JSON has no infinity: OpenAI's number for what is very unlikely."""
    return max(logprob, -9999.0)
