"""Root file systems: which mirror this machine's package sources name, and what a failed debootstrap says."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from actors.images.outcomes import BuildCancelled
from actors.images.rootfs import Rootfs, apt_mirror, make_rootfs
from events.errors import InfraError, SettingError
from store.locks import file_lock

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


def sources(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir()
    for name, text in files.items():
        path = folder / "sources.list" if name == "main" else folder / "sources.list.d" / name.replace("_", ".")
        path.write_text(text)
    return folder


def test_the_mirror_is_read_from_deb822_sources(tmp_path: Path) -> None:
    assert apt_mirror(sources(tmp_path, debian_sources=DEB822)) == "http://mirror.example/debian"


def test_the_mirror_is_read_from_one_line_sources(tmp_path: Path) -> None:
    line = "deb [signed-by=/k.gpg arch=amd64] https://mirror.example/debian/ trixie main # ours\n"
    assert apt_mirror(sources(tmp_path, main=line)) == "https://mirror.example/debian/"


def test_third_party_security_and_disabled_sources_are_passed_over(tmp_path: Path) -> None:
    disabled = DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb").replace("mirror", "disabled")
    third = "deb https://packages.example/apt bookworm main\ndeb http://browser.example/deb/ stable main\n"
    folder = sources(tmp_path, a_sources=disabled, b_list=third, c_sources=DEB822)
    assert apt_mirror(folder) == "http://mirror.example/debian"


def test_a_machine_without_debian_sources_is_told_which_setting_helps(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"build\.debian_mirror"):
        apt_mirror(sources(tmp_path))


def test_a_suite_from_another_mirror_is_another_root_file_system(tmp_path: Path) -> None:
    one = Rootfs(suite="bookworm", mirror="http://one/debian", folder=tmp_path)
    two = Rootfs(suite="bookworm", mirror="http://two/debian", folder=tmp_path)
    assert one.path != two.path


@pytest.mark.engine
def test_a_mirror_that_is_away_is_nobodys_fault_and_leaves_nothing(tmp_path: Path) -> None:
    rootfs = Rootfs(suite="bookworm", mirror="http://127.0.0.1:9/debian", folder=tmp_path)
    log = io.BytesIO()
    with pytest.raises(InfraError, match=r"debootstrap failed: .*http://127\.0\.0\.1:9"):
        make_rootfs(rootfs, log=log, cancel=threading.Event())
    assert b"debootstrap" in log.getvalue()
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.engine
def test_cancelling_debootstrap_ends_it_and_leaves_nothing(tmp_path: Path, bench_cache: Path) -> None:
    rootfs = Rootfs(suite="bookworm", mirror=apt_mirror(), folder=tmp_path)
    cancel = threading.Event()
    threading.Timer(1.0, cancel.set).start()
    with pytest.raises(BuildCancelled):
        make_rootfs(rootfs, log=io.BytesIO(), cancel=cancel)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_finished_root_file_system_is_not_made_again(tmp_path: Path) -> None:
    rootfs = Rootfs(suite="bookworm", mirror="http://127.0.0.1:9/debian", folder=tmp_path)
    rootfs.path.write_bytes(b"whole")
    make_rootfs(rootfs, log=io.BytesIO(), cancel=threading.Event())
    assert rootfs.path.read_bytes() == b"whole"


def test_waiting_for_another_process_that_makes_it_ends_when_cancelled(tmp_path: Path) -> None:
    rootfs = Rootfs(suite="bookworm", mirror="http://127.0.0.1:9/debian", folder=tmp_path)
    cancel = threading.Event()
    cancel.set()
    with file_lock(rootfs.path.with_suffix(".lock")), pytest.raises(BuildCancelled):
        make_rootfs(rootfs, log=io.BytesIO(), cancel=cancel)
