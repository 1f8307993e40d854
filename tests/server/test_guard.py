"""What happens around every request: keys, hosts, origins, headers, limits, log lines, counts; and descriptions."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser

import pytest

TEXT = {"input": "a secret cat"}


def test_keys(make_client):
    with make_client(api_keys=("first-key", "second")) as client:
        for key in ("first-key", "second"):
            for scheme in ("Bearer", "bearer"):
                answer = client.post("/v1/embeddings", json=TEXT, headers={"Authorization": f"{scheme} {key}"})
                assert answer.status_code == 200
        for value in ("", "Bearer", "Bearer first-keys", "Bearer first-ke", "Basic first-key", "first-key", "Bearer ü"):
            headers = {"Authorization": value.encode("latin-1")}
            answer = client.post("/v1/embeddings", json=TEXT, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["type"] == "authentication_error"
        for path in ("/v1/models", "/metrics", "/page/models", "/nothing"):
            assert client.get(path).status_code == 401
        for path in ("/health", "/docs", "/openapi.json", "/", "/page/page.js"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "host, settings, status",
    [
        ("localhost:8080", {}, 200),
        ("127.0.0.1", {}, 200),
        ("127.8.8.8:1", {}, 200),
        ("[::1]:8080", {}, 200),
        ("models.localhost", {}, 200),
        ("example.com", {}, 403),
        ("localhost.example.com", {}, 403),
        ("127.0.0.1.example.com", {}, 403),
        ("localhost:80:80", {}, 403),
        ("", {}, 403),
        ("Example.com:443", {"allowed_hosts": ("example.com",)}, 200),
        ("other.com", {"allowed_hosts": ("example.com",), "host": "0.0.0.0"}, 403),
        ("other.com", {"host": "0.0.0.0"}, 200),
        ("other.com", {"host": "::"}, 200),
    ],
)
def test_names_that_another_site_can_point_here_are_refused(make_client, host, settings, status):
    with make_client(**settings) as client:
        assert client.get("/v1/models", headers={"Host": host}).status_code == status
        assert client.get("/health", headers={"Host": host}).status_code == 200


def test_origins(make_client):
    with make_client() as client:
        assert client.get("/v1/models", headers={"Origin": "http://localhost"}).status_code == 200
        for origin in ("http://localhost:99", "https://example.com", "null"):
            answer = client.get("/v1/models", headers={"Origin": origin})
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    with make_client(cors_origins=("https://example.com",), api_keys=("k",)) as client:
        asked = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
        answer = client.options("/v1/embeddings", headers=asked)
        assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://example.com"
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in answer.headers
        assert client.options("/v1/embeddings", headers={**asked, "Origin": "https://other.com"}).status_code == 403


def test_other_types_of_bodies_are_refused(client):
    """A browser sends them to any site that a page names, without asking."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.post("/v1/embeddings", content=json.dumps(TEXT), headers={"Content-Type": kind})
        assert answer.status_code == 415
    kind = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/embeddings", content=json.dumps(TEXT), headers=kind).status_code == 200


def test_bodies_have_a_limit(make_client):
    with make_client(max_body=1000) as client:
        kind = {"Content-Type": "application/json"}
        filled = json.dumps({"input": "a" * 1000})
        answer = client.post("/v1/embeddings", content=filled, headers=kind)
        assert answer.status_code == 413 and answer.headers["connection"] == "close"
        pieces = (b"x" * 100 for _ in range(20))
        assert client.post("/v1/embeddings", content=pieces, headers=kind).status_code == 413
        assert client.post("/v1/embeddings", content=filled[:10] + '"}', headers=kind).status_code == 400
        assert client.post("/v1/embeddings", json={"input": "a" * 900}).status_code == 200


def test_texts_have_a_limit(make_client):
    with make_client(max_input_texts=2) as client:
        for path, body in [
            ("embeddings", {"input": ["a"] * 3}),
            ("rerank", {"query": "a", "documents": ["a"] * 3}),
            ("classify", {"input": ["a"] * 3}),
            ("completions", {"prompt": ["a", "b"], "n": 2}),
            ("chat/completions", {"messages": [{"role": "user", "content": "a"}] * 3}),
        ]:
            answer = client.post(f"/v1/{path}", json=body)
            assert answer.status_code == 400 and answer.json()["error"]["code"] == "too_many"


def test_headers(client):
    for path in ("/health", "/v1/models", "/nothing", "/docs", "/"):
        headers = client.get(path, headers={"X-Request-ID": "my.id-1"}).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"] and headers["x-request-id"] == "my.id-1"
        assert "server" not in headers
    for bad in ("a b", "x" * 65, "a\tb"):
        assert client.get("/health", headers={"X-Request-ID": bad}).headers["x-request-id"] != bad


def test_paths_lead_to_no_file(client):
    for path in (
        "/page/../served.py",
        "/page/%2e%2e/served.py",
        "/page//etc/passwd",
        "/../../etc/passwd",
        "/page/x.js",
    ):
        answer = client.get(path)
        assert answer.status_code == 404 and answer.json()["error"]["message"]
    assert client.get("/v1/models/../../etc/passwd").status_code == 404
    assert client.put("/v1/models").status_code == 405


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("texts", [False, True])
def test_log_lines(make_client, caplog, as_json, texts):
    caplog.set_level(logging.INFO, "transformer_fast.server.access")
    with make_client(log_json=as_json, log_texts=texts) as client:
        client.post("/v1/embeddings", json=TEXT, headers={"X-Request-ID": "id-7", "Authorization": "Bearer hidden"})
        client.get("/a%0Ab%20c%22")
    first, second = (record.getMessage() for record in caplog.records if record.name.endswith(".access"))
    assert ("secret" in first) == texts and "hidden" not in first and "\n" not in first + second
    if as_json:
        line = json.loads(first)
        assert (line["path"], line["status"], line["id"]) == ("/v1/embeddings", 200, "id-7")
        assert json.loads(second)["path"] == '/a\nb c"'
    else:
        assert re.match(r"testclient POST /v1/embeddings 200 status [\d.]+ milliseconds \d+ bytes id-7", first)


def test_metrics(make_client):
    with make_client() as client:
        client.post("/v1/embeddings", json=TEXT)
        client.post("/v1/embeddings", json={})
        client.get("/anything")
        client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3, "stream": True})
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    line = re.compile(r'(# (HELP|TYPE) \w+ .+|\w+({\w+="[^"]*"(,\w+="[^"]*")*})? [\d.e+-]+)')
    lines = answer.text.splitlines()
    assert all(line.fullmatch(one) for one in lines)
    for expected in (
        'transformer_fast_http_requests_total{endpoint="/v1/embeddings",status="200"} 1',
        'transformer_fast_http_requests_total{endpoint="/v1/embeddings",status="400"} 1',
        'transformer_fast_http_requests_total{endpoint="other",status="404"} 1',
        'transformer_fast_http_request_seconds_count{endpoint="/v1/embeddings"} 2',
        'transformer_fast_generated_tokens_total{model="chat"} 3',
        'transformer_fast_first_token_seconds_count{model="chat"} 1',
        "transformer_fast_http_requests_in_flight 1",
    ):
        assert expected in lines
    assert any(one.startswith('transformer_fast_engine_texts_total{model="embed"}') for one in lines)


def test_while_it_stops(make_client):
    with make_client() as client:
        client.app.state.server.stopping = True
        answer = client.post("/v1/embeddings", json=TEXT)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        assert client.get("/health").status_code == 503


def test_description(client, served):
    """Answers fit the models by which they are described."""
    from transformer_fast.server import endpoints

    description = client.get("/openapi.json").json()
    assert set(description["paths"]) >= {"/v1/embeddings", "/v1/models/{model}", "/v1/chat/completions", "/metrics"}
    bodies = {
        "/v1/embeddings": TEXT,
        "/v1/rerank": {"query": "a", "documents": ["b"]},
        "/v1/classify": {"input": "a"},
        "/v1/completions": {"prompt": "a", "logprobs": 1, "n": 2},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "max_tokens": 3},
        "/tokenize": {"model": "chat", "prompt": "a"},
        "/detokenize": {"model": "chat", "tokens": [1]},
        "/v1/models": None,
        "/v1/models/{model:path}": None,
        "/health": None,
    }
    for one in endpoints.ALL:
        if one.path in bodies:
            path = one.path.replace("{model:path}", "embed")
            answer = client.request(one.method, path, json=bodies[one.path])
            assert answer.status_code == 200, answer.text
            one.reply.model_validate_json(answer.content)
            allowed = set(one.reply.model_fields)
            assert set(answer.json()) <= allowed, path
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(description)))
    assert used <= set(description["components"]["schemas"])


def test_docs_need_nothing_of_another_host(client):
    class Parser(HTMLParser):
        found: list[str] = []

        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "img", "iframe", "link")
            self.found += [value for name, value in attrs if name in ("href", "src")]

    text = client.get("/docs").text
    Parser().feed(text)
    assert Parser.found == ["/openapi.json"] and "/v1/chat/completions" in text
