"""A headless Chromium for tests of pages, and what every page is held against.

tests/server/conftest.py makes fixtures of `start` and `Watched`. Needs the extra `browser` and a Chromium of the system
(`make page` installs both); tests are skipped without them.
"""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def start():
    """A browser of playwright; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install '.[browser]')")
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"needs a Chromium: none of {', '.join(_NAMES)} is installed (make page)")
    with sync_api.sync_playwright() as playwright:
        # Tests may run as root, for whom Chromium has no sandbox, and in containers with a small /dev/shm.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Watched:
    """A page that notes what it must not do: errors on the console, and requests to other hosts than `host`."""

    def __init__(self, browser, host: str = "", **options) -> None:
        # Without motion a colour is what it will be at once.
        usual = {"viewport": {"width": 1100, "height": 800}, "reduced_motion": "reduce"}
        self.context = browser.new_context(**(usual | options))
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.faults: list[str] = []
        self.page.watched = self
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.faults.append(said.text))
        self.page.on("request", lambda request: self._check(request.url, host))

    def _check(self, url: str, host: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("file", "data", "about") and parts.netloc != host:
            self.faults.append(f"request to {url}")

    def close(self) -> None:
        self.context.close()
        assert self.faults == []


@contextmanager
def expected(page, status: str):
    """Inside, the browser may write to the console that an answer had this status."""
    faults = page.watched.faults
    yield
    faults[:] = [one for one in faults if f"status of {status}" not in one]


def wait_for_text(locator, length: int) -> None:
    """Until an element's text has so many characters."""
    from playwright.sync_api import expect

    expect(locator).to_have_text(re.compile(rf".{{{length},}}", re.DOTALL))


def wait_for_value(locator, value: str) -> None:
    from playwright.sync_api import expect

    expect(locator).to_have_value(value)


def unnamed(page) -> list[str]:
    """Roles of what can have the focus and has no name that a screen reader could say."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        node["role"]["value"]
        for node in nodes
        if not node["ignored"]
        and any(one["name"] == "focusable" and one["value"]["value"] for one in node.get("properties", ()))
        and not node.get("name", {}).get("value")
        and node["role"]["value"] != "RootWebArea"
    ]


def too_wide(page) -> float:
    """Pixels that the page can be scrolled sideways."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def pale(page) -> list[str]:
    """Texts that are seen whose contrast to their ground is below 4.5 : 1 (WCAG 2, AA), with the ratio."""
    return page.evaluate(_PALE)


# A canvas turns any CSS colour into numbers.
_PALE = """() => {
  const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const ground = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(rgba(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce(
      (below, [r, g, b, a]) => [r, g, b].map((x, i) => x * a / 255 + below[i] * (1 - a / 255)), [255, 255, 255]);
  };
  const light = (colour) => {
    const linear = (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = colour.slice(0, 3).map((x) => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].filter((one) => one.nodeType === 3).map((one) => one.data.trim()).join("");
    if (!text || element.matches("script, style, option, noscript") || element.closest(".unseen")) continue;
    if (!element.checkVisibility({visibilityProperty: true}) || element.matches(":disabled")) continue;
    const pair = [light(rgba(getComputedStyle(element).color)), light(ground(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) found.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""
