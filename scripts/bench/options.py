"""What every benchmark is told."""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["Options"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """``folder``: an empty one for files, on the disk that is measured. ``seed``: of worlds and of the order of turns.

    ``quick``: small sizes and few repetitions, to see that everything runs; its figures mean little.
    """

    folder: Path
    seed: int = 1
    quick: bool = False
