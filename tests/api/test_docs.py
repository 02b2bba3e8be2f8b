"""The pages on gather, on Python and on worker pools: their examples run, their commands parse, their rows import."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from scripts.cli import cli

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", ["gather.md", pytest.param("python.md", marks=pytest.mark.ray)])
def test_the_examples_of_a_page_print_what_it_says(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(page, "python")
    assert found
    example = doctest.DocTestParser().get_doctest("".join(found), {}, page, str(DOCS / page), 0)
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize("page", ["gather.md", "from-worker-pools.md"])
def test_the_commands_of_a_page_parse(page: str) -> None:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line.startswith("headrace ")]
    assert lines
    for line in lines:
        context = cli.make_context("headrace", shlex.split(line)[1:])
        command: click.Command = cli
        arguments = shlex.split(line)[1:]
        while isinstance(command, click.Group):
            name, *arguments = arguments
            found = command.get_command(context, name)
            assert found is not None, line
            command = found
        command.make_context(command.name, arguments, parent=context)


def test_the_rows_of_the_page_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    attempts, contexts = blocks("from-worker-pools.md", "json")
    Path("attempts.jsonl").write_text(attempts)
    Path("contexts.jsonl").write_text(contexts)
    (line,) = blocks("from-worker-pools.md", "bash")
    done = CliRunner().invoke(cli, shlex.split(line)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "imported 1 contexts and 1 attempts" in done.output


@pytest.mark.parametrize("page", ["gather.md", "python.md", "from-worker-pools.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (DOCS / target).exists(), target
