"""Large blobs in Supabase Storage: there whole or not at all, checked on read, and in the table where there is none."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from loguru import logger

from events.errors import LogCorrupt, LogUnavailable
from scripts.doctor_supabase import look_at_supabase
from scripts.findings import Finding, Status
from store.blobs import BlobStore, ListedBlobs
from store.copying import copy_store
from store.opening import Store, open_store
from store.supabase import blobs as blobs_module
from store.supabase.blobs import LARGE_BYTES, SupabaseBlobs
from store.supabase.credentials import Credentials
from store.supabase.migrating import MIGRATIONS, apply
from store.supabase.rest import Rest
from store.supabase.storage import BUCKET
from tests.store.test_blobs import BlobContract
from tests.supabase.gateway import key_of
from tests.supabase.project import ROOT, Project, Projects
from tests.supabase.test_migrations import schema_of

LARGE = bytes(range(251)) * (LARGE_BYTES // 251 + 1)
DIGEST = hashlib.sha256(LARGE).hexdigest()
IMPATIENT_S = 2.0


def where(project: Project) -> list[tuple[object, ...]]:
    """Each blob's place, size and number of parts, and how many parts there are."""
    with project.raw() as raw:
        return raw.execute(
            "SELECT stored_in, size, parts, (SELECT count(*) FROM blob_parts AS p WHERE p.digest = b.digest) "
            "FROM blobs AS b ORDER BY size"
        ).fetchall()


def object_of(project: Project, digest: str = DIGEST) -> Path:
    return project.objects / BUCKET / digest


IN_STORAGE = [("storage", len(LARGE), 0, 0)]
IN_PARTS = [("parts", len(LARGE), 5, 5)]


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is logged from level INFO on."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message.record["message"])), level="INFO")
    yield lines
    logger.remove(sink)


@pytest.fixture
def impatient(project: Project) -> Iterator[SupabaseBlobs]:
    """Blobs that do not wait long for a project."""
    rest = Rest(Credentials(url=project.url, key=project.key), patience_s=IMPATIENT_S)
    yield SupabaseBlobs(rest)
    rest.close()


def test_what_is_large_is_an_object_and_what_is_small_is_in_the_table(
    store: Store, project: Project, said: list[str]
) -> None:
    small = store.blobs.put(b"x" * LARGE_BYTES)
    assert not project.objects.exists()
    assert store.blobs.put(LARGE) == DIGEST
    assert where(project) == [("parts", LARGE_BYTES, 4, 4), *IN_STORAGE]
    assert object_of(project).read_bytes() == LARGE
    assert store.blobs.get(DIGEST) == LARGE
    with store.blobs.open(DIGEST) as file:
        assert file.read() == LARGE
    assert isinstance(store.blobs, ListedBlobs)
    assert list(store.blobs.digests()) == sorted([small, DIGEST])
    assert not [line for line in said if "Storage" in line]


@pytest.mark.parametrize("size", [len(LARGE), (9 << 20) + 5], ids=["kept in memory", "kept in a temporary file"])
def test_a_large_file_is_an_object_too(store: Store, project: Project, tmp_path: Path, size: int) -> None:
    source = tmp_path / "build.log"
    content = (LARGE * 3)[:size]
    source.write_bytes(content)
    digest = store.blobs.put_file(source)
    assert object_of(project, digest).read_bytes() == content
    assert store.blobs.get(digest) == content


@pytest.mark.parametrize("fault", ["off", "forbidden"])
def test_without_storage_large_blobs_are_kept_in_parts_and_that_is_said_once(
    store: Store, project: Project, said: list[str], fault: str
) -> None:
    project.storage(**{fault: True})
    assert store.blobs.put(LARGE) == DIGEST
    store.blobs.put(LARGE[1:])
    assert {row[0] for row in where(project)} == {"parts"}
    assert store.blobs.get(DIGEST) == LARGE
    assert len([line for line in said if "Storage is not used" in line]) == 1
    assert not project.objects.exists()


def test_storage_that_does_not_answer_when_it_is_first_asked_is_not_used(
    impatient: SupabaseBlobs, project: Project, said: list[str]
) -> None:
    project.storage(unavailable=10_000)
    assert impatient.put(LARGE) == DIGEST
    assert where(project) == IN_PARTS
    assert any("Storage is not used" in line and "503" in line for line in said)


def test_a_bucket_that_everybody_can_read_is_not_used(store: Store, project: Project, said: list[str]) -> None:
    (project.objects / BUCKET).mkdir(parents=True)
    (project.objects / BUCKET / ".public").touch()
    store.blobs.put(LARGE)
    assert where(project) == IN_PARTS
    assert any(f"its bucket {BUCKET} is public; make it private" in line for line in said)


def test_what_is_above_the_size_limit_of_storage_is_kept_in_parts(
    store: Store, project: Project, said: list[str]
) -> None:
    project.storage(limit_bytes=len(LARGE) - 1)
    store.blobs.put(LARGE)
    store.blobs.put(LARGE[1:])
    assert [row[0] for row in where(project)] == ["storage", "parts"]
    assert len([line for line in said if "above the size limit" in line]) == 1


def test_storage_that_is_switched_off_meanwhile_loses_nothing(store: Store, project: Project, said: list[str]) -> None:
    store.blobs.put(LARGE)
    project.storage(off=True)
    digest = store.blobs.put(LARGE[1:])
    assert [row[0] for row in where(project)] == ["parts", "storage"]
    assert store.blobs.get(digest) == LARGE[1:]
    assert len([line for line in said if "Storage is not used any more" in line]) == 1


@pytest.mark.parametrize("change", ["a byte", "cut", "empty"])
def test_other_bytes_than_were_put_are_never_returned(store: Store, project: Project, change: str) -> None:
    store.blobs.put(LARGE)
    damaged = {"a byte": LARGE[:-1] + b"?", "cut": LARGE[:-1], "empty": b""}[change]
    object_of(project).write_bytes(damaged)
    for read in (store.blobs.get, store.blobs.open):
        with pytest.raises(LogCorrupt, match=f"blob {DIGEST} is damaged: its content does not match its digest"):
            read(DIGEST)


def test_an_object_that_is_missing_is_named(store: Store, project: Project) -> None:
    store.blobs.put(LARGE)
    object_of(project).unlink()
    with pytest.raises(LogCorrupt, match=f"blob {DIGEST} is damaged: it is missing from the bucket {BUCKET}"):
        store.blobs.get(DIGEST)


def test_503_and_answers_that_are_lost_or_cut_are_asked_for_again(store: Store, project: Project) -> None:
    project.storage(unavailable=3)
    store.blobs.put(b"x" + LARGE)
    project.storage(unavailable=2, cut_uploads=2, cut_downloads=1)
    assert store.blobs.put(LARGE) == DIGEST
    assert where(project)[0] == IN_STORAGE[0]
    project.storage(unavailable=2, cut_downloads=2)
    assert store.blobs.get(DIGEST) == LARGE
    project.storage(unavailable=2, cut_downloads=2)
    with store.blobs.open(DIGEST) as file:
        assert file.read() == LARGE


def test_an_upload_that_arrives_damaged_is_made_again(store: Store, project: Project) -> None:
    project.storage(damage_uploads=2)
    store.blobs.put(LARGE)
    assert where(project) == IN_STORAGE
    assert store.blobs.get(DIGEST) == LARGE


def test_what_always_arrives_damaged_is_no_blob(store: Store, project: Project) -> None:
    project.storage(damage_uploads=100)
    with pytest.raises(LogUnavailable, match=r"arrives damaged in Storage at .*; nothing was stored, put it again"):
        store.blobs.put(LARGE)
    assert where(project) == []
    assert not store.blobs.has(DIGEST)
    project.storage()
    assert store.blobs.put(LARGE) == DIGEST
    assert store.blobs.get(DIGEST) == LARGE


KILLED = f"""
import os, signal
from store.opening import open_store
from store.supabase.migrating import MIGRATIONS, apply
from store.supabase.rest import Rest

rpc = Rest.rpc

def dying(rest, function, arguments, **options):
    if function == "headrace_seal_stored":
        os.kill(os.getpid(), signal.SIGKILL)
    return rpc(rest, function, arguments, **options)

Rest.rpc = dying
with open_store("supabase", write=True) as store:
    store.blobs.put(bytes(range(251)) * {LARGE_BYTES // 251 + 1})
"""


def test_a_writer_that_is_killed_between_object_and_row_leaves_no_blob_and_the_next_one_puts_it(
    project: Project,
) -> None:
    with project.in_environment(PYTHONPATH=str(ROOT)):
        done = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert object_of(project).read_bytes() == LARGE
    object_of(project).write_bytes(b"what another death could have left")
    with project.open() as store:
        assert not store.blobs.has(DIGEST)
        with pytest.raises(LogCorrupt, match="it is missing"):
            store.blobs.get(DIGEST)
        assert store.blobs.put(LARGE) == DIGEST
        assert store.blobs.get(DIGEST) == LARGE
    assert where(project) == IN_STORAGE


def test_parts_of_a_writer_that_died_go_when_the_object_becomes_the_blob(store: Store, project: Project) -> None:
    with project.raw() as raw:
        raw.execute("INSERT INTO blob_parts VALUES (%s, 0, 'other bytes'), (%s, 7, 'and more')", (DIGEST, DIGEST))
    store.blobs.put(LARGE)
    assert where(project) == IN_STORAGE
    with project.raw() as raw:
        assert raw.execute("SELECT count(*) FROM blob_parts").fetchone() == (0,)


def test_a_blob_stays_where_it_was_put_first(store: Store, project: Project) -> None:
    project.storage(off=True)
    store.blobs.put(LARGE)
    project.storage()
    with project.open(write=False) as later:
        later.blobs.put(LARGE)
        later.blobs.put(LARGE[1:])
    with project.raw() as raw:
        raw.execute("SELECT headrace_seal_stored(%s, %s)", (DIGEST, len(LARGE)))
    assert [row[0] for row in where(project)] == ["storage", "parts"]
    assert store.blobs.get(DIGEST) == LARGE
    assert store.blobs.get(hashlib.sha256(LARGE[1:]).hexdigest()) == LARGE[1:], "its own probe found no Storage"


def test_many_writers_of_one_large_blob_leave_one(project: Project) -> None:
    def put(_: int) -> str:
        with open_store("supabase", write=False) as one:
            return one.blobs.put(LARGE)

    with project.in_environment(), ThreadPoolExecutor(4) as pool:
        assert set(pool.map(put, range(8))) == {DIGEST}
    assert where(project) == IN_STORAGE
    with project.open(write=False) as store:
        assert store.blobs.get(DIGEST) == LARGE


def test_storage_that_is_away_on_read_is_a_clear_error_with_its_remedy(
    impatient: SupabaseBlobs, project: Project
) -> None:
    impatient.put(LARGE)
    for fault in ("off", "forbidden"):
        project.storage(**{fault: True})
        for read in (impatient.get, impatient.open):
            with pytest.raises(LogUnavailable, match=r"is kept in Supabase Storage.*; switch Storage on again") as away:
                read(DIGEST)
            assert project.key not in str(away.value)
    project.storage(unavailable=10_000)
    with pytest.raises(LogUnavailable, match=r"cannot answer now .Storage, HTTP 503.*the call may be repeated"):
        impatient.get(DIGEST)
    project.storage()
    assert impatient.get(DIGEST) == LARGE


@pytest.mark.parametrize("role", ["anon", "authenticated", None])
def test_outsiders_read_no_object(store: Store, project: Project, role: str | None) -> None:
    store.blobs.put(LARGE)
    paths = [f"object/{BUCKET}/{DIGEST}", f"object/public/{BUCKET}/{DIGEST}", f"bucket/{BUCKET}"]

    def answers(headers: dict[str, str]) -> list[bool]:
        with httpx.Client(base_url=f"{project.url}/storage/v1", headers=headers, timeout=10) as http:
            return [http.get(path).is_success for path in paths]

    assert answers({"Authorization": f"Bearer {project.key}"}) == [True, False, True]
    assert answers({} if role is None else {"Authorization": f"Bearer {key_of(role)}"}) == [False, False, False]


def test_a_copy_brings_large_blobs_from_storage_and_into_it(store: Store, projects: Projects, tmp_path: Path) -> None:
    store.blobs.put(LARGE)
    store.blobs.put(b"small")
    other = projects.new()
    with open_store(f"sqlite:///{tmp_path}/copy.db", write=True) as local, other.open() as there:
        assert copy_store(store, local, on_progress=lambda *_: None).blobs == 2
        assert local.blobs.get(DIGEST) == LARGE
        assert copy_store(local, there, on_progress=lambda *_: None).blobs == 2
        assert there.blobs.get(DIGEST) == LARGE
        assert where(other) == [("parts", 5, 1, 1), *IN_STORAGE]
    projects.remove(other)


def test_a_project_of_before_is_lifted_with_its_blobs_and_may_be_lifted_again(
    projects: Projects, project: Project
) -> None:
    old = projects.new(empty=True)
    apply(old.database_url, up_to=6)
    digest = hashlib.sha256(b"old").hexdigest()
    with old.raw() as raw:
        raw.execute("SELECT headrace_put_part(%s, 0, %s)", (digest, b64encode(b"old").decode()))
        raw.execute("SELECT headrace_seal(%s, 1)", (digest,))
        for migration in (MIGRATIONS[6], MIGRATIONS[6], MIGRATIONS[4]):
            raw.execute(migration.sql.encode())
    assert schema_of(old) == schema_of(project)
    with old.open() as store:
        assert store.blobs.get(digest) == b"old"
        store.blobs.put(LARGE)
        assert where(old) == [("parts", 3, 1, 1), *IN_STORAGE]
    projects.remove(old)


def test_only_the_service_role_makes_an_object_a_blob(project: Project) -> None:
    for role, status in (("anon", 401), ("authenticated", 403), ("service_role", 204)):
        answer = httpx.post(
            f"{project.url}/rest/v1/rpc/headrace_seal_stored",
            json={"digest": DIGEST, "size": 1},
            headers={"Authorization": f"Bearer {key_of(role)}"},
        )
        assert answer.status_code == status, role


def test_doctor_says_whether_storage_can_be_used_and_makes_nothing(project: Project) -> None:
    def look() -> Finding:
        with project.in_environment():
            found = [check() for check in look_at_supabase()]
        return next(one for one in found if one is not None and one.name == "store blobs")

    assert look().status is Status.OK
    assert f"above 4 MiB they go to Storage (bucket {BUCKET})" in look().seen
    assert not project.objects.exists()
    project.storage(off=True)
    found = look()
    assert found.status is Status.WARN
    assert "Storage cannot be used: HTTP 404" in found.seen


class TestBlobsInStorage(BlobContract):
    """The contract, with everything but the empty blob in Storage."""

    @pytest.fixture
    def blobs(self, store: Store, project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobStore]:
        monkeypatch.setattr(blobs_module, "LARGE_BYTES", 0)
        yield store.blobs
        places = {row[0] for row in where(project) if row[1]}
        assert places <= {"storage"}
