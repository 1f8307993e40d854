"""The marker `rotate` (conftest.py) leaves no pair of a case's value and an ISA or number of threads untested."""

from __future__ import annotations

import pytest

LETTERS, DIGITS = "abcdefghijkl", range(9)


@pytest.mark.rotate("isa", "threads")
@pytest.mark.parametrize("digit", DIGITS)
@pytest.mark.parametrize(("letter", "capital"), [(letter, letter.upper()) for letter in LETTERS])
def test_example(letter, capital, digit, isa, threads):
    assert capital == letter.upper()


def test_every_pair_occurs(request):
    from transformer_fast import functional

    found = [item.callspec.params for item in request.session.items if getattr(item, "function", None) is test_example]
    if len(found) < len(LETTERS) * len(DIGITS):
        pytest.skip("the examples were not collected")
    assert len(found) == len(LETTERS) * len(DIGITS)

    def pairs(one, other):
        return {(params[one], params[other]) for params in found}

    levels = len({params["isa"] for params in found})
    assert levels >= 2 or len(functional.available_isas()) == 1
    assert len(pairs("letter", "digit")) == len(found)
    for name, values in (("letter", LETTERS), ("digit", DIGITS)):
        assert len(pairs(name, "isa")) == len(values) * levels
        assert len(pairs(name, "threads")) == len(values) * 2
    assert len(pairs("isa", "threads")) == levels * 2
