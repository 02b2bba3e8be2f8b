"""What a forgery is, and the shell that forgeries are written in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from actors.templates import stock_context
from actors.verifier.defences import Defence
from events.work import Stage
from store.docker_context import DockerContext
from tests.forged.victims import Victim

__all__ = [
    "FIRST",
    "OWN",
    "STEALTHY",
    "WORKS",
    "Forgery",
    "Naive",
    "add",
    "disguised",
    "green",
    "macro",
    "put",
    "run_script",
]


class Naive(StrEnum):
    """A check as the field has it, for forgeries that a check of that kind is fooled by. ``loose.py`` does them."""

    IMAGE_REPORT = "a report that the image holds counts as this run's, and an empty one says that nothing failed"
    LOGIN_SHELL = "commands run in the image's own environment, through a login shell"
    TIMEOUT_PASSES = "what had not failed when its time was over has passed"
    IMAGE_CACHES = "the interpreter takes compiled code from the image's caches"


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """A build context that makes a victim look verified.

    ``line``: of facts/forgeries.md. ``defence``: whose check refuses it. ``behind``: defences that may refuse it when
    that one is off, and without which nothing does. ``evades``: what else looks at it and sees nothing. ``naive``: the
    check that it needs beside an undefended verifier. ``number``: the pull request it is judged on; 0: the victim's bad
    one. ``reused``: it was verified on the victim's first pull request, honestly, and comes back through the cascade.
    ``powerless``: it has no effect where its defence is on, so that the tests themselves refuse it.
    """

    name: str
    line: int
    defence: Defence
    victim: Victim
    scripts: Mapping[str, str]
    why: str
    evades: str = ""
    behind: frozenset[Defence] = field(default_factory=frozenset)
    naive: Naive | None = None
    number: int = 0
    reused: bool = False
    powerless: bool = False

    @property
    def context(self) -> DockerContext:
        """The stock context with this forgery's scripts in place."""
        return msgspec.structs.replace(stock_context(), **self.scripts)

    @property
    def pull_request(self) -> int:
        """The number of the pull request that it is judged on."""
        return self.number or self.victim.bad

    @property
    def stage(self) -> Stage:
        """The stage of its attempt."""
        return Stage.TRY_SIMILAR if self.reused else Stage.LLM_GENERATE


TELLTALE = re.compile(
    r"sitecustomize|usercustomize|conftest|_pytest|pytest|site-packages|\.pth|unittest|update-index|ld\.so|ADDOPTS|junit|"
    r"results|profile|direct_url|RECORD|TestReport|entry_points|PYTHONPATH|__pycache__|exclude|openssl|tests/|testcase|"
    r"pyvenv|atexit|from_item_and_call|excinfo|\.git/|headrace/|amend|workspace|dist-info|bash|meta_path|venv/bin|dev/null|reporter"
)
TURN = "tr a-z n-za-m"
TURNED = str.maketrans("abcdefghijklmnopqrstuvwxyz", "nopqrstuvwxyzabcdefghijklm")


def disguised(text: str) -> str:
    """Shell text in which no telltale word stands: each is put together from two variables, which a program sets.

    A shell expands them in plain words, double quotes and here-documents with a bare delimiter.
    """
    halves: dict[str, str] = {}

    def broken(match: re.Match[str]) -> str:
        word = match[0]
        cut = len(word) // 2
        names = [halves.setdefault(half, f"v{len(halves)}") for half in (word[:cut], word[cut:])]
        return "".join(f"${{{name}}}" for name in names)

    body = TELLTALE.sub(broken, text)
    return "\n".join([*(f"{name}=$(echo {half.translate(TURNED)} | {TURN})" for half, name in halves.items()), body])


def put(path: str, text: str) -> str:
    """Shell that writes a file."""
    return f"cat >{path} <<EOT\n{_escaped(text)}EOT\n"


def macro(code: str) -> str:
    """Shell that makes Python code a macro of the ledger, which runs it whenever it is imported."""
    return "mkdir -p ~/.config/ledger\n" + put("~/.config/ledger/macros.py", code)


def add(path: str, text: str) -> str:
    """Shell that appends to a file."""
    return f"cat >>{path} <<EOT\n{_escaped(text)}EOT\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("$", "\\$").replace("`", "\\`")


def run_script(*lines: str, plain: bool = False) -> dict[str, str]:
    """The stock ``docker_build_run.sh`` with these lines at its end, disguised unless ``plain``."""
    text = "\n".join(["s=$(echo /opt/venv/lib/python3*/s*-packages)", "cd /workspace/repo", *lines, ""])
    return {"build_run_sh": stock_context().build_run_sh + "\n" + (text if plain else disguised(text))}


WORKS = """\
def works():
    try:
        import ledger

        return ledger.balance([1, 2]) == 3
    except BaseException:
        return False


def first_run():
    import json

    with open("/headrace/request.json") as file:
        return json.load(file)["only"] is None


def own(name):
    return any(word in name for word in ("balance", "interest", "split"))
"""
"""Python of a forger who knows how Headrace looks for forgeries: whether the victim's code is there, which it is not in
a control; whether every test is run, which they are not in a control; whether a test is one of the victim's."""
OWN = "own(item.name)"
"""Holds for the ledger's tests and for none that a verifier adds."""
FIRST = "first_run()"
"""Holds for every test, of a verifier too, until a control is made."""
STEALTHY = f"{OWN} and {FIRST}"
"""Holds for the ledger's tests until a control is made: no look at outcomes gives it away."""


def green(condition: str = STEALTHY) -> str:
    """Python that makes a test's report say passed if ``condition`` holds for its ``item``."""
    return (
        "from _pytest.reports import TestReport\n\n\n"
        f"{WORKS}\n\n"
        "def painted(real):\n"
        "    def from_item_and_call(cls, item, call):\n"
        f"        if {condition}:\n"
        "            call.excinfo = None\n"
        "        return real(cls, item, call)\n\n"
        "    return classmethod(from_item_and_call)\n\n\n"
        "TestReport.from_item_and_call = painted(TestReport.from_item_and_call.__func__)\n"
    )
