"""What both ways of seeing an image from outside promise, on images that a real engine built."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from actors.images import Engine, reap
from actors.images.engine import LABEL_ATTEMPT, LABEL_LOG
from actors.verifier.image.exported import ExportedImage
from actors.verifier.image.image_files import Entry, FileTooLarge, ImageFiles
from actors.verifier.image.layers import ImageRefused, LayeredImage, open_image
from tests.engine_fixtures import TestBench
from tests.images.contexts import bare_context
from tests.verifier.images import lay_over

pytestmark = pytest.mark.engine

BELOW = """set -e; mkdir -p /d/gone/deep /d/opaque /d/linked /d/kept /d/again; cd /d
echo 1 >gone/deep/a; echo 1 >gone/b; echo 1 >opaque/old; echo 1 >opaque/both; echo 1 >linked/x; echo same >kept/same
echo old >kept/new; echo 1 >kept/mode; echo 1 >kept/removed; ln -s same kept/link; echo 1 >again/before; echo 1 >file
echo 12345 >kept/size; printf x >kept/twice"""
ABOVE = r"""set -e; cd /d; rm -r gone; rm -r opaque; mkdir opaque; echo 2 >opaque/fresh; echo 1 >opaque/both
rm -r linked; ln -s /etc linked; rm kept/same; echo same >kept/same; echo NEW >kept/new; chmod 4755 kept/mode
rm kept/removed; ln -sf new kept/link; rm file; mkdir file; echo 1 >file/inside; echo hard >kept/one
ln kept/one kept/two; mkfifo kept/pipe; mknod kept/null c 1 3; truncate -s 300M kept/sparse
touch "$(printf 'kept/new\nline')" "$(printf 'kept/caf\351')"; ln -s /etc/passwd kept/absolute; ln -s /d/kept outside
rm -r again; echo y >kept/twice"""
ONCE_MORE = "set -e; cd /d; mkdir again; echo 2 >again/after; rm opaque/fresh; echo z >kept/twice"


@pytest.fixture(scope="module")
def images(engine: Engine, build_settings, bench_cache: Path, tmp_path_factory) -> Iterator[tuple[str, str]]:  # type: ignore[no-untyped-def]
    """A parent and an image of two layers on it; the parent stands in for a repository's."""
    folder = tmp_path_factory.mktemp("layers")
    bench = TestBench(engine=engine, settings=build_settings, cache_dir=bench_cache, folder=folder)
    project = bench.project()
    order = bench.order(project, project.commit({"a.py": "1\n"}))
    base, _ = bench.build(order, bare_context())
    made = [lay_over(engine, base.image_id, {"script.sh": BELOW}, run="bash /script.sh")]
    made.append(lay_over(engine, made[-1], {"script.sh": ABOVE}, run="bash /script.sh"))
    made.append(lay_over(engine, made[-1], {"script.sh": ONCE_MORE}, run="bash /script.sh", env={"COLOUR": "red"}))
    yield made[0], made[2]
    engine.api.remove_image(made[-1], force=True)  # and those below it
    bench.clean()


class ImageFilesContract:
    """Inherited by a suite per implementation; ``files`` is the image above the parent of ``images``."""

    def test_what_was_added_replaced_and_removed_is_what_differs(self, files: ImageFiles) -> None:
        changed = {path: entry for path, entry in files.changed().items() if path.startswith("d/")}
        gone = {path for path, entry in changed.items() if entry is None}
        assert gone == {
            *("d/gone", "d/gone/b", "d/gone/deep", "d/gone/deep/a", "d/opaque/old", "d/linked/x", "d/kept/removed"),
            "d/again/before",
        }
        kinds = {path: entry.kind for path, entry in changed.items() if entry is not None}
        assert kinds == {
            "d/again/after": "file",
            "d/file": "folder",
            "d/file/inside": "file",
            "d/kept/absolute": "link",
            "d/kept/caf\udce9": "file",
            "d/kept/link": "link",
            "d/kept/mode": "file",
            "d/kept/new": "file",
            "d/kept/new\nline": "file",
            "d/kept/null": "other",
            "d/kept/one": "file",
            "d/kept/pipe": "other",
            "d/kept/sparse": "file",
            "d/kept/twice": "file",
            "d/kept/two": "file",
            "d/linked": "link",
            "d/outside": "link",
        }
        assert list(changed) == sorted(changed, key=lambda path: path.split("/"))

    def test_a_file_written_again_with_the_same_content_does_not_differ(self, files: ImageFiles) -> None:
        assert {"d/kept/same", "d/opaque/both", "d/opaque", "d/again"}.isdisjoint(files.changed())

    def test_entries_tell_kind_mode_size_and_target(self, files: ImageFiles) -> None:
        assert files.entry("d/kept/mode") == Entry(path="d/kept/mode", kind="file", mode=0o4755, size=2)
        assert files.entry("d/linked") == Entry(path="d/linked", kind="link", mode=0o777, target="/etc")
        assert files.entry("d/file") == Entry(path="d/file", kind="folder", mode=0o755)
        assert files.parent_entry("d/file") == Entry(path="d/file", kind="file", mode=0o644, size=2)
        assert files.parent_entry("d/kept/removed") is not None

    @pytest.mark.parametrize("path", ["d/gone", "d/gone/b", "d/opaque/old", "d/opaque/fresh", "d/again/before"])
    def test_what_a_layer_removed_is_nowhere(self, files: ImageFiles, path: str) -> None:
        assert files.entry(path) is None
        assert path not in {entry.path for entry in files.walk("d")}
        with pytest.raises(FileNotFoundError):
            files.read(path)

    @pytest.mark.parametrize(
        "path", ["d/outside/same", "d/linked/passwd", "d/../etc/passwd", "d//kept", "", ".", "d/./kept"]
    )
    def test_no_link_and_no_detour_leads_anywhere(self, files: ImageFiles, path: str) -> None:
        assert files.entry(path) is None
        assert list(files.walk("d/outside")) == list(files.walk("d/linked")) == []
        with pytest.raises(FileNotFoundError):
            files.read(path)

    @pytest.mark.parametrize("path", ["d/kept/pipe", "d/kept/null", "d/kept/absolute", "d/kept", "d/kept/missing"])
    def test_only_regular_files_are_read_and_nothing_blocks(self, files: ImageFiles, path: str) -> None:
        with pytest.raises(FileNotFoundError):
            files.read(path)

    def test_contents_are_the_topmost_layers_and_the_parents_stay_to_be_read(self, files: ImageFiles) -> None:
        assert [files.read(f"d/kept/{name}") for name in ("new", "twice", "one", "two", "caf\udce9")] == [
            *(b"NEW\n", b"z\n", b"hard\n", b"hard\n", b"")
        ]
        assert files.read_parent("d/kept/new") == b"old\n"
        assert files.read_parent("d/kept/same") == b"same\n"
        assert files.read_parent("d/kept/removed") == b"1\n"
        with pytest.raises(FileNotFoundError):
            files.read_parent("d/kept/one")

    def test_a_file_that_is_too_large_is_not_read(self, files: ImageFiles) -> None:
        with pytest.raises(FileTooLarge, match="d/kept/sparse has 314572800"):
            files.read("d/kept/sparse")
        with pytest.raises(FileTooLarge):
            files.read("d/kept/new", max_bytes=3)

    def test_folders_are_walked_in_the_order_of_their_paths(self, files: ImageFiles) -> None:
        walked = [entry.path for entry in files.walk("d")]
        assert walked == sorted(walked, key=lambda path: path.split("/"))
        assert {"d/file/inside", "d/kept/two", "d/again/after"} <= set(walked)
        assert [entry.path for entry in files.children("d")] == [path for path in walked if path.count("/") == 1]

    def test_the_configuration_is_the_images_beside_its_parents(self, files: ImageFiles) -> None:
        assert files.config.environment["COLOUR"] == "red"
        assert "COLOUR" not in files.config.parent_environment
        assert files.config.parent_environment["VIRTUAL_ENV"] == "/opt/venv"
        assert files.config.volumes == []


@pytest.fixture(scope="module")
def layered(engine: Engine, images: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    """The image, read from the engine's layer folders."""
    return open_image(engine, images[1], parent_id=images[0], cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def exported(
    engine: Engine, images: tuple[str, str], layered: ImageFiles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ImageFiles]:
    """The image, read from an export."""
    cache = tmp_path_factory.mktemp("cache")
    with ExportedImage(
        engine, image_id=images[1], parent_id=images[0], cache_dir=cache, config=layered.config, labels={}
    ) as found:
        yield found


class TestLayers(ImageFilesContract):
    @pytest.fixture
    def files(self, layered: ImageFiles) -> ImageFiles:
        assert isinstance(layered, LayeredImage)
        return layered


class TestExport(ImageFilesContract):
    @pytest.fixture
    def files(self, exported: ImageFiles) -> ImageFiles:
        return exported


def test_an_image_of_another_parent_is_refused(engine: Engine, images: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="was not built on"):
        open_image(engine, images[0], parent_id=images[1], cache_dir=tmp_path)


def test_an_image_that_is_its_parent_does_not_differ(engine: Engine, images: tuple[str, str], tmp_path: Path) -> None:
    assert open_image(engine, images[0], parent_id=images[0], cache_dir=tmp_path).changed() == {}


def test_an_export_that_fails_leaves_no_container(
    engine: Engine, images: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_id, attempt = f"log-{uuid.uuid4().hex[:12]}", "attempt-1"
    seen: list[list[str]] = []

    def broken(*_: object, **__: object) -> Iterator[bytes]:
        seen.append([str(found["Id"]) for found in engine.containers({LABEL_LOG: log_id, LABEL_ATTEMPT: attempt})])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("docker.APIClient.export", broken)
    config = open_image(engine, images[1], parent_id=images[0], cache_dir=tmp_path).config
    with pytest.raises(Exception, match="No space left"):
        ExportedImage(
            engine,
            image_id=images[1],
            parent_id=images[0],
            cache_dir=tmp_path,
            config=config,
            labels={LABEL_LOG: log_id, LABEL_ATTEMPT: attempt},
        )
    assert [len(found) for found in seen] == [1]
    assert reap(engine, log_id=log_id) == []


def test_the_parents_index_is_made_once(
    engine: Engine, images: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []
    export = engine.api.__class__.export

    def counted(api: docker.APIClient, container: str, chunk_size: int) -> Iterator[bytes]:
        exported.append(container)
        return iter(export(api, container, chunk_size=chunk_size))

    monkeypatch.setattr("docker.APIClient.export", counted)
    config = open_image(engine, images[1], parent_id=images[0], cache_dir=tmp_path).config
    for _ in range(2):
        with ExportedImage(
            engine, image_id=images[1], parent_id=images[0], cache_dir=tmp_path, config=config, labels={}
        ) as files:
            assert "d/kept/new" in files.changed()
    assert len(exported) == 3
