"""What a release is made of beside the package: wheels to build, workflows, and the version wherever it is named.

`make style` holds the same files against GitHub's schemas; here is what the project asks of them. A new workflow goes
into `test_there_are_workflows`, a new Python or platform of wheels into the tables here.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from subprocesses import ROOT

import transformer_fast

PYTHONS = ("cp310", "cp311", "cp312", "cp313", "cp314", "cp314t", "cp315", "cp315t")
PLATFORMS = {
    "linux": ("manylinux_x86_64", "manylinux_aarch64", "musllinux_x86_64", "musllinux_aarch64"),
    "macos": ("macosx_x86_64", "macosx_arm64"),
    "windows": ("win_amd64",),
}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request) -> dict:
    return pytest.importorskip("yaml").safe_load(request.param.read_text())


@pytest.mark.parametrize("platform", PLATFORMS)
def test_wheels_that_cibuildwheel_builds(platform):
    pytest.importorskip("cibuildwheel")
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {f"{python}-{system}" for python in PYTHONS for system in PLATFORMS[platform]}


def test_there_are_workflows():
    assert {path.stem for path in WORKFLOWS} == {"tests", "builds", "wheels", "docs", "nightly"}


def test_workflow_has_least_permissions_and_ends(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 180, name
        # Only a job that publishes, and does nothing else, may identify itself.
        assert "permissions" not in job or (name == "publish" and not any("run" in step for step in job["steps"]))


def test_workflow_names_versions_of_actions(workflow):
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40}|release/v1)", action) for action in used)


def test_workflow_runs_targets_that_there_are(workflow):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9]+):", makefile, re.M))
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {}).get("target", [])
        runs = [step["run"] for step in job["steps"] if step.get("run", "").startswith("make ")]
        assert {run.split()[1] for run in runs if "${{" not in run} | set(matrix) <= targets


def test_version_is_the_same_everywhere():
    version = transformer_fast.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == version
    headings = re.findall(r"^## \[(.*?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == ("Unreleased", ""), "what comes next has a place"
    assert headings[1][0] == version and re.fullmatch(r" - \d{4}-\d{2}-\d{2}", headings[1][1])
