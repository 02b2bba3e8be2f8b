"""Line 13: what never ends, and what is ended."""

from __future__ import annotations

from actors.verifier.defences import Defence
from tests.forged.contexts.results import OUTCOMES
from tests.forged.forgery import Forgery, Naive, run_script
from tests.forged.victims import ENDLESS, PICKY

__all__ = ["ENDINGS"]

ENDINGS = (
    Forgery(
        name="test_that_never_ends",
        line=13,
        defence=Defence.DEADLINE,
        behind=OUTCOMES | {Defence.COLLECTION},
        victim=ENDLESS,
        number=1,
        scripts={},
        naive=Naive.TIMEOUT_PASSES,
        why="nothing is forged: a run that was ended has no failures in its report",
    ),
    Forgery(
        name="process_that_never_ends_after_a_green_report",
        line=13,
        defence=Defence.DEADLINE,
        victim=ENDLESS,
        number=2,
        scripts={},
        evades="a look at the report alone: it is whole and green",
        why="a thread that the tests started keeps the process",
    ),
    Forgery(
        name="import_that_never_ends",
        line=13,
        defence=Defence.DEADLINE,
        behind=OUTCOMES | {Defence.COLLECTION, Defence.ORIGIN},
        victim=ENDLESS,
        number=3,
        scripts={},
        naive=Naive.TIMEOUT_PASSES,
        why="the import check is ended, and so are the tests",
    ),
    Forgery(
        name="pipe_in_place_of_a_list",
        line=13,
        defence=Defence.DEADLINE,
        behind=OUTCOMES | {Defence.COLLECTION},
        victim=PICKY,
        scripts=run_script("mkdir -p ~/.config/picky", "mkfifo ~/.config/picky/only.txt"),
        naive=Naive.TIMEOUT_PASSES,
        evades="TREE, COLLECTION: nothing is collected any more, by anybody",
        why="the project's own conftest waits for ever for a list, so that no failing test is reached",
    ),
)
