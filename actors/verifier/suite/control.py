"""The negative control: the package's own code is taken away, everything else stays, and the same tests must fail.
Then the tests' own code is, and the package stays: tests that raise must fail as well.

Taken away means: every function of the commit's own package raises as soon as a test runs. Importing, collecting and
parametrising go on as before, so that the same tests are there, and so that whatever was planted beside the code (in an
untracked, generated or compiled file of the package, in a start-up file, in a plug-in) stays alive and gives itself
away: the tests that it makes pass go on passing.

Functions know that a test runs from ``PYTEST_CURRENT_TEST``, which pytest sets around each test and which processes
that a test starts inherit. What they raise is no ``Exception``: a test that expects one must not be content with it.

Compiled modules stay in a first control. A package whose work is done by them passes it in good faith, so a second
control (``compiled=True``) empties them, and their import fails; it is meant for commits that hold the sources of
compiled modules (``patches.compiled_sources``) and for a first control that passed too much.
"""

from __future__ import annotations

import ast
import io
import posixpath
import random
import tokenize
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from actors.verifier.defences import Defence, Finding
from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.syntax import UNPARSABLE, parse

__all__ = [
    "COMPILED",
    "TAKEN_AWAY",
    "OwnFile",
    "choose",
    "failing_tests",
    "hidden_files",
    "is_test_file",
    "judge",
    "take_away",
    "unimportable",
]

TAKEN_AWAY = "headrace: taken away"
HELPER = """\
class _HeadraceTakenAway({base}):
    pass


def _headrace_taken_away(_environment=__import__("os").environ, _error=_HeadraceTakenAway):
    if "PYTEST_CURRENT_TEST" in _environment:
        raise _error("{reason}")


"""
GUARD = "_headrace_taken_away()"
UNREADABLE = f'raise ImportError("{TAKEN_AWAY}")\n'.encode()

TEST_FOLDERS = frozenset({"test", "tests"})
COMPILED = (".so", ".pyd")
MAX_SHARE_OF_NEEDED = 0.5
"""A control passes too much above this part of the ratio that a verification asks for. Of 19 real packages the one with
the most kept 7.5 % of its tests (attrs); one that is compiled kept 49 % in a first control and none in the second."""
FEW = 4
"""Among so few tests, all have to pass before a control is said to."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class OwnFile(msgspec.Struct, frozen=True):
    """A code file of the package in an image: its path there, and the path of the commit that it comes from, if any."""

    path: str
    source: str | None


def hidden_files(tree: CommitTree, modules: Sequence[OwnFile], *, compiled: bool = False) -> dict[str, bytes]:
    """What replaces the package's files for a control run, by their path in the image.

    Tests inside the package, and files that are not the commit's, stay as they are and are not in the answer.

    Args:
        tree: the commit.
        modules: the package's own code files in the image.
        compiled: also empties compiled modules.

    Returns:
        New contents; empty when the package has no function of its own: there is nothing to take away then.

    Raises:
        InfraError: git failed.
    """
    own = [(file.path, file.source) for file in modules if file.source is not None and not is_test_file(file.path)]
    known = {path: source for path, source in own if source in tree.files and path.endswith(".py")}
    tree.preload(known.values())
    replaced: dict[str, bytes] = {}
    for path, source in known.items():
        content = take_away(tree.read(source))
        if content is not None:
            replaced[path] = content
    if compiled:
        replaced.update({file.path: b"" for file in modules if file.path.endswith(COMPILED)})
    return replaced


def unimportable(modules: Sequence[OwnFile]) -> dict[str, bytes]:
    """What makes the package's Python files raise when they are imported, its tests left out, by path in the image."""
    return {
        one.path: UNREADABLE for one in modules if one.path.endswith(".py") and not is_test_file(one.source or one.path)
    }


def failing_tests(tree: CommitTree, paths: Collection[str]) -> dict[str, bytes]:
    """What replaces files of tests, so that each of their functions fails as soon as a test runs, by path.

    Raises:
        InfraError: git failed.
    """
    found = {path: take_away(tree.read(path), base="AssertionError") for path in sorted(paths)}
    return {path: content for path, content in found.items() if content is not None}


def take_away(source: bytes, *, base: str = "BaseException") -> bytes | None:
    """A Python file whose functions raise while a test runs; ``None`` if it has none. One that cannot be parsed here
    raises when it is imported. ``base``: the class that what they raise is derived from."""
    try:
        module = parse(source)
    except UNPARSABLE:
        return UNREADABLE
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    lines = source.decode(encoding).encode().splitlines(keepends=True)  # the parser counts bytes of UTF-8
    places = sorted(_places(module, lines), reverse=True)
    if not places:
        return None
    for row, column, text in places:
        lines[row] = lines[row][:column] + text + lines[row][column:]
    begin = _after_future_imports(module)
    coding = [] if begin else [line for line in lines[:2] if line.lstrip().startswith(b"#") and b"coding" in line]
    helper = HELPER.format(base=base, reason=TAKEN_AWAY).encode()
    changed = b"".join([*lines[:begin], *coding, helper, *lines[begin:]])
    return changed.decode().encode(encoding)


def is_test_file(path: str) -> bool:
    """Whether a file of a package is one of its tests, by its name or its folder."""
    folders, name = posixpath.split(path)
    return (
        name == "conftest.py"
        or name.startswith("test_")
        or name.endswith("_test.py")
        or name in ("test.py", "tests.py")
        or not TEST_FOLDERS.isdisjoint(folders.split("/"))
    )


def choose(outcomes: Mapping[str, str], *, seed: int, at_most: int) -> list[str]:
    """A random sample of the tests that passed, spread evenly over their files.

    Args:
        outcomes: outcome (``passed`` and others) by node id.
        seed: the same seed gives the same sample.
        at_most: how many tests are wanted.
    """
    chance = random.Random(seed)  # noqa: S311 - a sample, no secret
    files: dict[str, list[str]] = {}
    for nodeid in sorted(nodeid for nodeid, outcome in outcomes.items() if outcome == "passed"):
        files.setdefault(nodeid.partition("::")[0], []).append(nodeid)
    piles = list(files.values())
    for pile in piles:
        chance.shuffle(pile)
    chance.shuffle(piles)
    chosen: list[str] = []
    while piles and len(chosen) < at_most:
        chosen += [pile.pop() for pile in piles[: at_most - len(chosen)]]
        piles = [pile for pile in piles if pile]
    return sorted(chosen)


def judge(
    control_outcomes: Mapping[str, str],
    chosen: Collection[str],
    *,
    min_pass_ratio: float,
    gone: str = "the package's own code",
) -> Finding | None:
    """What is wrong with a control run: that too much of it passed.

    Args:
        control_outcomes: outcome by node id; a test that is missing did not pass.
        chosen: the node ids that were to be run.
        min_pass_ratio: what the verification itself asks for.
        gone: what was taken away, for the message.
    """
    passed = sorted(nodeid for nodeid in chosen if control_outcomes.get(nodeid) == "passed")
    limit = MAX_SHARE_OF_NEEDED * min_pass_ratio * len(chosen)
    if not passed or len(passed) <= limit or (len(chosen) <= FEW and len(passed) < len(chosen)):
        return None
    return Finding(
        defence=Defence.CONTROL,
        message=f"{len(passed)} of {len(chosen)} tests pass with {gone} taken away, at most "
        f"{int(limit)} may: {', '.join(passed[:5])}{', …' if len(passed) > 5 else ''}",
    )


def _places(module: ast.Module, lines: Sequence[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Where guards are put in: row and byte from 0, and the text."""
    for node in ast.walk(module):
        if not isinstance(node, Function):
            continue
        first, *rest = node.body
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and not rest:
            yield (first.end_lineno or 1) - 1, first.end_col_offset or 0, f"; {GUARD}".encode()
            continue
        target = rest[0] if ast.get_docstring(node, clean=False) is not None else first
        decorators = getattr(target, "decorator_list", [])
        row, column = (decorators[0] if decorators else target).lineno - 1, target.col_offset
        is_simple = not isinstance(target, ast.Match) and not hasattr(target, "body")
        yield row, column, f"{GUARD}; ".encode() if is_simple else GUARD.encode() + b"\n" + lines[row][:column]


def _after_future_imports(module: ast.Module) -> int:
    """How many lines the docstring and imports from ``__future__`` take, which have to stay first."""
    last = 0
    for number, statement in enumerate(module.body):
        is_docstring = number == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not is_docstring and not (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
            break
        last = statement.end_lineno or 0
    return last
