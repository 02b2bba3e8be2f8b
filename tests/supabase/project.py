"""Projects for tests: databases with all migrations, each with an address and keys, on one server and one gateway."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import msgspec
import psycopg

from store.opening import Store, open_store
from store.supabase.migrating import apply
from tests.supabase.gateway import Faults, key_of
from tests.supabase.objects import StorageFaults
from tests.supabase.postgres import PASSWORD, Postgres

__all__ = ["Project", "Projects"]

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "migrated"


class Project:
    """One project: ``url`` and ``key`` for its clients, ``database_url`` and ``objects`` (a folder) for
    those who look behind the API."""

    def __init__(self, postgres: Postgres, *, name: str, gateway: str, objects: Path) -> None:
        self.postgres, self.name, self.objects = postgres, name, objects
        self.url = f"{gateway}/{name}"
        self.key = key_of("service_role")
        self.database_url = postgres.url(name)

    @property
    def environment(self) -> dict[str, str]:
        """What a client's process needs to know."""
        return {"SUPABASE_URL": self.url, "SUPABASE_KEY": self.key}

    @contextmanager
    def in_environment(self, **changes: str) -> Iterator[None]:
        """This process's environment names the project, while the block runs."""
        before = dict(os.environ)
        os.environ.update({**self.environment, **changes})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def open(self, *, write: bool = True, holder: str = "") -> Store:
        """The store of this project."""
        with self.in_environment():
            return open_store("supabase", write=write, holder=holder)

    def faults(self, **faults: int) -> None:
        """Sets what goes wrong from now on; nothing, without arguments."""
        body = msgspec.json.encode(Faults(**faults))
        with urlopen(Request(f"{self.url}/_faults", data=body, method="POST"), timeout=10):  # noqa: S310
            pass

    def storage(self, **faults: int) -> None:
        """Sets what goes wrong with Storage from now on; nothing, without arguments."""
        body = msgspec.json.encode(StorageFaults(**faults))  # type: ignore[arg-type]
        with urlopen(Request(f"{self.url}/_storage", data=body, method="POST"), timeout=10):  # noqa: S310
            pass

    def calls(self) -> dict[str, int]:
        """How often each function was executed and committed so far."""
        with urlopen(f"{self.url}/_calls", timeout=10) as answer:  # noqa: S310
            found: dict[str, int] = json.load(answer)
        return found

    def raw(self, *, role: str = "owner") -> psycopg.Connection[tuple[object, ...]]:
        """A connection behind the API; ``postgres`` is the superuser."""
        return psycopg.connect(self.postgres.url(self.name, role=role), autocommit=True)


class Projects:
    """Makes projects; a context manager that ends what it started."""

    def __init__(self) -> None:
        self.postgres = Postgres()
        self.objects = self.postgres.folder / "objects"
        self._gateway: subprocess.Popen[str] | None = None
        self.address = ""

    def __enter__(self) -> Projects:
        self.postgres.__enter__()
        try:
            self.postgres.create(TEMPLATE)
            apply(self.postgres.url(TEMPLATE))
            dsn = f"postgresql://authenticator:{PASSWORD}@127.0.0.1:{self.postgres.port}"
            self._gateway = subprocess.Popen(
                [sys.executable, "-m", "tests.supabase.gateway", "--dsn", dsn, "--objects", str(self.objects)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            assert self._gateway.stdout is not None
            self.address = f"http://127.0.0.1:{int(self._gateway.stdout.readline())}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._gateway is not None:
            self._gateway.terminate()
            self._gateway.wait(timeout=30)
        self.postgres.__exit__()

    def new(self, *, empty: bool = False) -> Project:
        """A project of its own. ``empty``: nothing was migrated yet."""
        name = f"p{uuid.uuid4().hex[:12]}"
        self.postgres.create(name, **({} if empty else {"template": TEMPLATE}))
        return Project(self.postgres, name=name, gateway=self.address, objects=self.objects / name)

    def remove(self, project: Project) -> None:
        """Removes a project with all that it holds."""
        self.postgres.drop(project.name)
        shutil.rmtree(project.objects, ignore_errors=True)
