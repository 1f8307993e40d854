"""Text that grows id by id: stop strings in any cut, special tokens, ids that are left out of what is decoded."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast.generation.streaming import GrowingText
from transformer_fast.serving.answer_text import AnswerText, StopStrings

NAMES = ["a", "b", "E", "N", "D", "<end>", " ", "\n"]


class Tokens:
    """A token a name, of which <end> is special."""

    def encode(self, text, add_special_tokens=True):
        ids = [NAMES.index("<end>")] if "<end>" in text else []
        return type("Encoding", (), {"ids": ids + [NAMES.index(c) for c in text.replace("<end>", "")]})

    def decode(self, ids, skip_special_tokens=False):
        return "".join(NAMES[id] for id in ids if not skip_special_tokens or NAMES[id] != "<end>")


@pytest.mark.parametrize("seed", range(20))
def test_stop_strings_are_found_in_any_cut(seed):
    """Fed in random parts, the text comes out up to the first stop string, and nothing of it before."""
    rng = np.random.default_rng(seed)
    strings = ["ab", "bba", "aab"][: 1 + seed % 3]
    text = "".join(rng.choice(list("abc"), 30))
    ends = [text.find(string) for string in strings if string in text]
    for include in (False, True):
        stop, found, begin = StopStrings(strings, include), "", 0
        while begin < len(text) and not stop.found:
            n = int(rng.integers(1, 4))
            found += stop.feed(text[begin : begin + n])
            begin += n
        expected = text
        if ends:
            first = next(string for string in strings if text.startswith(string, min(ends)))
            expected = text[: min(ends) + (len(first) if include else 0)]
        assert found + stop.rest() == expected and stop.found == bool(ends)


def test_a_stop_string_of_a_special_token_that_is_skipped():
    def fed(ids, **options):
        text = AnswerText(Tokens(), [0], ["<end>\n", "END"], False, **options)
        parts = [text.add(id) for id in ids]
        return parts, text.stopped, text.rest()

    a, end, line, E, N = (NAMES.index(name) for name in ("a", "<end>", "\n", "E", "N"))
    assert fed([a, end, line], skip_special_tokens=True) == (["a", "", ""], True, "")
    assert fed([a, end, a, E], skip_special_tokens=True) == (["a", "", "a", ""], False, "E")
    assert fed([a, end, a], skip_special_tokens=False) == (["a", "", "<end>a"], False, "")
    assert fed([a, E, N, NAMES.index("D")], skip_special_tokens=True) == (["a", "", "", ""], True, "")


class Words:
    """As SentencePiece: words begin with a space, which the first of a text loses; ids above 9 are bytes."""

    def decode(self, ids, skip_special_tokens=False):
        text = b"".join(bytes([id - 10]) if id > 9 else b" w%d" % id for id in ids)
        return text.decode("utf-8", errors="replace").removeprefix(" ")


@pytest.mark.parametrize("seed", range(5))
def test_text_of_ids_that_are_left_out_later(seed):
    """Words and characters of several bytes, 200 ids after a prompt: together the text of all ids."""
    rng, ids = np.random.default_rng(seed), []
    while len(ids) < 200:
        character = rng.choice(["é", "日", "🙂"]).encode()
        ids += [int(rng.integers(10))] if rng.random() < 0.6 else [byte + 10 for byte in character]
    prompt, calls = [3, *(byte + 10 for byte in "🙂🙂".encode())], []
    words = Words()
    words.decode = lambda ids, skip_special_tokens: calls.append(len(ids)) or Words.decode(words, ids)
    text = GrowingText(words, prompt)
    parts = [text.add(id) for id in ids]
    assert "".join(parts) + text.rest() == Words().decode([*prompt, *ids])[len(Words().decode(prompt)) :]
    assert not any("\ufffd" in part for part in parts) and max(calls) < 40
