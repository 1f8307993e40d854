"""What a refused request leaves behind: nothing that only the garbage collector finds, however large its body was."""

from __future__ import annotations

import gc
import time

import pytest

JSON = {"content-type": "application/json"}
TURN = {"role": "user", "content": "a"}
KING = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "king"}}}
CASES = {
    "too large": (413, "/v1/embeddings", b" " * 5_000),
    "unknown parameter": (400, "/v1/embeddings", {"input": "a", "inputs": "a"}),
    "of the engine": (400, "/v1/embeddings", {"input": "a", "dimensions": 999}),
    "of the chat template": (400, "/v1/chat/completions", {"messages": [{"role": "king", "content": "a"}]}),
    "does not fit": (400, "/v1/chat/completions", {"messages": [TURN], "max_tokens": 99_999}),
    "no schema": (400, "/v1/chat/completions", {"messages": [TURN], "response_format": KING}),
    "none": (200, "/v1/embeddings", {"input": "a"}),
}


@pytest.mark.thread_unsafe
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left(make_client, case):
    from transformer_fast.server.calls import Body, Call
    from transformer_fast.server.errors import ApiError

    status, path, body = CASES[case]
    with make_client(max_body=4_000) as client:

        def ask():
            if isinstance(body, bytes):  # in parts: without the header Content-Length
                return client.post(path, content=iter([body[:3_000], body[3_000:]]), headers=JSON)
            return client.post(path, json=body)

        ask()  # what is imported and compiled for the first one
        gc.collect()
        gc.disable()
        try:
            assert ask().status_code == status
            end = time.monotonic() + 5  # a thread that has just failed may still hold what it was given
            while left := [kept for kept in gc.get_objects() if isinstance(kept, (Call, Body, ApiError))]:
                assert time.monotonic() < end, left
                del left
                time.sleep(0.01)
        finally:
            gc.enable()
