"""Blobs: the contract of both stores, and what files must survive."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from events.errors import InputError, LogCorrupt, LogUnavailable
from store.blobs import BlobStore, FileBlobs, MemoryBlobs

ROOT = Path(__file__).resolve().parents[2]
ABSENT = "0" * 64


class BlobContract:
    """Inherited by the tests of each store, which give ``blobs``."""

    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        raise NotImplementedError

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 20_000], ids=["empty", "small", "large"])
    def test_what_is_put_is_got_under_its_digest(self, blobs: BlobStore, data: bytes) -> None:
        digest = blobs.put(data)
        assert digest == hashlib.sha256(data).hexdigest()
        assert blobs.get(digest) == data
        with blobs.open(digest) as file:
            assert file.read() == data
        assert blobs.has(digest)
        assert not blobs.has(ABSENT)

    def test_a_file_is_put_as_its_content(self, blobs: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "build.log"
        source.write_bytes(b"line\n" * 700_000)
        digest = blobs.put_file(source)
        source.write_bytes(b"written over")
        assert blobs.get(digest) == b"line\n" * 700_000
        assert blobs.put(b"line\n" * 700_000) == digest

    def test_putting_twice_is_putting_once(self, blobs: BlobStore) -> None:
        assert blobs.put(b"x") == blobs.put(b"x")

    def test_a_file_that_cannot_be_read_is_named(self, blobs: BlobStore, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nothing-here cannot be read: No such file"):
            blobs.put_file(tmp_path / "nothing-here")

    def test_a_missing_blob_is_named(self, blobs: BlobStore) -> None:
        for read in (blobs.get, blobs.open):
            with pytest.raises(LogCorrupt, match=f"blob {ABSENT} is damaged: it is missing"):
                read(ABSENT)

    @pytest.mark.parametrize("digest", ["", "abc", "../../etc/passwd", "A" * 64, "0" * 63 + "/", "0" * 64 + "\n"])
    def test_what_is_no_digest_is_refused(self, blobs: BlobStore, digest: str) -> None:
        for call in (blobs.get, blobs.open, blobs.has):
            with pytest.raises(ValueError, match="is no SHA-256 digest"):
                call(digest)


class TestMemoryBlobs(BlobContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        return MemoryBlobs()


class TestFileBlobs(BlobContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        return FileBlobs(tmp_path / "blobs")


def files_of(blobs: FileBlobs) -> list[str]:
    return sorted(str(path.relative_to(blobs.root)) for path in blobs.root.rglob("*") if path.is_file())


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs")


def test_a_blob_is_one_file_in_a_folder_of_its_first_two_digits(blobs: FileBlobs) -> None:
    digest = blobs.put(b"content")
    assert files_of(blobs) == [f"{digest[:2]}/{digest[2:]}"]


def test_other_bytes_than_were_put_are_never_returned(blobs: FileBlobs) -> None:
    digest = blobs.put(b"content")
    (blobs.root / digest[:2] / digest[2:]).write_bytes(b"contend")
    for read in (blobs.get, blobs.open):
        with pytest.raises(LogCorrupt, match="its content does not match its digest"):
            read(digest)


def test_a_shortened_blob_is_mended_by_putting_it_again(blobs: FileBlobs) -> None:
    digest = blobs.put(b"content")
    (blobs.root / digest[:2] / digest[2:]).write_bytes(b"")
    assert blobs.put(b"content") == digest
    assert blobs.get(digest) == b"content"


def test_many_writers_of_one_blob_leave_one_file(blobs: FileBlobs) -> None:
    data = b"x" * 3_000_000
    with ThreadPoolExecutor(8) as pool:
        (digest,) = set(pool.map(lambda _: blobs.put(data), range(16)))
    assert files_of(blobs) == [f"{digest[:2]}/{digest[2:]}"]
    assert blobs.get(digest) == data


def test_a_full_disk_stores_nothing_and_says_so(blobs: FileBlobs) -> None:
    small = blobs.put(b"small")
    program = f"""
import resource, signal
from events.errors import LogUnavailable
from store.blobs import FileBlobs
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    FileBlobs("{blobs.root}").put(b"x" * 200_000)
except LogUnavailable as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cannot be written: File too large; free some space" in done.stdout
    assert files_of(blobs) == [f"{small[:2]}/{small[2:]}"]


def test_a_writer_that_is_killed_leaves_no_wrong_blob(blobs: FileBlobs) -> None:
    program = f"""
from store.blobs import FileBlobs
blobs = FileBlobs("{blobs.root}")
for n in range(10_000):
    print(blobs.put(n.to_bytes(4, "big") * 100_000), flush=True)
"""
    for moment in (1, 3, 8):
        with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged = [writer.stdout.readline().strip() for _ in range(moment)]
            writer.kill()
        for digest in acknowledged:
            assert len(blobs.get(digest)) == 400_000
    for name in files_of(blobs):
        folder, _, rest = name.partition("/")
        if folder != "tmp":
            blobs.get(folder + rest)


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LogUnavailable, match="cannot be written: Not a directory"):
        FileBlobs(tmp_path / "file" / "blobs").put(b"x")
