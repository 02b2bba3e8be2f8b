"""A pytest plug-in that tells what was collected, what was run and how each test ended, one JSON object a line.

Lines, by their key:

* ``collected``: node ids in the order of collection, before anything deselects some of them
* ``selected``: node ids that are going to run
* ``module`` with ``outcome`` (``passed``, ``skipped``, ``failed``) and ``message``: how collecting a file ended
* ``test`` with ``when`` (``setup`` and ``teardown`` unless they passed, ``call``), ``outcome``, ``time_s``, ``message``
* ``finished``: pytest's exit code, last

It adds tests of its own to the run, canaries that have to fail: where they pass, something makes tests pass. Where the
repository has pytest-xdist run its tests, the first worker tells what was collected, and every worker adds the canaries
alike. Works with every pytest from 3.6 on; what it writes is judged outside. (PYTEST_DONT_REWRITE: it is imported
before pytest is.)
"""

from __future__ import annotations

import json
import os
import types
from pathlib import Path
from typing import Any

import pytest

MAX_MESSAGE_CHARS = 1000


REQUEST = "HEADRACE_REQUEST"
"""Names the request file to the workers of pytest-xdist."""


class _State:
    def __init__(self) -> None:
        self.out = -1
        self.is_worker = False
        self.tells_of_collection = True
        self.only: set[str] | None = None
        self.canaries: list[str] = []


_state = _State()


def begin(request_file: str, request: dict[str, Any]) -> None:
    """Takes what the request says; called once, before pytest starts."""
    _state.out = os.open(request["report"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    _state.only = None if request["only"] is None else set(request["only"])
    _state.canaries = list(request["canaries"])
    if "pytest-xdist" in request["plugins"]:
        os.environ[REQUEST] = request_file


def pytest_configure(config: Any) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None and REQUEST in os.environ:
        place = os.environ[REQUEST]
        begin(place, json.loads(Path(place).read_text(encoding="utf-8")))
        del os.environ[REQUEST]
        _state.is_worker, _state.tells_of_collection = True, worker["workerid"] == "gw0"


def tell(**line: object) -> None:
    """Writes one line, in one call: workers write to the same file."""
    if _state.out >= 0:
        os.write(_state.out, json.dumps(line, ensure_ascii=True).encode("ascii") + b"\n")


def message_of(report: Any) -> str:
    """What went wrong, in one line; the last of a traceback's lines that says something."""
    crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
    text = getattr(crash, "message", "")
    if not text and report.longrepr is not None:
        told = report.longrepr
        text = told[2] if isinstance(told, tuple) and len(told) == 3 else str(told)
    return str(text)[:MAX_MESSAGE_CHARS]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    if _state.tells_of_collection:
        tell(collected=[item.nodeid for item in items])


def pytest_collectreport(report: Any) -> None:
    if report.nodeid and _state.tells_of_collection:
        tell(module=report.nodeid, outcome=report.outcome, message="" if report.passed else message_of(report))


@pytest.hookimpl(hookwrapper=True)
def pytest_collection_finish(session: Any) -> Any:
    """After all others; but before them in a worker, whose tests pytest-xdist numbers here."""
    if _state.is_worker:
        settle(session)
    yield
    if not _state.is_worker:
        settle(session)


def settle(session: Any) -> None:
    """Leaves out what is not to run, tells what is, and adds the canaries."""
    if _state.only is not None:
        session.items[:] = [item for item in session.items if item.nodeid in _state.only]
    if _state.tells_of_collection:
        tell(selected=[item.nodeid for item in session.items])
    neighbours = session.items[:: max(1, len(session.items) // max(1, len(_state.canaries)))]
    for place, name in enumerate(_state.canaries if neighbours else []):
        neighbour = neighbours[place % len(neighbours)]
        session.items.insert(session.items.index(neighbour) + 1, canary(session, neighbour, name))


def canary(session: Any, neighbour: Any, name: str) -> Any:
    """A test function that fails, in the module of a real test: fixtures and hooks that reach that one reach it too."""
    function = canary_function(name)
    parent = neighbour.getparent(pytest.Module) or empty_module(session)
    if hasattr(pytest.Function, "from_parent"):
        return pytest.Function.from_parent(parent, name=name, callobj=function)
    return pytest.Function(name, parent=parent, callobj=function)


def empty_module(session: Any) -> Any:
    """A module node without a file, for suites whose tests are in no Python module."""
    place = Path(str(session.config.rootdir)) / "headrace-canary"
    if hasattr(session, "path"):
        node = pytest.Module.from_parent(session, path=place)
    elif hasattr(pytest.Module, "from_parent"):
        node = pytest.Module.from_parent(session, fspath=py_path(place))
    else:
        node = pytest.Module(py_path(place), parent=session)
    node._obj = types.ModuleType("headrace_canary")
    return node


def py_path(path: Path) -> Any:
    """A path as pytest took it before it knew ``pathlib``."""
    import py  # type: ignore[import-untyped]

    return py.path.local(str(path))  # noqa: PTH124


def canary_function(name: str) -> Any:
    """Fails as tests do, or as code under test does, by the last character of its name."""

    def wrong_answer() -> None:
        assert not name  # noqa: S101 - this is how tests fail

    def broken() -> None:
        raise RuntimeError(name)

    return wrong_answer if ord(name[-1]) % 2 else broken


def pytest_runtest_logreport(report: Any) -> None:
    if _state.is_worker or (report.passed and report.when != "call"):
        return
    tell(
        test=report.nodeid,
        when=report.when,
        outcome=report.outcome,
        time_s=round(float(getattr(report, "duration", 0.0)), 6),
        message="" if report.passed else message_of(report),
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(exitstatus: int) -> None:
    if not _state.is_worker:
        tell(finished=int(exitstatus))
