"""Streams as their actors read them back."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest

from actors.log_client import LogClient, StreamWriter
from actors.log_writer import LogWriter
from events.errors import LogCorrupt
from events.governor import GovernorState, evolve
from events.types import GovernorClaimed
from store.opening import open_store
from store.pruning import prune
from tests.actors.local import LocalRef


def test_a_pruned_stream_whose_snapshot_is_of_no_use_is_named_with_what_is_gone(tmp_path: Path) -> None:
    ids = (f"e{number}" for number in itertools.count())
    with open_store(f"sqlite:///{tmp_path}/log.db", write=True) as store:
        writer = LocalRef("log", LogWriter("", "", lambda *_, **__: store))
        stream = StreamWriter(LogClient(writer), "governor", clock=lambda: 1.0, new_id=lambda: next(ids))

        async def write() -> None:
            state = GovernorState()
            for number in range(5):
                event = GovernorClaimed(incarnation=f"i{number}")
                await stream.append([event])
                evolve(state, event)
            await stream.keep(state, every=1)

        asyncio.run(write())
        assert prune(store.log, "governor") == 4
        assert asyncio.run(stream.load()).incarnation == "i4", "from the snapshot"
        kept = store.log.snapshot("governor")
        assert kept is not None
        store.log.put_snapshot(msgspec.structs.replace(kept, shape="of another version"))
        with pytest.raises(
            LogCorrupt, match=r"stream governor is damaged: its versions 1 to 4 were pruned and the snapshot"
        ):
            asyncio.run(stream.load())
