"""The attention explorer in a browser: what is shown is what came in, by pointer and by keyboard, in both themes."""

from __future__ import annotations

import browsers
import numpy as np
import pytest

from transformer_fast import visualize

TOKENS = [
    "[CLS]",
    "the",
    "cat",
    "<img src=x onerror=alert(1)>",
    "</script><script>document.title='x'</script>",
    "[SEP]",
]
L = len(TOKENS)


def softmax(*shape: int, seed: int = 0) -> np.ndarray:
    x = np.exp(3 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
    return x / x.sum(-1, keepdims=True)


WEIGHTS = softmax(3, 4, L, L)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "attention.html"
    visualize.explore(WEIGHTS, TOKENS, layer=1, head=2, title="A cat").save(path)
    return path


@pytest.fixture
def opened(browser, file, request):
    watched = browsers.Watched(browser, **getattr(request, "param", {}))
    watched.page.goto(file.as_uri())
    yield watched.page
    watched.close()


def numbers(page, side: str) -> list[str]:
    return page.locator(f".lines-side.{side} .number").all_text_contents()


def written(weights) -> list[str]:
    return [f"{weight:.3f}" for weight in weights]


def test_pointing_at_a_token_shows_its_weights(opened):
    assert opened.locator("h2", has_text="Layer 1, head 2").is_visible()
    opened.locator(".queries .lines-token").nth(2).hover()
    assert numbers(opened, "keys") == written(WEIGHTS[1, 2, 2]) and numbers(opened, "queries") == [""] * L
    lists = opened.locator(".inspector ol")
    strongest = sorted(WEIGHTS[1, 2, 2], reverse=True)
    assert lists.nth(0).locator(".number").all_text_contents() == written(strongest)
    attended = sorted(WEIGHTS[1, 2, :, 2], reverse=True)
    assert lists.nth(1).locator(".number").all_text_contents() == written(attended)
    opened.locator(".keys .lines-token").nth(4).hover()
    assert numbers(opened, "queries") == written(WEIGHTS[1, 2, :, 4])
    opened.locator("h1").hover()
    assert numbers(opened, "queries") == [""] * L, "nothing is looked at any more"
    opened.locator(".keys .lines-token").nth(4).click()
    opened.locator("h1").hover()
    assert numbers(opened, "queries") == written(WEIGHTS[1, 2, :, 4]), "a click keeps it"


def test_keyboard_moves_between_heads_tokens_and_cells(opened):
    opened.locator(".overview-cell[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        opened.keyboard.press(key)
    assert opened.locator(".head h2").text_content() == "Layer 2, mean of heads"
    assert opened.evaluate("document.activeElement.getAttribute('aria-label')") == "Layer 2, mean of heads"
    mean = WEIGHTS[2].mean(axis=0)
    opened.keyboard.press("Tab")
    opened.keyboard.press("ArrowDown")
    assert numbers(opened, "keys") == written(mean[1])
    assert opened.locator(".lines-token.active").first.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    said = opened.locator(".explorer [role=status]")
    assert said.text_content().startswith("the attends: ")
    opened.keyboard.press("ArrowRight")
    assert numbers(opened, "queries") == written(mean[:, 0])
    opened.keyboard.press("Escape")
    assert numbers(opened, "queries") == [""] * L

    opened.get_by_role("radio", name="Lines").focus()
    opened.keyboard.press("ArrowRight")
    opened.locator(".heatmap canvas").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        opened.keyboard.press(key)
    assert opened.locator(".heatmap-tip b").text_content() == f"{mean[2, 2]:.3f}"
    assert said.text_content() == f"cat attends cat: {mean[2, 2]:.3f}"


def test_pointing_at_a_cell_shows_query_key_and_weight(opened):
    opened.get_by_text("Heat-map", exact=True).click()
    canvas = opened.locator(".heatmap canvas")
    box = canvas.bounding_box()
    opened.mouse.move(box["x"] + box["width"] * 0.99, box["y"] + 5)
    assert opened.locator(".heatmap-tip").is_hidden()
    canvas.focus()
    opened.keyboard.press("ArrowDown")  # the first cell
    opened.keyboard.press("ArrowRight")
    tip = opened.locator(".heatmap-tip").bounding_box()
    cell = tip["x"] - 8 - 15, tip["y"] - 8 - 15  # the tip is 8 pixels from its cell, which has 30
    opened.mouse.move(cell[0] + 30, cell[1] + 30)
    assert opened.locator(".heatmap-tip").text_content() == f"the → cat{WEIGHTS[1, 2, 1, 2]:.3f}"
    opened.mouse.move(0, 0)
    assert opened.locator(".heatmap-tip").is_hidden()


def test_special_tokens_can_be_hidden(opened):
    opened.get_by_label("Hide special tokens").check()
    assert opened.locator(".keys .lines-token").count() == L - 2
    opened.locator(".queries .lines-token").first.hover()
    assert numbers(opened, "keys") == written(WEIGHTS[1, 2, 1, 1:-1]), "not scaled"


def test_tokens_are_text(opened):
    assert opened.locator(".queries .lines-token bdi").all_text_contents() == TOKENS
    assert opened.locator("img").count() == 0 and opened.title() == "A cat"


@pytest.mark.parametrize(
    "opened", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=["light", "dark"]
)
def test_contrast_names_and_toggle_of_the_theme(opened):
    opened.locator(".queries .lines-token").nth(2).hover()
    for _ in range(2):
        assert browsers.pale(opened) == [] and browsers.unnamed(opened) == []
        ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        toggle = opened.locator(".theme-toggle")
        said = toggle.text_content()
        toggle.click()
        assert opened.evaluate("getComputedStyle(document.body).backgroundColor") != ground
        assert toggle.text_content() != said


@pytest.mark.parametrize("opened", [{"viewport": {"width": 360, "height": 640}}], indirect=True, ids=["360"])
def test_narrow_screen_does_not_scroll_sideways(opened):
    assert browsers.too_wide(opened) == 0
    opened.get_by_text("Heat-map", exact=True).click()
    assert browsers.too_wide(opened) == 0


def test_several_in_a_notebook_and_kinds_of_attention(browser):
    maps = {"encoder": (softmax(2, L, L), TOKENS), "cross-attention": (softmax(2, 2, L), ["ein", "Hund"], TOKENS)}
    cells = [visualize.explore(maps), visualize.explore(softmax(L, L), TOKENS, view="heatmap")]
    watched = browsers.Watched(browser)
    watched.page.set_content("".join(cell._repr_html_() for cell in cells))
    first, second = (watched.page.frame_locator("iframe").nth(i) for i in range(2))
    first.get_by_label("Kind of attention").select_option("cross-attention")
    assert first.locator(".queries .lines-token bdi").all_text_contents() == ["ein", "Hund"]
    first.locator(".queries .lines-token").nth(1).hover()
    assert first.locator(".inspector h3").all_text_contents() == ["Hund attends"]
    assert second.locator(".heatmap canvas").is_visible()
    watched.close()
