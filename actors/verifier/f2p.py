"""Level f2p: with the gold patch the named tests pass, and without it they fail; each side is run twice.

The tests' own patch (``test_patch``) is there on both sides, the fix (``patch``) only on the second. Patches are
applied on the host, to the commit, and the changed files are laid over the image's; where the fix changes what has to
be built, the context's own package script builds it first, in the same container, without network.

- *Named tests*: ``fail_to_pass`` of the pull request; where it names none, the tests of the files that ``test_patch``
  changes: at least one of them has to fail before and pass after. ``pass_to_pass`` has to pass on both sides.
- A test that says one thing in one run and another in its repetition is a flake: the verdict is of that class, and
  counts neither as verified nor against the context at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from actors.verifier.lanes import side_by_side
from actors.verifier.levels import Subject
from actors.verifier.session import PytestRun, Session
from actors.verifier.suite import judging
from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.patches import apply_patches, compiled_sources
from actors.verifier.suite.report import TestOutcome
from events.errors import InputError
from events.work import FailureClass, PullRequest
from store.docker_context import DockerContext

__all__ = ["f2p"]

RUNS = 2
BUILD_SCRIPT = "/headrace/docker_build_pkg.sh"


def f2p(session: Session, subject: Subject, *, request: PullRequest, tree: CommitTree, context: DockerContext) -> None:
    """See the module.

    Raises:
        Refused: a named test does not go from failing to passing, or the pull request lacks a patch.
    """
    trial = session.trial
    trial.stage = "f2p"
    if not request.patch or not (request.fail_to_pass or request.test_patch):
        trial.refuse(
            "f2p", f"{request.name} has no patch with tests; level f2p needs patch, and fail_to_pass or test_patch"
        )
    try:
        before = apply_patches(tree, [request.test_patch] if request.test_patch else [])
        after = apply_patches(tree, [one for one in (request.test_patch, request.patch) if one])
    except InputError as exc:
        trial.refuse("f2p", exc.message)
    script = session.spool / "docker_build_pkg.sh"
    script.write_text(context.build_pkg_sh, encoding="utf-8")
    wanted = [(side, files) for side, files in (("before", before), ("after", after)) for _ in range(RUNS)]
    runs = side_by_side(
        session,
        [
            partial(_run, subject=subject, kind=f"f2p_{side}_{place % RUNS + 1}", files=files, script=script)
            for place, (side, files) in enumerate(wanted)
        ],
    )
    outcomes = [_outcomes(one) for one in runs]
    changed_tests = sorted(path for path in before if path.endswith(".py"))
    _judge(session, request, outcomes[:RUNS], outcomes[RUNS:], changed_tests=changed_tests)


def _run(
    session: Session, *, subject: Subject, kind: str, files: Mapping[str, bytes | None], script: Path
) -> PytestRun:
    prepare = [["/bin/bash", BUILD_SCRIPT]] if compiled_sources(files) else []
    return session.pytest(
        kind,
        plugins=subject.inspection.plugins,
        wall_s=session.settings.test_timeout_s,
        files=subject.inspection.in_image(files),
        prepare=prepare,
        mounts={BUILD_SCRIPT: script} if prepare else {},
    )


def _outcomes(run: PytestRun) -> dict[str, str]:
    found = {one.test: _plain(one) for one in run.report.outcomes}
    return {**dict.fromkeys(run.report.collected, "missing"), **found}


def _plain(one: TestOutcome) -> str:
    return "failed" if one.failed else one.outcome


def _judge(
    session: Session,
    request: PullRequest,
    before: Sequence[dict[str, str]],
    after: Sequence[dict[str, str]],
    *,
    changed_tests: Sequence[str],
) -> None:
    trial = session.trial
    everything = sorted({test for run in (*before, *after) for test in run})
    named = judging.resolve_names(request.fail_to_pass or [], everything)
    unknown = [name for name in request.fail_to_pass or [] if not judging.resolve_names([name], everything)]
    if unknown:
        trial.refuse("f2p", f"{unknown[0]}, named in fail_to_pass, is no test of {request.name} with its patches")
    if not request.fail_to_pass:
        candidates = [test for test in everything if any(test.startswith(f"{path}::") for path in changed_tests)]
        named = [test for test in candidates if _all(before, test, bad=True) and _all(after, test, bad=False)]
        if not named:
            trial.refuse(
                "f2p",
                f"no test in {', '.join(changed_tests) or 'test_patch'} fails before the patch and passes after it",
            )
    kept = judging.resolve_names(request.pass_to_pass or [], everything)
    for test in [*named, *kept]:
        for side, runs in (("before", before), ("after", after)):
            if len({run.get(test, "missing") == "passed" for run in runs}) > 1:
                message = f"{test} passed in one run {side} the patch and not in the other"
                trial.refuse("f2p", message, failure_class=FailureClass.FLAKE)
    wrong = [f"{test} passes without the patch" for test in named if not _all(before, test, bad=True)]
    wrong += [f"{test} does not pass with the patch" for test in [*named, *kept] if not _all(after, test, bad=False)]
    wrong += [f"{test} does not pass before the patch" for test in kept if not _all(before, test, bad=False)]
    if wrong:
        trial.refuse("f2p", "; ".join(wrong[: judging.NAMED_TESTS]))
    trial.note(
        "f2p",
        f"{len(named)} tests fail before the patch and pass after it, {len(kept)} pass on both sides, {RUNS} times",
    )


def _all(runs: Sequence[dict[str, str]], test: str, *, bad: bool) -> bool:
    return all((run.get(test, "missing") != "passed") is bad for run in runs)
