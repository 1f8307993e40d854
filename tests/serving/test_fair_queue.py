"""The order in which texts of several requests run: by turns, weighed by tokens, and one group a batch."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from transformer_fast.serving.fair_queue import FairQueue


@dataclass(eq=False)
class Request:
    name: str
    lengths: list[int]
    group: str = ""
    ended: bool = False
    begun: int = 0


def taken(queue: FairQueue[Request], tokens: int) -> list[str]:
    return [f"{request.name}{i}" for request, i in queue.take(tokens)]


def queue_of(*requests: Request, quantum: int = 1) -> FairQueue[Request]:
    queue: FairQueue[Request] = FairQueue(quantum)
    for request in requests:
        queue.add(request)
    return queue


def test_a_batch_has_as_many_tokens_as_are_allowed_or_one_text():
    queue = queue_of(Request("a", [4, 4, 4, 9, 1]), quantum=4)
    assert [taken(queue, 8) for _ in range(4)] == [["a0", "a1"], ["a2"], ["a3"], ["a4"]]
    assert not queue and taken(queue, 8) == []


def test_turns_are_weighed_by_tokens():
    queue = queue_of(Request("a", [4] * 4), Request("b", [1] * 8))
    assert taken(queue, 12) == ["a0", "b0", "b1", "b2", "b3", "a1"]


def test_short_requests_are_done_in_their_order():
    queue = queue_of(*(Request(name, [2] * 4) for name in "abc"), quantum=8)
    assert taken(queue, 12) == ["a0", "a1", "a2", "a3", "b0", "b1"]
    assert taken(queue, 12) == ["b2", "b3", "c0", "c1", "c2", "c3"]


@pytest.mark.parametrize("before", [0, 3, 40])
def test_a_short_request_comes_before_what_had_its_turn(before):
    queue = queue_of(Request("a", [2] * 1000), Request("b", [2] * 1000), quantum=8)
    for _ in range(before):
        queue.take(8)
    queue.add(Request("c", [2]))
    assert "c0" in [text for _ in range(3) for text in taken(queue, 8)]


def test_a_stream_of_new_requests_does_not_keep_a_long_one_from_its_share():
    queue, long = queue_of(quantum=4), Request("long", [2] * 100)
    queue.add(long)
    for number in range(100):
        queue.add(Request(f"new{number} ", [2, 2]))
        queue.take(4)
    assert long.begun >= 10  # the more of them wait, the smaller is the share of each


def test_groups_do_not_mix_and_take_turns():
    queue = queue_of(Request("a", [2] * 4, "x"), Request("b", [2] * 4, "y"), Request("c", [2] * 2, "x"), quantum=4)
    batches = [taken(queue, 4) for _ in range(5)]
    assert batches == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"], ["a2", "a3"], ["b2", "b3"]]
    assert not queue


def test_what_has_ended_is_dropped():
    requests = [Request("a", [2] * 3), Request("b", [2] * 3), Request("c", [2], "other")]
    queue = queue_of(*requests)
    assert taken(queue, 2) == ["a0"]
    requests[0].ended = requests[2].ended = True
    assert taken(queue, 100) == ["b0", "b1", "b2"]
    assert not queue
