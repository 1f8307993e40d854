"""Schemathesis: what it makes of /openapi.json, right and wrong requests, gets no 5xx and answers of the stated form.

Its checks for refusals (negative_data_rejection and others) are left out: a field that the description does not bound,
such as the name of a model, may be refused all the same. It runs in one thread: with several, Python 3.11's parser,
which hypothesis calls, raises "AST constructor recursion depth mismatch" now and then.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from servers import KEY

pytest.importorskip("schemathesis")

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
# Examples of each operation, besides those that cover each keyword of its schema.
EXAMPLES = 15


def test_no_server_error_and_answers_as_described(server, tmp_path):
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"),
            *("--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--generation-deterministic"),
            *("--header", f"Authorization: Bearer {KEY}", "--request-timeout", "30"),
            *("--continue-on-failure", "--no-color", "--warnings", "off", "--no-shrink"),
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert server.process.poll() is None
