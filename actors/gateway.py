"""Every Ray call of Headrace is in this module.

Actors are plain classes that know nothing of Ray; :func:`spawn` makes a Ray actor of one, and a :class:`Ref` is how
others call it. What Ray guarantees is little, so this is all that callers may rely on:

- A call that returns has happened once. A call that raises :class:`ActorGone` may or may not have happened: repeat
  only what is idempotent. Ray never repeats a call by itself (``max_task_retries=0``).
- A dead actor comes back under its name with empty memory (``max_restarts=-1``) for as long as whoever spawned it
  lives; its ``__init__`` must not raise.
- An error of ours that a call raises arrives as itself; any other arrives as ``ActorFailed`` with its text.

Arguments and results are pickled by Ray; event batches are passed as msgspec bytes by their callers.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

import msgspec

from events.errors import EnvironmentNotReady, HeadraceError

__all__ = [
    "ActorFailed",
    "ActorGone",
    "ClusterInfo",
    "Placement",
    "Ref",
    "connect",
    "disconnect",
    "living",
    "spawn",
    "this_node",
]

RUNNER_RESOURCE = "docker"
"""Custom resource of nodes that may run work orders; one unit is one runner."""

_LOCAL_ENVIRONMENT: Mapping[str, str] = {
    # Without it a cluster on 127.0.0.1 is rewritten to the first network card's address (measured, Ray 2.60).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The monitor counts the whole host and ends innocent actors; work is limited by container limits instead.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    # loguru's own default prints the values of variables with every traceback, secrets too.
    "LOGURU_DIAGNOSE": "NO",
    "LOGURU_LEVEL": "INFO",
}


_LOCAL_FOLDER = "headrace-ray-"


class ActorGone(HeadraceError):
    """The actor's process ended; the call may or may not have happened."""

    code = "HR600"


class ActorFailed(HeadraceError):
    """A call raised an error that is not one of Headrace's: a defect, with its text."""

    code = "HR601"


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how an actor runs.

    ``threads``: calls at once of a class without ``async`` methods. ``node_id``: only there.
    """

    threads: int = 1
    needs_runner_slot: bool = False
    node_id: str | None = None


class ClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver is connected to. ``runner_slots``: units of the resource ``docker`` in the whole cluster."""

    node_id: str
    runner_slots: int
    dashboard_url: str
    started_here: bool


class Ref:
    """A handle on an actor, by its name; can be sent to other actors, which look the name up when they first call.

    After the actor was gone they look it up anew, so that one spawned again under its name is found. What ``spawn``
    returned keeps its own handle: Ray ends an actor for good when its owner has dropped the last one.
    """

    def __init__(self, name: str, handle: Any = None) -> None:
        self.name = name
        self._label = ""
        self._handle = handle
        self._owned = handle is not None

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __reduce__(self) -> tuple[object, ...]:
        return (Ref, (self.name,))

    def labelled(self, label: str) -> Self:
        """The same actor; calls through this handle are shown under ``label`` in Ray's dashboard."""
        other = object.__new__(type(self))
        other.__dict__ |= {**self.__dict__, "_label": label}
        return other

    async def call(self, method: str, *args: object) -> Any:
        """Calls a method from a running event loop and returns its result.

        Raises:
            ActorGone: the actor died; the call may have happened.
            ActorFailed: it raised something that is not ours.
            HeadraceError: what it raised, if it is ours.
        """
        try:
            function = getattr(self._actor(), method)
            return await (function.options(name=self._label) if self._label else function).remote(*args)
        except Exception as exc:
            raise self._translated(exc, method) from exc

    def ask(self, method: str, *args: object, timeout_s: float | None = None) -> Any:
        """Like :meth:`call`, from a thread without an event loop; ``TimeoutError`` after ``timeout_s`` seconds."""
        import ray

        try:
            return ray.get(getattr(self._actor(), method).remote(*args), timeout=timeout_s)
        except Exception as exc:
            raise self._translated(exc, method) from exc

    def kill(self) -> None:
        """Ends the actor at once and for good."""
        import ray

        ray.kill(self._actor(), no_restart=True)

    def _actor(self) -> Any:
        import ray

        if self._handle is None:
            try:
                self._handle = ray.get_actor(self.name)
            except ValueError as exc:
                raise ActorGone(f"there is no actor {self.name}") from exc
        return self._handle

    def _translated(self, exc: Exception, method: str) -> Exception:
        found = _translated(exc, f"{self.name}.{method}")
        if isinstance(found, ActorGone) and not self._owned:
            self._handle = None
        return found


def _translated(exc: Exception, where: str) -> Exception:
    """The one place where Ray's errors become ours."""
    import ray.exceptions as ray_errors

    if isinstance(exc, ray_errors.GetTimeoutError):
        return TimeoutError(f"{where}: no answer in time")
    if isinstance(exc, ray_errors.RayTaskError):
        cause: BaseException = exc
        while isinstance(cause, ray_errors.RayTaskError):  # which is an instance of its cause's class too
            cause = cause.cause
        if isinstance(cause, HeadraceError):
            return cause
        return ActorFailed(f"{where} failed: {type(cause).__name__}: {cause}")
    if isinstance(exc, ray_errors.RayError):
        return ActorGone(f"{where}: the actor's process ended ({str(exc).splitlines()[0]})")
    return exc


def connect(
    *,
    address: str | None,
    namespace: str,
    runner_slots: int,
    dashboard: bool = False,
) -> ClusterInfo:
    """Starts a local Ray on 127.0.0.1, or connects to a running one.

    Args:
        address: of a running cluster (``auto``, ``HOST:PORT``, ``ray://…``); ``None`` starts a local one.
        namespace: under which this sweep's actors have their names.
        runner_slots: for a local Ray, how many runners it may have; 0: one per CPU.
        dashboard: for a local Ray, start its dashboard on 127.0.0.1.

    Raises:
        EnvironmentNotReady: Ray does not start, the cluster does not answer, or no node has the resource ``docker``.
    """
    if address is None:
        for name, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        _own_token()
    import ray

    if ray.is_initialized():
        raise EnvironmentNotReady(
            "this process is connected to a Ray cluster already; call ray.shutdown() first, or give its address to "
            "another process"
        )
    if address is None:
        _take_up_environment()
    options: dict[str, Any] = {"namespace": namespace, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            slots = runner_slots or os.cpu_count() or 1
            context = ray.init(
                address="local",  # never a cluster that somebody else has started on this machine
                num_cpus=max(slots, os.cpu_count() or 1),
                resources={RUNNER_RESOURCE: slots},
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                _node_ip_address="127.0.0.1",
                **options,
            )
        else:
            context = ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, OSError, ValueError, TimeoutError) as exc:
        what = f"cannot connect to Ray at {address}" if address else "Ray does not start on this machine"
        remedy = "see `headrace doctor`; a cluster with tokens wants RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH"
        raise EnvironmentNotReady(f"{what} ({exc}); {remedy}") from exc
    found = int(ray.cluster_resources().get(RUNNER_RESOURCE, 0))  # type: ignore[no-untyped-call]
    if found < 1:
        ray.shutdown()
        raise EnvironmentNotReady(
            f"no node of the Ray cluster at {address} has the resource {RUNNER_RESOURCE!r}; "
            f"start its nodes with --resources='{{\"{RUNNER_RESOURCE}\": N}}', N work orders at once"
        )
    return ClusterInfo(
        node_id=ray.get_runtime_context().get_node_id(),
        runner_slots=found,
        dashboard_url=context.dashboard_url or "",
        started_here=address is None,
    )


@cache
def _token() -> str:
    """One for all clusters that this process starts: Ray reads it once and keeps it."""
    return secrets.token_hex(32)


def _own_token() -> None:
    """A token for a local cluster, in a file that only its owner may read (Ray's own would be readable by all)."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    folder = Path(tempfile.mkdtemp(prefix=_LOCAL_FOLDER))
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(_token())
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _take_up_environment() -> None:
    """Has Ray look at the environment again: it did when it was imported, which may have been before this."""
    with suppress(ImportError, AttributeError):
        from ray._private import ray_constants
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")
        ray_constants.ENABLE_RAY_CLUSTER = False


def disconnect() -> None:
    """Leaves the cluster; a local one that :func:`connect` started ends, with all its actors."""
    import ray

    ray.shutdown()
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", ""))
    if token.parent.name.startswith(_LOCAL_FOLDER):
        shutil.rmtree(token.parent, ignore_errors=True)
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]


def spawn(cls: type, *args: object, name: str, placement: Placement | None = None) -> Ref:
    """Makes an actor of ``cls(*args)`` under ``name``, or returns the living one of that name."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    placement = placement or Placement()
    options: dict[str, Any] = {
        "name": name,
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": 0,
    }
    if placement.threads > 1:
        options["max_concurrency"] = placement.threads
    if placement.needs_runner_slot:
        options["resources"] = {RUNNER_RESOURCE: 1}
    if placement.node_id is not None:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(placement.node_id, soft=False)
    return Ref(name, ray.remote(cls).options(**options).remote(*args))


def living() -> list[str]:
    """The names of all living actors of this namespace, as the cluster tells."""
    import ray.util

    return sorted(str(name) for name in ray.util.list_named_actors())


def this_node() -> str:
    """The id of the node that this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())
