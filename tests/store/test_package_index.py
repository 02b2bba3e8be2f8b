"""The files of a package index: lists, hashes, and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import InfraError
from store.package_index import PackageIndex, UnknownProject
from tests.scripts.simple_index import SimpleIndex, wheel


@pytest.fixture
def index() -> Iterator[SimpleIndex]:
    with SimpleIndex() as index:
        yield index


def test_a_wheel_is_downloaded_once_and_kept_under_its_hash(index: SimpleIndex, tmp_path: Path) -> None:
    content = wheel("tool", "1.0")
    index.add("tool", "tool-1.0-py3-none-any.whl", content, uploaded=None)
    with PackageIndex(url=index.url, cache_dir=tmp_path) as client:
        (listed,) = client.files("tool")
        path = client.fetch(listed)
        asked = len(index.requests)
        assert client.fetch(listed) == path
    assert path.read_bytes() == content
    assert path.parent.name == "-".join(listed.digest)
    assert index.requests[asked:] == []


def test_a_file_that_differs_from_its_hash_is_not_kept(index: SimpleIndex, tmp_path: Path) -> None:
    index.add("tool", "tool-1.0-py3-none-any.whl", b"x", uploaded=None, hashes={"sha256": "0" * 64})
    with PackageIndex(url=index.url, cache_dir=tmp_path) as client:
        (listed,) = client.files("tool")
        with pytest.raises(InfraError, match="the index promises"):
            client.fetch(listed)
    assert list(tmp_path.rglob("*.whl")) == []


def test_a_project_that_the_index_does_not_have_is_told_apart(index: SimpleIndex, tmp_path: Path) -> None:
    with PackageIndex(url=index.url, cache_dir=tmp_path) as client, pytest.raises(UnknownProject):
        client.files("tool")
