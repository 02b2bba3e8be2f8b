"""Runs a sweep with the scripted workbench in a process of its own: ``python -m tests.actors.drive FOLDER [ADDRESS]``.

FOLDER holds ``rows.jsonl``, ``script.json`` and ``settings.json``; the log is in the store ``HEADRACE_TEST_STORE``, and
what lived meanwhile is in ``alive.jsonl``, a look a line. The exit code is 0 when the sweep finished, 130 when it was
interrupted, else 3.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path

import msgspec

from actors.driver import RunOptions, StopSwitch, run_sweep
from actors.gateway import ClusterInfo, living
from actors.settings import Settings
from actors.supervisor import SweepProgress
from events.work import PullRequest
from tests.scripted import make_scripted


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """A look at a run: the repositories that live, as the supervisor tells, and all actors, as Ray tells."""

    repositories: list[str]
    actors: list[str]


def main(folder: Path, address: str | None = None) -> int:
    settings = msgspec.json.decode((folder / "settings.json").read_bytes(), type=Settings)
    rows = msgspec.json.Decoder(PullRequest).decode_lines((folder / "rows.jsonl").read_bytes())
    switch = StopSwitch()

    def press(*_: object) -> None:
        switch.presses += 1

    def show(progress: SweepProgress, _: ClusterInfo) -> None:
        signal.signal(signal.SIGINT, press)
        (folder / "phase").write_text(progress.phase)
        alive = Alive(repositories=[one.repository for one in progress.active], actors=living())
        with (folder / "alive.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(alive) + b"\n")

    options = RunOptions(
        store_url=os.environ["HEADRACE_TEST_STORE"],
        sweep=os.environ.get("HEADRACE_TEST_SWEEP", "s"),
        settings=settings,
        address=address,
        workbench=functools.partial(make_scripted, folder),
    )
    progress = run_sweep(options, rows=rows, timeline="rows.jsonl", on_progress=show, switch=switch)
    print(progress.phase, progress.message, flush=True)
    return {"finished": 0, "interrupted": 130}.get(progress.phase, 3)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
