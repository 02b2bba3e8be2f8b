"""The engine's disk: space is reserved before a build, and Headrace's own images make room for it, oldest use first.

Guarantees:

* Removed are only images and build cache that this node's Headrace made, known by their labels: never what carries
  somebody else's tag, what other images are built on, what a container (running or stopped) uses, or what an attempt
  of this node holds. Children go before their parents, and of those that may go the one that was used longest ago.
* With a budget, images, build cache and the reservations of running builds of this node stay within it together.
* Nothing that cannot be made again is lost: an image's key is a digest of what it is built from, and the next attempt
  that needs it builds it under the same tag.
* A crash leaves nothing to clean up. Holds and reservations are locks on files, which the kernel drops with their
  holder. Times of last use are the times of those files.

A node is one cache folder. Nodes that share an engine do not see each other's holds, so each leaves the other's images.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import requests
from docker.errors import APIError, NotFound

from actors.images.engine import LABEL_KEY, LABEL_LOG, LABEL_NODE, LABEL_PR, LABEL_TIER, TIER_BUILDING, Engine
from actors.settings import DiskSettings
from events.errors import InfraError
from store.locks import LockWaitCancelled, file_lock

__all__ = ["DiskBudget", "DiskUse", "Evicted", "Eviction", "steps_key"]

MIB = 1 << 20
GIB = 1 << 30
WAIT_S = 1.0
TAG_PREFIX = "headrace/"
TIER_ROOT = "root"


class Evicted(msgspec.Struct, frozen=True, kw_only=True):
    """An image that went, or would go. ``bytes``: what it has beyond its parent; ``last_used_at``: POSIX seconds."""

    image_id: str
    tags: list[str]
    tier: str
    bytes: int
    last_used_at: float


class Eviction(msgspec.Struct, frozen=True, kw_only=True):
    """What an eviction did, in the order in which it was done, and what it could not touch."""

    evicted: list[Evicted]
    freed_bytes: int
    kept: int
    """Images of this node that are in use, held, tagged by others or built upon."""


class DiskUse(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes: of this node's images and build cache, of running builds' reservations, and free on the engine's disk."""

    own_bytes: int
    reserved_bytes: int
    free_bytes: int | None
    """``None``: the disk is on another machine."""


class _Image(msgspec.Struct, frozen=True, kw_only=True):
    image_id: str
    parent: str
    tags: list[str]
    labels: dict[str, str]
    size: int
    created_at: float


def steps_key(*, log_id: str, pull_request: str) -> str:
    """What to hold while a pull request's image is built: the steps of its build carry labels of these two."""
    return hashlib.sha256(f"{log_id}\n{pull_request}".encode()).hexdigest()


class DiskBudget:
    """Reservations, holds and evictions of one node. Threads and processes with the same cache folder share them.

    A failed or interrupted eviction may have removed some images; all that is known of them stays true.
    """

    def __init__(self, engine: Engine, *, settings: DiskSettings, cache_dir: Path, node: str) -> None:
        """Contacts nobody. ``node``: the value of ``LABEL_NODE`` on this node's images."""
        self.settings = settings
        self._engine, self._node = engine, node
        self._images = cache_dir / "disk" / "images"
        self._reservations = cache_dir / "disk" / "reservations"
        self._ledger = cache_dir / "disk" / "ledger.lock"

    @contextmanager
    def held(self, key: str, *, cancel: threading.Event) -> Iterator[None]:
        """The image of this key is used meanwhile: it is not evicted, and counts as used now, and again at the end.

        Raises:
            LockWaitCancelled: ``cancel`` was set while the image was just being evicted.
        """
        path = self._images / key
        with file_lock(path, cancel=cancel, shared=True):
            os.utime(path)
            try:
                yield
            finally:
                with suppress(OSError):
                    os.utime(path)

    @contextmanager
    def reserved(self, what: str, *, cancel: threading.Event) -> Iterator[None]:
        """Space for one build, made by eviction if need be; waits for other builds to end if that may help.

        Args:
            what: the build, for the message.
            cancel: ends the wait.

        Raises:
            InfraError: there is no room, with what to do; or the engine is away.
            LockWaitCancelled: ``cancel`` was set.
        """
        size = self.settings.reserve_mb * MIB
        mine = self._reservations / uuid.uuid4().hex
        while True:
            with file_lock(self._ledger, cancel=cancel):
                missing = self._missing(size)
                if missing > 0:
                    self._evict(missing, dry_run=False)
                    missing = self._missing(size)
                if missing <= 0:
                    lock = file_lock(mine)
                    lock.__enter__()
                    mine.write_text(str(size), encoding="ascii")
                    break
                if not self._reserved():
                    raise InfraError(self._no_room(what, missing=missing))
            if cancel.wait(WAIT_S):
                raise LockWaitCancelled(str(self._ledger))
        try:
            yield
        finally:
            mine.unlink(missing_ok=True)
            lock.__exit__(None, None, None)

    def make_room(self, *, cancel: threading.Event) -> Eviction:
        """Evicts after a build met a full disk: at least as much again as is free without that build, so that it has
        twice the space when it is made again.

        Raises:
            InfraError: the engine is away.
            LockWaitCancelled: ``cancel`` was set.
        """
        with file_lock(self._ledger, cancel=cancel):
            free = _free(self._engine.data_folder) or 0
            return self._evict(max(free, self.settings.reserve_mb * MIB, MIB), dry_run=False)

    def relieve(self, *, cancel: threading.Event) -> None:
        """Evicts what is missing to the free space that the settings ask for; costs nothing while nothing is.

        Raises:
            InfraError: the engine is away.
            LockWaitCancelled: ``cancel`` was set.
        """
        least = self.settings.min_free_mb * MIB
        free = _free(self._engine.data_folder)
        if free is not None and free < least:
            with file_lock(self._ledger, cancel=cancel):
                self._evict(least - free, dry_run=False)

    def evict(self, *, free_bytes: int | None = None, to_bytes: int | None = None, dry_run: bool = False) -> Eviction:
        """Evicts until ``free_bytes`` were freed, until ``to_bytes`` are left, or all that may go.

        Args:
            free_bytes: how much to free.
            to_bytes: how much this node's images may still take; with neither, everything that may go goes.
            dry_run: removes nothing and says what would go.

        Raises:
            InfraError: the engine is away.
        """
        with file_lock(self._ledger):
            wanted = free_bytes
            if to_bytes is not None:
                wanted = self._own_bytes() - to_bytes
            return self._evict(wanted, dry_run=dry_run)

    def use(self) -> DiskUse:
        """How things stand; makes and changes nothing.

        Raises:
            InfraError: the engine is away.
        """
        return DiskUse(
            own_bytes=self._own_bytes(),
            reserved_bytes=self._reserved(drop=False),
            free_bytes=_free(self._engine.data_folder),
        )

    def _missing(self, size: int) -> int:
        """How many bytes have to go before ``size`` more may be written; nothing or less: none."""
        reserved = self._reserved()
        missing = 0
        free = _free(self._engine.data_folder)
        if free is not None:
            missing = self.settings.min_free_mb * MIB + reserved + size - free
        if self.settings.budget_gb:
            over = self._own_bytes() + reserved + size - int(self.settings.budget_gb * GIB)
            missing = max(missing, over)
        return missing

    def _no_room(self, what: str, *, missing: int) -> str:
        free = _free(self._engine.data_folder)
        on_disk = f"{free / GIB:.1f} GiB free" if free is not None else "its disk is elsewhere"
        budget = f"of a budget of {self.settings.budget_gb:g} GiB" if self.settings.budget_gb else "without a budget"
        return (
            f"no room to build {what}: {missing / GIB:.2f} GiB are missing (own images take "
            f"{self._own_bytes() / GIB:.2f} GiB {budget}, {on_disk}) and no more can be evicted; free disk space, "
            "raise disk.budget_gb, or lower disk.reserve_mb or disk.min_free_mb"
        )

    def _reserved(self, *, drop: bool = True) -> int:
        """Bytes of live reservations; ``drop`` those of dead processes, whose lock is free, with the ledger held."""
        total = 0
        now = threading.Event()
        now.set()
        for path in sorted(self._reservations.glob("*")):
            try:
                with file_lock(path, cancel=now):
                    if drop:
                        path.unlink(missing_ok=True)
            except LockWaitCancelled:
                total += int(path.read_text(encoding="ascii") or "0")
        return total

    def _survey(self) -> tuple[dict[str, _Image], dict[str, _Image]]:
        """All images of the engine, intermediate ones included, and those of them that are this node's."""
        with self._engine.translated("list images"):
            found = self._engine.api.images(all=True)
        everything = {
            str(entry["Id"]): _Image(
                image_id=str(entry["Id"]),
                parent=str(entry.get("ParentId") or ""),
                tags=[tag for tag in entry.get("RepoTags") or [] if tag != "<none>:<none>"],
                labels=dict(entry.get("Labels") or {}),
                size=int(entry["Size"]),
                created_at=float(entry["Created"]),
            )
            for entry in found
        }
        return everything, {name: image for name, image in everything.items() if self._is_own(image)}

    def _is_own(self, image: _Image) -> bool:
        """An image that was derived from one of ours inherits its labels: what has no tag must be a step of a build."""
        tier, key = image.labels.get(LABEL_TIER, ""), image.labels.get(LABEL_KEY, "")
        if not key or not (image.tags or tier == TIER_BUILDING):
            return False
        if tier == TIER_ROOT and LABEL_NODE not in image.labels:
            return (self._images / key).exists()
        return image.labels.get(LABEL_NODE) == self._node

    def _own_bytes(self) -> int:
        everything, own = self._survey()
        return sum(_added(image, everything) for image in own.values())

    def _last_used(self, image: _Image) -> float:
        """Of a step of a build that led to no image, when it was made: its labels name what it was made for."""
        if image.labels[LABEL_TIER] != TIER_BUILDING:
            with suppress(OSError):
                return (self._images / image.labels[LABEL_KEY]).stat().st_mtime
        return image.created_at

    def _evict(self, wanted: int | None, *, dry_run: bool) -> Eviction:
        everything, own = self._survey()
        in_use = self._in_use()
        children = Counter(image.parent for image in everything.values())
        leaves = [(self._last_used(image), name) for name, image in own.items() if not children[name]]
        heapq.heapify(leaves)
        gone: list[Evicted] = []
        freed = 0
        while leaves and (wanted is None or freed < wanted):
            last_used_at, name = heapq.heappop(leaves)
            image = own[name]
            foreign_tags = any(not tag.startswith(TAG_PREFIX) for tag in image.tags)
            if name in in_use or foreign_tags or not self._remove(image, dry_run=dry_run):
                continue
            size = _added(image, everything)
            freed += size
            gone.append(
                Evicted(
                    image_id=name,
                    tags=image.tags,
                    tier=image.labels[LABEL_TIER],
                    bytes=size,
                    last_used_at=last_used_at,
                )
            )
            children[image.parent] -= 1
            if not children[image.parent] and image.parent in own:
                parent = own[image.parent]
                step = parent.labels[LABEL_TIER] == TIER_BUILDING
                heapq.heappush(leaves, (last_used_at if step else self._last_used(parent), image.parent))
        return Eviction(evicted=gone, freed_bytes=freed, kept=len(own) - len(gone))

    def _in_use(self) -> set[str]:
        with self._engine.translated("list containers"):
            return {str(container["ImageID"]) for container in self._engine.api.containers(all=True)}

    def _remove(self, image: _Image, *, dry_run: bool) -> bool:
        """Removes an image and not its parents; ``False`` when it is held, or was taken into use just now."""
        now = threading.Event()
        now.set()
        try:
            with file_lock(self._images / _hold_of(image.labels), cancel=now):
                if dry_run:
                    return True
                with self._engine.translated(f"remove image {image.image_id[:19]}"):
                    for name in image.tags or [image.image_id]:
                        if not _remove_name(self._engine, name):
                            return False
                return True
        except LockWaitCancelled:
            return False


def _hold_of(labels: Mapping[str, str]) -> str:
    """The key whose hold protects an image: its own, or that of the build which it is a step of."""
    if labels[LABEL_TIER] == TIER_BUILDING and LABEL_PR in labels:
        return steps_key(log_id=labels.get(LABEL_LOG, ""), pull_request=labels[LABEL_PR])
    return labels[LABEL_KEY]


def _remove_name(engine: Engine, name: str) -> bool:
    try:
        engine.api.remove_image(name, force=False, noprune=True)
    except NotFound:
        return True
    except APIError as exc:
        if exc.status_code != requests.codes.conflict:
            raise
        return False
    return True


def _added(image: _Image, everything: Mapping[str, _Image]) -> int:
    parent = everything.get(image.parent)
    return max(0, image.size - (parent.size if parent else 0))


def _free(folder: Path | None) -> int | None:
    if folder is None:
        return None
    system = os.statvfs(folder)
    return system.f_bavail * system.f_frsize
