"""Commits of small projects, and what a real pytest collects from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from actors.verifier.suite.collection import Collected
from actors.verifier.suite.commit import CommitTree
from store.sources import Mirror, Sources
from tests.engine_fixtures import GitProject

__all__ = ["collect", "committed", "mirrored"]

PLUGIN = """\
import json
import os

import pytest

SEEN = {"collected": [], "selected": [], "modules": []}


def pytest_collectreport(report):
    if report.outcome != "passed" or (report.nodeid.endswith(".py") and "::" not in report.nodeid):
        SEEN["modules"].append({"nodeid": report.nodeid, "outcome": report.outcome})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    SEEN["collected"] = [item.nodeid for item in items]


def pytest_collection_finish(session):
    SEEN["selected"] = [item.nodeid for item in session.items]
    with open(os.environ["REPORT_TO"], "w") as file:
        json.dump(SEEN, file)
"""


def committed(folder: Path, files: Mapping[str, str]) -> CommitTree:
    """A new project with these files, as its own mirror."""
    project = GitProject(folder)
    return CommitTree(Mirror(path=project.path, clone_url=""), project.commit(files))


def mirrored(project: GitProject, commit: str, *, cache: Path) -> CommitTree:
    """A commit in a mirror like that of a sweep."""
    return CommitTree(Sources(cache).mirror(project.clone_url, [commit], pull_request="o/r#1"), commit)


def collect(checkout: Path, *, primary_root: str = ".", plugin: str = "") -> Collected:
    """What pytest collects in a folder; ``plugin``: code of one more plug-in, loaded before the reporting one."""
    tools = checkout.parent / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "reporting_plugin.py").write_text(PLUGIN, encoding="utf-8")
    (tools / "other_plugin.py").write_text(plugin, encoding="utf-8")
    report = tools / "report.json"
    report.unlink(missing_ok=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tools), "PYTHONPATH": str(tools), "REPORT_TO": str(report)}
    command = [sys.executable, "-B", "-m", "pytest", "-p", "other_plugin", "-p", "reporting_plugin"]
    options = ["-p", "no:cacheprovider", "--collect-only", "-q", "--continue-on-collection-errors"]
    done = subprocess.run(
        [*command, *options], cwd=checkout / primary_root, env=environment, capture_output=True, text=True, check=False
    )
    assert report.exists(), done.stdout + done.stderr
    return msgspec.json.decode(report.read_bytes(), type=Collected)
