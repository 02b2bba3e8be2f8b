"""Judges forgeries by hand: ``python -m tests.forged [--off DEFENCE,… | --weak] [--log] [NAME …]``."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from actors.images import Engine
from actors.images.outcomes import BuildFailed
from actors.settings import BuildSettings
from actors.verifier.defences import Defence
from tests.forged.contexts import FORGERIES, OPEN
from tests.forged.forgery import Forgery
from tests.forged.trial import EVERY, Trials
from tests.forged.victims import VICTIMS


def main(arguments: list[str]) -> None:
    """Prints one line a forgery, or, of ``honest``, one a victim's pull request."""
    weak, log = "--weak" in arguments, "--log" in arguments
    off = [value.removeprefix("--off=").split(",") for value in arguments if value.startswith("--off=")]
    without = EVERY if weak else frozenset(Defence(name) for name in (off[0] if off else []))
    names = [value for value in arguments if not value.startswith("--")]
    shared = Path(os.environ.get("HEADRACE_TEST_CACHE") or "~/.cache/headrace-tests").expanduser() / "rootfs"
    shared.mkdir(parents=True, exist_ok=True)
    cache = shared.parent / "forged-by-hand"
    cache.mkdir(exist_ok=True)
    if not (cache / "rootfs").is_symlink():
        (cache / "rootfs").symlink_to(shared)
    folder = Path(tempfile.mkdtemp(prefix="forged-"))
    settings = BuildSettings(provider="debootstrap", ca_bundle=os.environ.get("SSL_CERT_FILE", ""), timeout_s=600)
    trials = Trials(engine=Engine(), settings=settings, cache_dir=cache, folder=folder)

    def judge(forgery: Forgery) -> str:
        began = time.monotonic()
        try:
            verdict = trials.forged(forgery, without=without, loose=weak or bool(without))
        except BuildFailed as exc:
            return f"{forgery.name}: BUILD {exc}\n{exc.log_tail[-1500:]}"
        failed = next((check.name for check in verdict.checks if not check.ok), "-")
        text = f"{'GREEN' if verdict.verified else 'refused'} {forgery.name} [{failed}, {forgery.defence}] "
        text += f"{verdict.message[:300]} ({time.monotonic() - began:.1f} s)"
        return text + ("\n" + verdict.log_tail if log else "")

    try:
        if names == ["honest"]:
            for victim in VICTIMS:
                for number in range(1, len(victim.commits) + 1):
                    try:
                        verdict = trials.honest(victim, number)
                    except BuildFailed as exc:
                        print(victim.name, number, "BUILD", exc)
                        continue
                    print(victim.name, number, verdict.verified, verdict.stage, verdict.message)
            return
        chosen = [f for f in (*FORGERIES, *OPEN) if not names or any(f.name.startswith(name) for name in names)]
        with ThreadPoolExecutor(2) as pool:
            for line in pool.map(judge, chosen):
                print(line, flush=True)
    finally:
        trials.close()


if __name__ == "__main__":
    main(sys.argv[1:])
