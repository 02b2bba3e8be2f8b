"""``headrace verify``: one hand-made context on one pull request, judged as a sweep would judge it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec
from rich.console import Console
from rich.text import Text

from actors.ids import new_id
from actors.settings import Settings, load_settings
from actors.templates import stock_context
from actors.workbench import DockerWorkbench
from events.errors import InputError
from events.records import posix
from events.work import Check, FailureClass, Outcome, PullRequest, Stage, WorkOrder
from scripts.running import require_engine
from store.blobs import FileBlobs
from store.docker_context import DockerContext
from store.timeline import read_timeline, require_resolved

__all__ = ["command"]

REFUSED, NOT_READY, INTERRUPTED = 1, 3, 130


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints (CONTRACTS.md section 5)."""

    pull_request: str
    context: str
    verified: bool
    level: str
    stage: str
    failure_class: str | None
    message: str
    checks: list[Check]
    image: str | None
    tests: dict[str, int] | None
    logs: dict[str, str]


@click.command()
@click.argument("prs", type=click.Path(path_type=Path))
@click.option("--issue-number", type=int, required=True, help="Which pull request of PRS.")
@click.option("--repo", help="OWNER/REPO, where several repositories of PRS have that number.")
@click.option(
    "--context", type=click.Path(path_type=Path), help="Folder with the context; default: the stock template."
)
@click.option("--level", help="How far to verify: build, smoke, tests or f2p.")
@click.option("--logs", type=click.Path(path_type=Path), help="Folder for the full logs and per-test outcomes.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as one JSON object.")
@click.option("--config", type=click.Path(path_type=Path), help="Settings file; default: ./headrace.toml.")
def command(
    *,
    prs: Path,
    issue_number: int,
    repo: str | None,
    context: Path | None,
    level: str | None,
    logs: Path | None,
    as_json: bool,
    config: Path | None,
) -> int:
    """Builds one context for one pull request of the timeline PRS and verifies the image as a sweep would.

    Nothing is recorded: no log is opened. Exit code 0: verified; 1: refused; 3: the environment was not ready (no
    engine, disk full, index away), which says nothing about the context.
    """
    settings = load_settings(config, overrides={"verify": {} if level is None else {"level": level}})
    rows = read_timeline(prs)
    request = _chosen(rows, prs, issue_number=issue_number, repo=repo)
    require_resolved([request], prs)
    template = stock_context() if context is None else DockerContext.from_directory(context)
    require_engine(settings)
    with TemporaryDirectory(prefix="headrace-verify-") as folder:
        blobs = FileBlobs(Path(folder))
        order = WorkOrder(
            attempt_id=f"verify-{new_id()}",
            log_id=f"verify-{new_id()}",
            sweep="verify",
            stage=Stage.TRY_DEFAULT,
            pull_request=request,
            rules=settings.verify.rules,
            anchor=_anchor(rows, request),
            context=blobs.put(template.to_tar_bytes()),
        )
        outcome, interrupted = _perform(order, settings, blobs)
        kept = _keep_logs(outcome, blobs, logs)
    report = _report(request, template, outcome, kept)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _show(report, outcome)
    if interrupted:
        return INTERRUPTED
    if outcome.failure_class is FailureClass.INFRA:
        return NOT_READY
    return 0 if outcome.verified else REFUSED


def _chosen(rows: Sequence[PullRequest], path: Path, *, issue_number: int, repo: str | None) -> PullRequest:
    found = [row for row in rows if row.issue_number == issue_number and repo in (None, row.repository)]
    if not found:
        where = f"{repo} of {path}" if repo else str(path)
        raise InputError(f"--issue-number {issue_number}: no such pull request in {where}; see its field issue_number")
    if len(found) > 1:
        names = ", ".join(row.repository for row in found)
        raise InputError(f"--issue-number {issue_number}: {names} all have it in {path}; name one with --repo")
    return found[0]


def _anchor(rows: Sequence[PullRequest], request: PullRequest) -> str:
    """The commit that a sweep of this timeline would have its repository tier at: so both share that image."""
    own = [row for row in rows if row.repository == request.repository and row.clone_url == request.clone_url]
    return min(own, key=lambda row: (posix(row.created_at), row.issue_number)).commit


def _perform(order: WorkOrder, settings: Settings, blobs: FileBlobs) -> tuple[Outcome, bool]:
    """Does the order in a thread, so that Ctrl-C can end it in order: nothing is left on the engine."""
    bench, cancel, ended = DockerWorkbench(settings=settings, blobs=blobs), threading.Event(), threading.Event()
    done: list[Outcome] = []

    def work() -> None:
        try:
            done.append(bench.perform(order, cancel=cancel))
        finally:
            ended.set()

    threading.Thread(target=work, name="verify").start()
    try:
        ended.wait()  # not Thread.join, which takes a thread for ended once it was interrupted
    except KeyboardInterrupt:
        cancel.set()
        ended.wait()
    if not done:
        raise RuntimeError("the verification met a defect; its traceback is above")
    return done[0], cancel.is_set()


def _keep_logs(outcome: Outcome, blobs: FileBlobs, folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    kept = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, digest in outcome.blobs.items():
            path = folder / (f"{kind.removesuffix('_log')}.log" if kind.endswith("_log") else f"{kind}.jsonl")
            with path.open("wb") as file:
                file.write(blobs.get(digest))
            kept[kind] = str(path)
    except OSError as exc:
        raise InputError(f"--logs {folder}: cannot be written ({exc.strerror}); name a folder that can be") from exc
    return kept


def _report(request: PullRequest, template: DockerContext, outcome: Outcome, logs: dict[str, str]) -> Report:
    return Report(
        pull_request=request.name,
        context=template.digest,
        verified=outcome.verified,
        level=outcome.level.value,
        stage=outcome.stage,
        failure_class=outcome.failure_class.value if outcome.failure_class else None,
        message=outcome.message,
        checks=outcome.checks,
        image=outcome.image,
        tests=msgspec.to_builtins(outcome.tests) if outcome.tests else None,
        logs=logs,
    )


def _show(report: Report, outcome: Outcome) -> None:
    console = Console(width=max(80, shutil.get_terminal_size().columns), highlight=False)
    for check in report.checks:
        mark = Text("ok      ", style="green") if check.ok else Text("refused ", style="bold red")
        console.print(mark, Text(f"{check.name:<12}", style="bold"), Text(check.detail), sep="")
    if outcome.log_tail and not report.verified:
        console.print(Text(f"\n{outcome.log_tail}\n", style="dim"))
    verdict = "verified" if report.verified else f"refused ({report.failure_class}, at stage {report.stage})"
    console.print(Text(f"{report.pull_request} {verdict} at level {report.level}: {report.message}"))
    for kind, path in report.logs.items():
        console.print(Text(f"  {kind}: {path}"))
