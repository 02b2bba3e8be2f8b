"""The README's commands exist, with the options that it gives them, and its settings are accepted."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from actors.settings import load_settings
from scripts.cli import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def command_lines() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("headrace ")]


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_parses(line: str) -> None:
    arguments = shlex.split(line)[1:]
    context = cli.make_context("headrace", arguments)
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, *arguments = arguments
        found = command.get_command(context, name)
        assert found is not None, f"{line}: there is no command {name}"
        command = found
    command.make_context(command.name, arguments, parent=context)


def test_the_quickstart_names_the_two_scripts_and_they_are_there() -> None:
    for name in ("scripts/demo.sh", "scripts/test.sh", "scripts/setup.sh"):
        assert name in README
        assert (ROOT / name).stat().st_mode & 0o111


def test_links_within_the_project_lead_somewhere() -> None:
    targets = [one for one in re.findall(r"\]\(([^)]+)\)", README) if not one.startswith("http")]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_settings_example_is_accepted(tmp_path: Path) -> None:
    (example,) = blocks("toml")
    path = tmp_path / "headrace.toml"
    path.write_text(example)
    settings = load_settings(path, environ={})
    given = tomllib.loads(example)
    assert settings.sweep.workers == given["sweep"]["workers"]
    assert settings.verify.min_pass_ratio == given["verify"]["min_pass_ratio"]


def test_every_command_is_listed_with_help_of_its_own() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert command.help, name
