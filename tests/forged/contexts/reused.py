"""Line 14: contexts that verify honestly on a first pull request and forge when they come back on another."""

from __future__ import annotations

from actors.verifier.defences import Defence
from tests.forged.contexts.plugins import WHEEL, late
from tests.forged.contexts.trees import ALWAYS_GREEN
from tests.forged.forgery import OWN, Forgery, add, green, macro, put, run_script
from tests.forged.victims import GOOD_BOOKS, LEDGER

__all__ = ["REUSED"]


def when(condition: str, *lines: str) -> dict[str, str]:
    """A run script whose lines are run only if a shell command succeeds."""
    return run_script(f"if {condition}; then", *lines, "fi")


SECOND = "grep -q '\"issue_number\": 2' /opt/headrace/pull_request.json"
LATER_COMMIT = "[ -e CHANGES ]"
OTHER_COMMIT = '[ "$(git rev-list --count HEAD)" -gt 1 ]'

REUSED = (
    Forgery(
        name="green_tests_on_the_second_pull_request",
        line=14,
        defence=Defence.TREE,
        behind=frozenset({Defence.COLLECTION}),
        victim=LEDGER,
        reused=True,
        scripts=when(SECOND, put("test_wellbeing.py", ALWAYS_GREEN)),
        why="lines 14 and 2: the script reads the number of the pull request",
    ),
    Forgery(
        name="runner_edited_for_a_later_commit",
        line=14,
        defence=Defence.PROVENANCE,
        victim=LEDGER,
        reused=True,
        scripts=when(LATER_COMMIT, add("$s/_pytest/reports.py", green())),
        why="lines 14 and 4: the script looks for a file that only the later commit has",
    ),
    Forgery(
        name="plugin_for_a_later_commit",
        line=14,
        defence=Defence.PROVENANCE,
        behind=frozenset({Defence.PLUGINS}),
        victim=LEDGER,
        reused=True,
        scripts=when(OTHER_COMMIT, put("/tmp/colours.py", green()), WHEEL),
        why="lines 14 and 11: the script counts the commits",
    ),
    Forgery(
        name="source_mended_for_the_second_pull_request",
        line=14,
        defence=Defence.TREE,
        victim=LEDGER,
        reused=True,
        scripts=when(
            SECOND,
            put("src/ledger/books.py", GOOD_BOOKS),
            "git update-index --assume-unchanged src/ledger/books.py",
        ),
        why="lines 14 and 5",
    ),
    Forgery(
        name="macro_that_paints_on_the_second_pull_request",
        line=14,
        defence=Defence.CONTROL,
        victim=LEDGER,
        reused=True,
        scripts=when(SECOND, macro(late(green(OWN)))),
        why="lines 14 and 11: a macro is there where it pays",
    ),
)
