"""The levels of a verification that run something of the image: smoke, tests, and f2p.

Each raises :class:`actors.verifier.trial.Refused` at the first thing that refuses the image, and returns otherwise.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec

from actors.verifier.containers.container import CHECKOUT
from actors.verifier.defences import Defence, Finding
from actors.verifier.inspection import Inspection
from actors.verifier.lanes import side_by_side
from actors.verifier.session import PytestRun, Session
from actors.verifier.suite import control, judging
from actors.verifier.suite.collection import Collected, CollectorReport, compare, written_in
from actors.verifier.suite.report import ReportRefused, TestOutcome, counts, encode_outcomes, read_report
from events.work import VerificationRules

__all__ = ["SmokeReport", "Subject", "smoke", "tests"]

MIB = 1024 * 1024
RERUN_AT_MOST = 100
"""More failing tests than this are no flakes, and are not run again."""
CONTROL_SAMPLE = 40
"""How many of the passed tests are run in the negative control."""
CONTROL_LEAST_S = 60.0
CONTROL_TIMES = 3.0
"""The control may take this many times as long as the tests did; a control that hangs has not passed."""


class SmokeProblem(msgspec.Struct, frozen=True):
    """One finding of ``inside/smoke.py``."""

    check: str
    message: str


class SmokeReport(msgspec.Struct, frozen=True):
    """The report of ``inside/smoke.py``."""

    distributions: list[dict[str, str]]
    modules: list[dict[str, str]]
    problems: list[SmokeProblem]


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is verified. ``seed``: of the control's sample; ``known_failures``: tests that may fail; ``passed_before``:
    tests that passed on the neighbour."""

    rules: VerificationRules
    inspection: Inspection
    primary_root: str
    seed: int
    known_failures: frozenset[str]
    passed_before: frozenset[str]


def smoke(session: Session, subject: Subject) -> None:
    """The package imports, and it comes from the checkout."""
    trial = session.trial
    trial.stage = "smoke"
    ended, path = session.script(
        "smoke.py",
        CHECKOUT,
        subject.primary_root,
        "/headrace/results/report.json",
        report="report.json",
        kind="smoke",
        wall_s=session.settings.smoke_timeout_s,
    )
    session.survived(ended, check="import", what="importing the package")
    try:
        report = msgspec.json.decode(read_report(path, max_bytes=4 * MIB), type=SmokeReport)
    except (ReportRefused, msgspec.DecodeError) as exc:
        trial.refuse("import", f"the import check ended with exit code {ended.exit_code} and no report: {exc}")
    problems = {check: [one.message for one in report.problems if one.check == check] for check in ("origin", "import")}
    if problems["origin"] and trial.applies(Defence.ORIGIN):
        trial.refuse("origin", f"package is not this checkout's: {'; '.join(problems['origin'])}")
    if problems["import"]:
        trial.refuse("import", f"package does not import: {'; '.join(problems['import'])}")
    if (ended.exit_code != 0 or report.problems) and trial.applies(Defence.ORIGIN):
        trial.refuse("import", f"the import check ended with exit code {ended.exit_code}")
    trial.note("import", ", ".join(f"{one.get('name')} is {one.get('file')}" for one in report.modules))


def tests(session: Session, subject: Subject) -> list[TestOutcome]:
    """The repository's own tests are run and pass as the rules ask; returns the outcomes."""
    trial = session.trial
    trial.stage = "tests"
    settings = session.settings
    plugins = subject.inspection.plugins
    with ThreadPoolExecutor(max_workers=1) as host:
        expected = host.submit(lambda: subject.inspection.expected)  # while the container works
        run = session.pytest("test", plugins=plugins, wall_s=settings.test_timeout_s)
        trial.test_s = run.wall_s
        outcomes = judging.mark_known(run.report.outcomes, subject.known_failures)
        _keep(session, outcomes)
        trial.record(Defence.CANARIES, _canaries(session, run), detail=f"{len(run.canaries)} that must fail did")
        if trial.applies(Defence.COLLECTION):
            not_installed = subject.inspection.not_installed
            found = compare(expected.result(), _collected(run), not_installed=not_installed)
            trial.record(Defence.COLLECTION, found, detail=f"{len(run.report.selected)} tests, as the commit has them")
    _complete(session, run)
    return _settled(session, subject, outcomes, _collected(run))


def _settled(
    session: Session, subject: Subject, outcomes: list[TestOutcome], collected: Collected
) -> list[TestOutcome]:
    """The final outcomes: failing tests are run again; beside that, where it is likely to end well, the controls."""

    def again(branch: Session) -> list[TestOutcome]:
        found = _run_again(branch, subject, outcomes)
        _keep(branch, found)
        good, detail = judging.judge(found, subject.rules, passed_before=subject.passed_before)
        if not good:
            branch.trial.refuse("tests", detail)
        branch.trial.note("tests", detail)
        return found

    def failing(branch: Session) -> list[TestOutcome]:
        _failing_control(branch, subject, outcomes, collected)
        return []

    def control(branch: Session) -> list[TestOutcome]:
        _control(branch, subject, outcomes, collected)
        return []

    controls = [failing, control] if session.trial.applies(Defence.CONTROL) else []
    if judging.judge(outcomes, subject.rules, passed_before=subject.passed_before)[0]:
        return side_by_side(session, [again, *controls])[0]
    outcomes = again(session)
    if controls:
        side_by_side(session, controls)
    return outcomes


def _collected(run: PytestRun) -> Collected:
    """What a run reported of its collection."""
    report = run.report
    modules = [CollectorReport(one.nodeid, one.outcome) for one in report.modules]
    return Collected(collected=report.collected, selected=report.selected, modules=modules)


def _keep(session: Session, outcomes: list[TestOutcome]) -> None:
    """Writes the per-test outcomes, which are kept whatever the verdict is."""
    path = session.spool / "tests.jsonl"
    path.write_bytes(encode_outcomes(outcomes))
    session.trial.files["tests"] = path
    session.trial.counts = counts(outcomes)


def _canaries(session: Session, run: PytestRun) -> list[Finding]:
    """What is wrong with the tests from outside, which must have failed."""
    if not session.trial.applies(Defence.CANARIES) or not run.report.selected:
        return []
    for name in run.canaries:
        outcome = run.report.canaries.get(name, "not run")
        if outcome not in ("failed", "error"):
            message = (
                f"a test from outside that must fail was reported as {outcome}: something here decides on outcomes"
            )
            return [Finding(defence=Defence.CANARIES, message=message)]
    return []


def _complete(session: Session, run: PytestRun) -> None:
    """Every selected test has an outcome, and no other has."""
    report = run.report
    modules = {one.nodeid for one in report.modules}
    selected = set(report.selected)
    seen = {one.test for one in report.outcomes}
    strangers = seen - selected - modules
    if strangers and session.trial.applies(Defence.COLLECTION):
        session.trial.refuse("tests", f"{min(strangers)} has an outcome but was not selected to run")
    missing = selected - seen
    if missing and session.trial.applies(Defence.COLLECTION):
        session.trial.refuse("tests", f"{len(missing)} tests that were to run have no outcome; first: {min(missing)}")


def _run_again(session: Session, subject: Subject, outcomes: list[TestOutcome]) -> list[TestOutcome]:
    """Runs failing tests again, so that flakes are told from failures."""
    for number in range(1, subject.rules.reruns + 1):
        failing = [one.test for one in outcomes if one.failed and not one.known and "::" in one.test]
        if not 0 < len(failing) <= RERUN_AT_MOST:
            break
        run = session.pytest(
            f"rerun_{number}",
            plugins=subject.inspection.plugins,
            wall_s=session.settings.test_timeout_s,
            only=failing,
        )
        again = [one for one in run.report.outcomes if one.test in set(failing)]
        outcomes = judging.merge_rerun(outcomes, again)
    return outcomes


def _failing_control(session: Session, subject: Subject, outcomes: list[TestOutcome], collected: Collected) -> None:
    """With the tests' own code taken away, and everything else in its place, the tests that passed must not pass."""
    places = subject.inspection.standing(written_in(subject.inspection.expected, collected))
    passed = {one.test: one.outcome for one in outcomes if one.test in places}
    chosen = control.choose(passed, seed=subject.seed, at_most=CONTROL_SAMPLE)
    files = subject.inspection.failing({test: places[test] for test in chosen})
    if not files:
        return
    run = session.pytest(
        "control_tests",
        plugins=subject.inspection.plugins,
        wall_s=_control_s(session),
        only=chosen,
        files=files,
        may_break=True,
    )
    seen = {one.test: one.outcome for one in run.report.outcomes}
    ratio = subject.rules.min_pass_ratio
    finding = control.judge(seen, chosen, min_pass_ratio=ratio, gone="their own code")
    if finding is not None:
        session.trial.record(Defence.CONTROL, [finding])


def _control_s(session: Session) -> float:
    """How long a control may take."""
    wall_s = max(CONTROL_LEAST_S, CONTROL_TIMES * (session.trial.test_s or 0.0))
    return min(wall_s, session.settings.test_timeout_s)


def _control(session: Session, subject: Subject, outcomes: list[TestOutcome], collected: Collected) -> None:
    """With the package's own code taken away, the tests that passed must not pass."""
    trial = session.trial
    places = written_in(subject.inspection.expected, collected)
    silent = set(places) - subject.inspection.speaking(places)
    passed = {one.test: one.outcome for one in outcomes}
    telling = {test: outcome for test, outcome in passed.items() if test not in silent}
    chosen = control.choose(telling, seed=subject.seed, at_most=CONTROL_SAMPLE)
    is_speaking = bool(chosen)
    chosen = chosen or control.choose(passed, seed=subject.seed, at_most=CONTROL_SAMPLE)
    finding: Finding | None = Finding(
        defence=Defence.CONTROL, message="the package has no code that could be taken away"
    )
    for number, files in enumerate(subject.inspection.controls(speaking=is_speaking), start=1):
        run = session.pytest(
            "control" if number == 1 else f"control_{number}",
            plugins=subject.inspection.plugins,
            wall_s=_control_s(session),
            only=chosen,
            files=files,
            may_break=True,
        )
        seen = {one.test: one.outcome for one in run.report.outcomes}
        still = sum(seen.get(test) == "passed" for test in chosen)
        finding = control.judge(seen, chosen, min_pass_ratio=subject.rules.min_pass_ratio)
        if finding is None:
            trial.record(Defence.CONTROL, [], detail=f"{still} of {len(chosen)} passed without the package's code")
            return
    trial.record(Defence.CONTROL, [finding] if finding else [])
