"""Blobs on Supabase: what is stored is what was put, whatever died on the way; what was damaged is never returned."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from events.errors import LogCorrupt, LogUnavailable
from store.opening import Store
from store.supabase.blobs import PART_BYTES, SupabaseBlobs
from store.supabase.rest import Rest
from tests.supabase.project import Project

LARGE = bytes(range(251)) * (3 * PART_BYTES // 251)


def stored(project: Project) -> tuple[object, ...] | None:
    with project.raw() as raw:
        return raw.execute("SELECT (SELECT count(*) FROM blobs), (SELECT count(*) FROM blob_parts)").fetchone()


def test_a_large_blob_is_kept_in_parts(store: Store, project: Project) -> None:
    digest = store.blobs.put(LARGE)
    assert stored(project) == (1, 3)
    assert store.blobs.put(LARGE) == digest
    assert stored(project) == (1, 3)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_other_bytes_than_were_put_are_never_returned(store: Store, project: Project, part: int) -> None:
    digest = store.blobs.put(LARGE)
    with project.raw() as raw:
        raw.execute("UPDATE blob_parts SET data = set_byte(data, 5, 255 - get_byte(data, 5)) WHERE part = %s", (part,))
    for read in (store.blobs.get, store.blobs.open):
        with pytest.raises(LogCorrupt, match="its content does not match its digest"):
            read(digest)


def test_a_missing_part_is_named(store: Store, project: Project) -> None:
    digest = store.blobs.put(LARGE)
    with project.raw() as raw:
        raw.execute("DELETE FROM blob_parts WHERE part = 1")
    with pytest.raises(LogCorrupt, match=f"blob {digest} is damaged: its part 1 is missing"):
        store.blobs.get(digest)


def test_what_a_writer_that_died_left_is_no_blob_and_is_written_over(store: Store, project: Project) -> None:
    digest = hashlib.sha256(LARGE).hexdigest()
    with project.raw() as raw:
        raw.execute(
            "INSERT INTO blob_parts VALUES (%s, 0, 'other bytes'), (%s, 7, 'a part too many')", (digest, digest)
        )
    assert not store.blobs.has(digest)
    with pytest.raises(LogCorrupt, match="it is missing"):
        store.blobs.get(digest)
    assert store.blobs.put(LARGE) == digest
    assert store.blobs.get(digest) == LARGE


def test_parts_that_arrive_damaged_are_not_sealed(
    store: Store, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    rpc = Rest.rpc

    def damaging(rest: Rest, function: str, arguments: Any, **options: Any) -> Any:
        if function == "headrace_put_part" and arguments["part"] == 1:
            arguments = {**arguments, "data": "AAAA"}
        return rpc(rest, function, arguments, **options)

    monkeypatch.setattr(Rest, "rpc", damaging)
    with pytest.raises(LogUnavailable, match="arrives damaged"):
        store.blobs.put(LARGE)
    assert stored(project) == (0, 0)


def test_many_writers_of_one_blob_leave_one(store: Store, project: Project) -> None:
    with ThreadPoolExecutor(6) as pool:
        (digest,) = set(pool.map(lambda _: store.blobs.put(LARGE), range(12)))
    assert stored(project) == (1, 3)
    assert store.blobs.get(digest) == LARGE


def test_blobs_are_listed_in_order_under_a_row_cap(store: Store, project: Project) -> None:
    project.faults(row_cap=10)
    digests = sorted(store.blobs.put(str(n).encode()) for n in range(35))
    assert isinstance(store.blobs, SupabaseBlobs)
    assert list(store.blobs.digests()) == digests
