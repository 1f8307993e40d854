"""Turns go to whoever has waited longest, and to one at a time."""

from __future__ import annotations

import threading
import time

import pytest

from transformer_fast.serving import Turns


def _waiting(turns: Turns) -> int:
    return len(turns._waiting)


def test_turns_are_taken_in_order():
    turns, order, threads = Turns(), [], []

    def take(number):
        with turns:
            order.append(number)

    with turns:
        for number in range(8):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while _waiting(turns) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_one_at_a_time():
    turns, inside, most = Turns(), [], []

    def take():
        for _ in range(200):
            with turns:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) == 800


def test_an_error_passes_the_turn_on():
    turns = Turns()
    with pytest.raises(ValueError, match="mine"), turns:
        raise ValueError("mine")
    with turns:
        pass
