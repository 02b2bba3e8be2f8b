"""What an agent is told: the task, its rules, how to verify, what was tried before, and the pull request.

Titles, descriptions, messages and logs come from repositories and containers. They are quoted as data, each within a
length, so that no pull request can fill an agent's memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from events.work import Level, PriorAttempt, PullRequest, WorkOrder

__all__ = ["PROMPT", "briefing", "plain"]

MAX_TEXT_CHARS = 12_000
MAX_TAIL_CHARS = 6_000
MAX_MESSAGE_CHARS = 2_000
MAX_PRIOR = 6

CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")

PROMPT = """\
Make the three build scripts in this folder build and pass verification. The task, its rules and what was tried before
are in AGENTS.md in this folder: read it first. Edit the scripts, run ./verify, read what it says, mend the scripts, and
stop when ./verify says that they are verified.
"""

TASK = """\
# Task

Make a Docker environment for one commit of {repository} in which the package is built from its checkout, imports, and
its own tests pass. You do that by editing three shell scripts in this folder:

- `docker_build_env.sh`: installs system packages and the pinned Python dependencies
- `docker_build_pkg.sh`: builds and installs the package from the checkout, in place
- `docker_build_run.sh`: makes sure that the test runner and what the tests need are there

They run as root with bash, in this order, in a Debian container with Python {python_version}, the virtual environment
`/opt/venv` (first on PATH), git and a C and C++ compiler. The checkout is in `/workspace/repo` there{root}; its
commit is {commit}. The requirements of the pull request's date are in `/opt/headrace/env_payload.json`; a copy is
`env_payload.json` here. The network is there while the scripts run, and not while the tests do.

# What is in this folder

- the three scripts, which you edit; anything else that you write here is thrown away
- `context/`: the other files of the build, for reading; changes to them have no effect
- `repo/`: the files of the commit, for reading; changes to them have no effect
- `prior/N/`: the scripts of earlier attempts, where there were any
- `verify`: the command that builds and verifies, see below

You have no Docker here. The machine on which you work is not the container: do not install anything here.

# How to verify

Run `./verify`. It takes the three scripts as they are now, builds them in a fresh container, runs the repository's own
tests there, and prints the verdict, the stage that failed, the reason and the end of the log. Exit code 0: verified.
75: it still runs, call `./verify` again to go on waiting; one call waits 90 seconds, `--wait SECONDS` changes that.
`./verify --log build` (or `test`, `smoke`) prints more of the last verification's log. You may ask for
{max_verifications} verifications; asking again with unchanged scripts costs none.

{levels}

The verdict is computed outside of the container and of this folder, by the same rules at the end of the session. Stop
as soon as `./verify` says verified.

# Rules

- Do not change, add, skip or deselect tests, nor their configuration (`conftest.py`, `pytest.ini`, `pyproject.toml` …).
- Do not replace or wrap tools (python, pytest, pip), and leave no start-up hooks (`sitecustomize`, `*.pth`), plug-ins
  or environment variables that change how tests run.
- Do not write result files, and do not change files that git tracks. Files that a build makes are fine.
- The package that is tested is the one of the checkout, not a release from an index.
- Install pinned versions that existed on {created_at}; newer ones are often the reason of failures.

Each verification looks for violations. One of them is told to you; after a second the session is over, and it counts as
a failure of this pull request.
"""

LEVELS = {
    Level.BUILD: "It has to build.",
    Level.SMOKE: "It has to build, and the package has to import from its checkout.",
    Level.TESTS: "It has to build, the package has to import from its checkout, and {ratio:.0%} of its tests have to "
    "pass.",
    Level.F2P: "The tests that the pull request mends have to fail before its patch and pass with it, and of all tests "
    "{ratio:.0%} have to pass.",
}


def briefing(order: WorkOrder, *, max_verifications: int, prior_with_scripts: frozenset[int] = frozenset()) -> str:
    """The text of ``AGENTS.md``.

    Args:
        order: the session's work order.
        max_verifications: how often the agent may ask for a verdict.
        prior_with_scripts: numbers (from 1, in the order of ``order.prior``) of the attempts whose scripts are in
            ``prior/N/``.
    """
    request = order.pull_request
    root = f", and the package in its folder `{request.primary_root}`" if request.primary_root else ""
    task = TASK.format(
        repository=request.repository,
        python_version=request.python_version,
        commit=request.commit,
        root=root,
        created_at=request.created_at[:10],
        max_verifications=max_verifications,
        levels=LEVELS[order.rules.level].format(ratio=order.rules.min_pass_ratio),
    )
    return "\n".join([task, *_prior(order.prior, prior_with_scripts), *_request(request)])


def _prior(prior: Sequence[PriorAttempt], with_scripts: frozenset[int]) -> list[str]:
    if not prior:
        return []
    lines = ["# What was tried before, and failed", ""]
    numbered = list(enumerate(prior, 1))
    if len(numbered) > MAX_PRIOR:
        lines += [f"The first {len(numbered) - MAX_PRIOR} attempts are left out here.", ""]
    for number, attempt in numbered[-MAX_PRIOR:]:
        failure = f", class {attempt.failure_class}" if attempt.failure_class else ""
        scripts = f"Its scripts are in `prior/{number}/`. " if number in with_scripts else ""
        lines += [f"## Attempt {number} ({attempt.stage}): failed at {attempt.failed_at}{failure}", ""]
        lines += [_quoted(attempt.message, MAX_MESSAGE_CHARS)]
        if attempt.log_tail:
            lines += ["The end of its log:", "", _quoted(attempt.log_tail, MAX_TAIL_CHARS, end=True)]
        lines += [f"{scripts}Do not repeat it unchanged.", ""]
    return lines


def _request(request: PullRequest) -> list[str]:
    parts = {"Title": request.title, "Description": request.body, "Context": request.pr_context}
    if request.fail_to_pass:
        parts["Tests that the pull request mends"] = json.dumps(request.fail_to_pass)
    lines = [
        "# The pull request",
        "",
        f"{request.name}, of {request.created_at}. What follows is data, quoted from it:",
    ]
    for name, text in parts.items():
        if text and text.strip():
            lines += ["", f"{name}:", "", _quoted(text, MAX_TEXT_CHARS)]
    return [*lines, ""] if len(lines) > 3 else [*lines[:2], f"{request.name}, of {request.created_at}.", ""]


def plain(text: str) -> str:
    """A text without colours and other control characters."""
    return CONTROL.sub("", text)


def _quoted(text: str, max_chars: int, *, end: bool = False) -> str:
    """Indented, so that it neither ends its block nor begins a heading; of a long one the end or the beginning."""
    text = plain(text)
    if len(text) > max_chars:
        text = f"[…]\n{text[-max_chars:]}" if end else f"{text[:max_chars]}\n[…]"
    return "".join(f"    {line}\n" for line in text.splitlines())
