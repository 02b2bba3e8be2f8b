"""A real PostgreSQL for the tests: its own data folder, on 127.0.0.1 only, run by a user that is not root.

It has the roles that a Supabase project has, with the grants that Supabase gives to new tables and functions: what the
migrations do not take away is open here too. It can be stopped as hard as a test likes, and started again; it ends with
the process that started it, however that ends.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from tempfile import mkdtemp

import psycopg

from tests.actors.harness import wait_for

__all__ = ["PASSWORD", "Postgres", "program"]

PASSWORD = "scratch"  # noqa: S105 - of a server that lives as long as the tests
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "120",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
}
ROLES = f"""
CREATE ROLE anon NOLOGIN NOINHERIT;
CREATE ROLE authenticated NOLOGIN NOINHERIT;
CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
CREATE ROLE authenticator LOGIN NOINHERIT PASSWORD '{PASSWORD}';
CREATE ROLE owner LOGIN CREATEDB CREATEROLE BYPASSRLS PASSWORD '{PASSWORD}';
GRANT anon, authenticated, service_role TO authenticator;
GRANT anon, authenticated, service_role TO owner;
"""
"""``owner`` is what ``postgres`` is in a Supabase project: it owns the tables and is no superuser."""

DEFAULTS = """
ALTER SCHEMA public OWNER TO owner;
GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public
    GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public
    GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public
    GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
"""


class Postgres:
    """See the module; a context manager."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="hr-pg-", dir="/tmp"))
        self.port = _free_port()
        self._user = _user()
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        (self.folder / "password").write_text(PASSWORD)
        self._run(
            "initdb", "--pgdata", f"{self.folder}/data", "--username=postgres", "--auth=scram-sha-256",
            f"--pwfile={self.folder}/password", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        self.start()
        with psycopg.connect(self.url("postgres", role="postgres"), autocommit=True) as connection:
            connection.execute(ROLES)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(how="immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, *, role: str = "owner") -> str:
        """How a role connects to a database."""
        return f"postgresql://{role}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, *, template: str = "template0") -> None:
        """Makes a database; from a template that is not ours, with what Supabase grants."""
        with psycopg.connect(self.url("postgres", role="postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}" OWNER owner')
        if template == "template0":
            with psycopg.connect(self.url(database, role="postgres"), autocommit=True) as connection:
                connection.execute(DEFAULTS)

    def drop(self, database: str) -> None:
        """Removes a database, whoever is connected."""
        with psycopg.connect(self.url("postgres", role="postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        command = [
            "setpriv",
            "--pdeathsig",
            "INT",
            program("postgres"),
            "-D",
            f"{self.folder}/data",
            "-p",
            str(self.port),
            "-k",
            str(self.folder),
        ]
        command += [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_user(),  # type: ignore[call-overload]
            )
        wait_for("PostgreSQL answers", self._answers, deadline_s=60)

    def stop(self, *, how: str = "fast") -> None:
        """Ends the server (``fast``: its sessions are told; ``immediate``: as a crash) and waits until it is gone."""
        if self._server is not None and self._server.poll() is None:
            self._run("pg_ctl", "stop", "-D", f"{self.folder}/data", "-m", how, "-w", "-t", "60")
            self._server.wait(timeout=60)

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self.folder / "log").read_text()
        try:
            psycopg.connect(self.url("postgres", role="postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [program(name), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **self._as_user(),  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    def _as_user(self) -> dict[str, object]:
        user = self._user
        return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _user() -> pwd.struct_passwd | None:
    """Whom to run the server as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {one.pw_name: one for one in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def program(name: str) -> str:
    """Where a program of PostgreSQL is."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=":".join([os.environ.get("PATH", ""), *map(str, folders)]))
    assert found is not None, f"{name} of PostgreSQL is missing; run scripts/setup.sh --dev"
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
