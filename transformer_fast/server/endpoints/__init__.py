"""The endpoints, a file for each interface: the models of its bodies, and functions from a `Call` to a response.

`app` makes routes of `ALL`, `openapi` its description. A new endpoint is an `Endpoint` in the `ENDPOINTS` of a file
here.
"""

from __future__ import annotations

from transformer_fast.server.calls import Endpoint
from transformer_fast.server.endpoints import chat, classify, completions, embeddings, models, rerank, status, tokens

ALL: tuple[Endpoint, ...] = (
    *embeddings.ENDPOINTS,
    *rerank.ENDPOINTS,
    *classify.ENDPOINTS,
    *chat.ENDPOINTS,
    *completions.ENDPOINTS,
    *models.ENDPOINTS,
    *tokens.ENDPOINTS,
    *status.ENDPOINTS,
)
