"""Opens a log as a resumed run does, in a process of its own: ``python -m scripts.bench.opened URL``.

Opening is ``open_store`` for writing (its lock, the quick check of the last events) and the states that a run goes on
from: the sweep's, the governor's, and those of all repositories that are not retired. A run loads the latter in actors,
a few at a time; here one process loads them one after another and keeps them all. Prints JSON: seconds from the call of
``open_store`` on, those of them that the process had a core, its peak memory, and how many events the states are of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter, process_time

import msgspec

from events.sweep import RepositoryPhase, SweepState
from scripts.bench.material import SWEEP
from store.opening import open_store
from store.snapshots import load

__all__ = ["Opened", "peak_memory_mib"]


class Opened(msgspec.Struct, frozen=True):
    """What one opening took."""

    seconds: float
    cpu_s: float
    peak_mib: float
    events: int


def peak_memory_mib() -> float:
    """The most memory that this process has had resident, in MiB; of this program alone, unlike ``getrusage``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _open(url: str) -> Opened:
    begun, cpu_begun = perf_counter(), process_time()
    with open_store(url, write=True, holder="bench") as store:
        sweep: SweepState = load(store.log, f"sweep:{SWEEP}").state
        states = [sweep, load(store.log, "governor").state]
        for name, one in sweep.repositories.items():
            if one.phase is not RepositoryPhase.RETIRED:
                states.append(load(store.log, f"repository:{name}").state)
        took, cpu_took = perf_counter() - begun, process_time() - cpu_begun
    events = sum(state.version for state in states)
    return Opened(round(took, 3), round(cpu_took, 3), round(peak_memory_mib(), 1), events)


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(_open(sys.argv[1])).decode())
