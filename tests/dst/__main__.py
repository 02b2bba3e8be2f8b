"""Long runs and replays of the simulation: ``python -m tests.dst --seeds 1000:2000``, ``python -m tests.dst --seed 7``.

``--seeds A:B`` runs the seeds from A up to but not including B, prints each that fails with what broke, and a summary;
``--keep-going`` goes on after a failure, ``--jobs`` shares the seeds among processes. ``--seed N`` replays one seed and
prints every step of it. The exit code is 1 when a seed failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from multiprocessing import get_context

from tests.dst.seeds import try_seed
from tests.dst.world import run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.dst", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", metavar="A:B", help="from A up to but not including B")
    what.add_argument("--seed", type=int, metavar="N", help="replays one seed, step by step")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; default: 1")
    parser.add_argument("--keep-going", action="store_true", help="goes on after a failure")
    given = parser.parse_args()
    if given.seed is not None:
        print(run_seed(given.seed, show=print))
        return 0
    first, _, last = given.seeds.partition(":")
    began, done, deaths, failed = time.monotonic(), 0, 0, []
    with get_context("spawn").Pool(given.jobs) as pool:
        for seed, died, trouble in pool.imap(try_seed, range(int(first), int(last))):
            done += 1
            deaths += died
            if trouble:
                failed.append(seed)
                print(f"seed {seed} failed", trouble, sep="\n", flush=True)
                if not given.keep_going:
                    break
    took = time.monotonic() - began
    print(f"{done} seeds, {deaths} deaths, {took:.1f} s; failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
