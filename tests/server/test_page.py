"""The page at / in a browser, on a real server with tiny models: what its tabs do, keys, themes, narrow screens."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import text_decoders
from model_folders import write_sentence_model
from pipeline_folders import write_head

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

import browsers  # noqa: E402
import uvicorn  # noqa: E402

from transformer_fast.pipelines import text_attention  # noqa: E402
from transformer_fast.server import Settings, create_app, load_served  # noqa: E402
from transformer_fast.serving import Turns  # noqa: E402

# Paragraphs that are long enough to be passages of their own (passages.js), of the tiny vocabulary's words.
PASSAGES = [
    "the cat sat on the mat, the cat sat on the mat, the cat sat on the mat.",
    "the dog ran far, the dog ran far, the dog ran far, the dog ran far, dog!",
    "a rotten mat is near, a rotten mat is near, a rotten mat is near, the cat.",
]
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


class Slow(Turns):
    """Turns of 20 ms at least, so that a test can see an answer while it is written, and stop it."""

    def __exit__(self, *error: object) -> None:
        time.sleep(0.02)
        super().__exit__(*error)


@contextlib.contextmanager
def running(models, settings=None):
    """The address of a server with these models."""
    config = uvicorn.Config(create_app(models, settings), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_sentence_model(folder / "encoder")
    write_head(folder / "ranker", "SequenceClassification", 1)
    (folder / "chatty").mkdir()
    text_decoders.write_model(
        folder / "chatty", "qwen3", "ForCausalLM", TEMPLATE, max_position_embeddings=4096, eos_token_id=None
    )
    turns = {"chatty": Slow()}
    served = {name: load_served(name, folder / name, turns=turns.get(name)) for name in ("encoder", "ranker", "chatty")}
    yield served
    for one in served.values():
        one.engine.close(timeout=5)


@pytest.fixture(scope="module")
def host(models):
    with running(models) as address:
        yield address


@pytest.fixture
def opened(browser, host, request):
    watched = browsers.Watched(browser, host, **getattr(request, "param", {}))
    watched.page.goto(f"http://{host}/")
    watched.page.locator("#tabs").wait_for()
    yield watched.page
    watched.close()


def search(page, query: str) -> list[str]:
    page.fill("#search-query", query)
    page.press("#search-query", "Enter")
    page.locator("#search-results[aria-busy=false]").wait_for(state="attached")
    return page.locator("#search-results .text").all_text_contents()


def shown_scores(page, name: str) -> list[float]:
    heads = page.locator("#search-results .head").all_text_contents()
    return [float(re.search(rf"{name} (-?[\d.]+)", head)[1]) for head in heads]


def test_search_ranks_pasted_text_and_files(opened, models, tmp_path):
    assert opened.locator("#tab-search").get_attribute("aria-selected") == "true"
    opened.fill("#search-text", "\n\n".join(PASSAGES[:2]))
    (tmp_path / "notes.md").write_text(f"\n\n{PASSAGES[2]}\n")
    (tmp_path / "picture.txt").write_bytes(b"\xff\xfe\x00")
    opened.locator("#search-files").set_input_files([tmp_path / "notes.md", tmp_path / "picture.txt"])
    opened.get_by_text("1 file, 1 passage; 1 left out").wait_for()

    opened.uncheck("#search-rerank")
    query = "the dog ran far"
    vectors = models["encoder"].model.encode([query, *PASSAGES], normalize_embeddings=True)
    similarities = vectors[1:] @ vectors[0]
    order = np.argsort(-similarities)
    assert search(opened, query) == [PASSAGES[i] for i in order]
    assert shown_scores(opened, "similarity") == pytest.approx(similarities[order], abs=6e-4)
    places = dict(zip(search(opened, query), opened.locator(".results .place").all_text_contents(), strict=True))
    assert places == {PASSAGES[0]: "Line 1", PASSAGES[1]: "Line 3", PASSAGES[2]: "notes.md, line 3"}

    opened.check("#search-rerank")
    scores = models["ranker"].model.predict([(query, passage) for passage in PASSAGES])
    assert search(opened, query) == [PASSAGES[i] for i in np.argsort(-scores)]
    assert shown_scores(opened, "relevance") == pytest.approx(sorted(scores, reverse=True), abs=6e-4)


def test_search_without_text_says_what_is_missing(opened):
    assert search(opened, "the dog") == []
    assert opened.locator("#notice").text_content().startswith("There is nothing to search")


def test_folder_of_the_browser(opened, tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "inner").mkdir()
    for path in (".hidden/a.txt", "inner/b.txt", "c.txt"):
        (tmp_path / path).write_text(f"{PASSAGES[0]}\n\n{PASSAGES[1]}")
    opened.locator("#search-folder").set_input_files(tmp_path)
    opened.get_by_text("2 files, 4 passages").wait_for()
    opened.click("#search-clear")
    assert opened.locator("#search-sources").text_content() == ""


def test_chat_streams_stops_and_remembers(opened):
    opened.click("#tab-chat")
    opened.click("text=Options")
    opened.fill("#chat-most", "12")
    bodies = []
    opened.on("request", lambda request: bodies.append(request.post_data) if "chat" in request.url else None)
    opened.fill("#chat-text", "the cat")
    opened.press("#chat-text", "Enter")
    opened.get_by_text("12 tokens").wait_for()
    first = opened.locator(".message.assistant .said").text_content()
    assert first.strip()

    opened.fill("#chat-most", "4000")
    opened.fill("#chat-text", "the dog")
    opened.click("#chat-send")
    answer = opened.locator(".message.assistant .said").nth(1)
    browsers.wait_for_text(answer, 20)
    browsers.wait_for_text(answer, len(answer.text_content()) + 1)
    opened.click("#chat-stop")
    opened.get_by_text("stopped").wait_for()
    assert opened.locator("#chat-send").is_visible() and opened.locator("#chat-stop").is_hidden()
    stopped = answer.text_content()
    opened.wait_for_timeout(100)
    assert answer.text_content() == stopped
    messages = json.loads(bodies[1])["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"].strip() == first.strip()

    opened.click("#chat-new")
    assert opened.locator(".message").count() == 0


def test_message_that_is_refused_can_be_sent_again(opened):
    opened.click("#tab-chat")
    assert opened.locator("#chat-most").input_value() == "512"
    opened.click("text=Options")
    opened.fill("#chat-most", "5000")
    opened.fill("#chat-text", "the cat")
    with browsers.expected(opened, "400"):
        opened.press("#chat-text", "Enter")
        opened.get_by_text("needed: at most 4096 in all").wait_for()
    assert opened.locator("#chat-text").input_value() == "the cat" and opened.locator(".message.user").count() == 0


def test_stopped_answer_leaves_the_engine(opened, models):
    opened.click("#tab-chat")
    opened.fill("#chat-text", "the cat")
    opened.press("#chat-text", "Enter")
    browsers.wait_for_text(opened.locator(".message.assistant .said"), 5)
    opened.click("#chat-stop")
    end = time.monotonic() + 5
    while models["chatty"].engine.stats()["running"] and time.monotonic() < end:
        time.sleep(0.02)
    assert models["chatty"].engine.stats()["running"] == 0


def test_attention_of_a_text(opened, models):
    opened.click("#tab-attention")
    opened.fill("#attention-text", "the cat <b>")
    opened.click("#attention-go")
    opened.locator(".queries .lines-token").nth(1).hover()
    encoder = models["encoder"]
    attentions, tokens = text_attention(encoder.model.model, encoder.tokenizer, "the cat <b>")["self-attention"]
    assert opened.locator(".keys .lines-token bdi").all_text_contents() == tokens
    numbers = opened.locator(".keys .number").all_text_contents()
    assert numbers == [f"{weight:.3f}" for weight in attentions[-1][0, 1]]
    opened.select_option("#attention-model", "chatty")
    assert opened.locator("#attention-pair").is_hidden()
    opened.select_option("#attention-model", "encoder")
    opened.fill("#attention-pair", "dog")
    opened.click("#attention-go")
    opened.locator(".keys .lines-token", has_text="dog").wait_for()
    opened.fill("#attention-text", "cat " * 30)
    with browsers.expected(opened, "400"):
        opened.click("#attention-go")
        opened.get_by_text("text has more than 20 tokens").wait_for()


def test_tabs_by_keyboard_and_address(opened, host):
    opened.focus("#tab-search")
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#chat").is_visible() and opened.locator("#search").is_hidden()
    assert opened.evaluate("document.activeElement.id") == "tab-chat"
    opened.keyboard.press("End")
    assert opened.url == f"http://{host}/#attention"
    opened.reload()
    opened.locator("#attention").wait_for()


@pytest.mark.parametrize(
    "opened",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 640}, "has_touch": True},
    ],
    indirect=True,
    ids=["light", "dark", "360"],
)
def test_every_tab_is_readable_named_and_fits(opened):
    opened.fill("#search-text", "\n\n".join([*PASSAGES, "x" * 400]))
    search(opened, "the cat")
    for tab in ("search", "chat", "attention"):
        opened.click(f"#tab-{tab}")
        if tab == "attention":
            opened.fill("#attention-text", "the cat sat")
            opened.click("#attention-go")
            opened.locator(".lines-token").first.wait_for()
        assert browsers.too_wide(opened) == 0, tab
        assert browsers.pale(opened) == [], tab
        assert browsers.unnamed(opened) == [], tab


def test_chosen_theme_stays(opened):
    opened.click(".theme-toggle")
    opened.reload()
    opened.locator("#tabs").wait_for()
    assert opened.evaluate("document.documentElement.dataset.theme") == "dark"


def test_key_is_asked_for_and_not_stored_beyond_the_tab(browser, models):
    with running({"encoder": models["encoder"]}, Settings(api_keys=("right",))) as host:
        watched = browsers.Watched(browser, host)
        page = watched.page
        with browsers.expected(page, "401"):
            page.goto(f"http://{host}/")
            page.fill("#key-text", "wrong")
            page.press("#key-text", "Enter")
            browsers.wait_for_value(page.locator("#key-text"), "")
            page.fill("#key-text", "right")
            page.press("#key-text", "Enter")
            page.locator("#tabs").wait_for()
        assert page.locator("#key").is_hidden()
        assert page.locator("#tab-chat").is_hidden(), "no language model"
        assert page.evaluate("Object.values(localStorage).concat(document.cookie).join()").find("right") == -1
        page.reload()
        page.locator("#tabs").wait_for()
        watched.close()


def answer(url: str, **headers: str):
    with contextlib.suppress(urllib.error.HTTPError):
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers))
    return None


def test_files_have_the_policy_and_paths_reach_no_others(host):
    reply = answer(f"http://{host}/")
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    page = reply.read().decode()
    assert not re.search(r"\son\w+=|\sstyle=|<script(?![^>]*src=)|https?:", page), "inline code, or another host"
    for path in re.findall(r'(?:src|href)="(page/[^"]+)"', page):
        found = answer(f"http://{host}/{path}")
        assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert answer(f"http://{host}/page/page.js", **{"If-None-Match": "x"}).status == 200
    for path in ("page/__init__.py", "page/../page.js", "page/..%2f__init__.py", "page/", "page//etc/passwd"):
        assert answer(f"http://{host}/{path}") is None, path
