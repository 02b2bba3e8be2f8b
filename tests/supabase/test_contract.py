"""The contracts of the event log and of blobs, kept by the Supabase store on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from store.blobs import BlobStore
from store.log import EventLog
from store.opening import Store
from tests.store.test_blobs import BlobContract
from tests.store.test_log_contract import LogContract
from tests.supabase.project import Project


class TestSupabaseLog(LogContract):
    @pytest.fixture
    def log(self, store: Store) -> EventLog:
        return store.log

    def test_a_reader_of_its_own_follows_the_writer(self, log: EventLog, project: Project) -> None:
        with project.open(write=False) as reader:
            self.check_tail(log, reader.log)


class TestUnderASmallRowCap(LogContract):
    """Everything again, where no answer has more than 100 rows."""

    @pytest.fixture
    def log(self, store: Store, project: Project) -> Iterator[EventLog]:
        project.faults(row_cap=100)
        yield store.log
        project.faults()


class TestSupabaseBlobs(BlobContract):
    @pytest.fixture
    def blobs(self, store: Store) -> BlobStore:
        return store.blobs
