"""`visualize.explore`: the weights that reach the page are those that came in, and no token reaches it as HTML.

How the page looks and answers is tested in a browser: tests/server/test_explorer_page.py.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re

import numpy as np
import pytest
from scipy import sparse

from transformer_fast import visualize
from transformer_fast.visualize import explorer
from transformer_fast.visualize.explorer import encoding

HOSTILE = ["</script><img src=x onerror=alert(1)>", "<!--", "\u2028", "\u202e", '"', "\ud800", "&amp;"]


def softmax(*shape: int, seed: int = 0) -> np.ndarray:
    x = np.exp(3 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
    return x / x.sum(-1, keepdims=True)


def shown(page: visualize.Explorer) -> dict:
    """The data in the page's HTML."""
    (content,) = re.findall(r'<script type="application/json" id="attention">(.*?)</script>', page.html(), re.DOTALL)
    return json.loads(content)


def decoded(entry: dict) -> np.ndarray:
    """(layers, H, Lq, Lk), as weights.js computes them."""
    shape = entry["layers"], entry["heads"], len(entry["queries"]), len(entry["keys"])
    codes = np.frombuffer(base64.b64decode(entry["codes"]), f"<u{entry['bits'] // 8}").reshape(shape)
    maxima = np.frombuffer(base64.b64decode(entry["maxima"]), "<f4").reshape(shape[:3])
    return (codes / (2 ** entry["bits"] - 1)) ** 2 * maxima[..., None]


@pytest.mark.parametrize("bits", [8, 16])
def test_weights_are_kept_to_the_bits_asked_for(bits):
    weights = softmax(2, 3, 5, 7)
    weights[0, 1, 2] = 0
    (entry,) = shown(visualize.explore(weights, list("abcde"), list("ABCDEFG"), bits=bits))["maps"]
    assert entry["bits"] == bits
    error = np.abs(decoded(entry) - weights) / np.maximum(weights.max(-1, keepdims=True), 1e-30)
    assert error.max() <= 1.01 / (2**bits - 1)
    assert not decoded(entry)[0, 1, 2].any()


def test_number_of_bits_follows_from_the_number_of_weights(monkeypatch):
    monkeypatch.setattr(encoding, "_MOST_IN_16_BITS", 32)
    assert visualize.explore(softmax(2, 4, 4)).data["maps"][0]["bits"] == 16
    assert visualize.explore(softmax(3, 4, 4)).data["maps"][0]["bits"] == 8


@pytest.mark.parametrize(
    ("attentions", "layers", "heads"),
    [
        (softmax(4, 4), 1, 1),
        (softmax(4, 4).tolist(), 1, 1),
        (sparse.csr_array(softmax(4, 4)), 1, 1),
        (softmax(3, 4, 4), 1, 3),
        (list(softmax(3, 4, 4)), 1, 3),
        (softmax(2, 3, 4, 4), 2, 3),
        (tuple(softmax(2, 3, 4, 4)), 2, 3),
        (tuple(softmax(2, 1, 3, 4, 4)), 2, 3),
    ],
    ids=["one", "lists", "sparse", "layer", "list of heads", "layers", "tuple", "batch of one"],
)
def test_forms_of_weights(attentions, layers, heads):
    entry = visualize.explore(attentions, list("abcd")).data["maps"][0]
    assert (entry["layers"], entry["heads"], entry["self_attention"]) == (layers, heads, True)
    first = np.asarray(attentions.toarray() if sparse.issparse(attentions) else attentions, np.float32).reshape(
        -1, 4, 4
    )
    np.testing.assert_allclose(decoded(entry).reshape(-1, 4, 4), first, atol=1e-4)


def test_kinds_of_attention_and_special_tokens():
    maps = {"encoder": (softmax(2, 3, 3), ["<s>", "a", "</s>"]), "cross": (softmax(2, 2, 3), ["b", "c"], list("xyz"))}
    entries = visualize.explore(maps).data["maps"]
    assert [entry["name"] for entry in entries] == ["encoder", "cross"]
    assert [entry["self_attention"] for entry in entries] == [True, False]
    assert [(entry["special_queries"], entry["special_keys"]) for entry in entries] == [([0, 2], [0, 2]), ([], [])]
    named = visualize.explore(maps, special_tokens=["b"]).data["maps"]
    assert [entry["special_queries"] for entry in named] == [[], [0]]
    assert "2 x" not in repr(visualize.explore(softmax(3, 3))) and "1 x 1 heads of 3 x 3" in repr(
        visualize.explore(softmax(3, 3))
    )


def test_tokens_are_inert():
    page = visualize.explore(softmax(7, 7), HOSTILE, title=HOSTILE[0])
    text = page.html()
    text.encode("utf-8")
    assert shown(page)["maps"][0]["queries"] == [*HOSTILE[:2], r"\u2028", r"\u202e", '"', r"\ud800", "&amp;"]
    tags = {
        tag.lower()
        for tag in re.findall(r"<\s*([a-zA-Z!/]+)", re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S))
    }
    assert "img" not in tags and "script" not in tags
    assert "<h1>&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;</h1>" in text
    frame = page._repr_html_()
    assert frame.count("<") == 2 and 'sandbox="allow-scripts"' in frame
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == text


def test_policy_lets_the_scripts_of_the_file_run_and_nothing_else():
    text = visualize.explore(softmax(3, 3)).html()
    policy = dict(part.split(" ", 1) for part in re.search(r'Policy" content="([^"]+)"', text)[1].split("; "))
    for name, pattern in (("style-src", r"<style>(.*?)</style>"), ("script-src", r"<script>(.*?)</script>")):
        (content,) = re.findall(pattern, text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[name] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert not re.search(r"https?:", text), "another host"
    for name in explorer.SCRIPTS:
        script = explorer.asset(name)
        assert "</script" not in script and "<!--" not in script and "innerHTML" not in script


def test_saved_file_is_the_html(tmp_path):
    page = visualize.explore(softmax(2, 2), ["größer", "😀"], title="ä")
    page.save(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == page.html().encode("utf-8")


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: visualize.explore([]), ["empty"]),
        (lambda: visualize.explore({}), ["attentions is empty"]),
        (lambda: visualize.explore([[-0.1, 1]], ["a"]), ["negative"]),
        (lambda: visualize.explore([[np.inf]]), ["NaN or infinity"]),
        (lambda: visualize.explore([["a"]]), ["numbers"]),
        (lambda: visualize.explore(softmax(2, 2, 3, 4, 4)), ["batch of 2", "layer[row]"]),
        (lambda: visualize.explore([softmax(2, 3, 3), softmax(3, 3, 3)]), ["attention[1]", "(3, 3, 3)", "(2, 3, 3)"]),
        (lambda: visualize.explore(softmax(3, 3), ["a"]), ["tokens has 1", "3"]),
        (lambda: visualize.explore(softmax(2, 3), ["a", "b"], ["a"]), ["key_tokens has 1", "3"]),
        (lambda: visualize.explore(softmax(3, 3), "abc"), ["tokens is a string"]),
        (lambda: visualize.explore({"a": (softmax(3, 3),)}, list("abc")), ["mapping", "no tokens"]),
        (lambda: visualize.explore(softmax(3, 3), view="grid"), ["view is 'grid'", "'lines' or 'heatmap'"]),
        (lambda: visualize.explore(softmax(3, 3), bits=4), ["bits is 4", "8, 16"]),
        (lambda: visualize.explore(softmax(2, 3, 3), head=2), ["head is 2", "0 to 1"]),
        (lambda: visualize.explore(softmax(2, 3, 3), layer=-1), ["layer is -1", "0 to 0"]),
    ],
)
def test_bad_input(call, parts):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    for part in parts:
        assert part in str(error.value)


def test_too_many_weights_are_refused_by_their_number(monkeypatch):
    monkeypatch.setattr(encoding, "_MOST_WEIGHTS", 8)
    with pytest.raises(ValueError, match="9 weights; needed: at most 8"):
        visualize.explore(softmax(3, 3))
