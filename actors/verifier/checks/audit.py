"""The tamper audit: reads the texts of a context and tells what in them forges, hides or replaces.

A first net only. It follows what the text says plainly and stays silent where it would have to guess, so that honest
scripts pass; what is hidden better shows in the image, which the other defences examine. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from actors.verifier.checks.audit_rules import CHECKOUT, PYTHON, TOOLS, about_command, about_pipeline
from actors.verifier.checks.shell_text import Command, pipelines, read_dockerfile, read_script
from actors.verifier.defences import Defence, Finding
from store.docker_context import DockerContext

__all__ = ["MAX_QUOTED", "audit"]

MAX_QUOTED = 120
"""Characters of the text that a finding quotes."""
LASTING = frozenset({"profile.sh", "entrypoint.sh", "run-tests.sh"})
"""Files whose variables are in force when tests run."""


def audit(context: DockerContext) -> list[Finding]:
    """What in a context's nine texts tampers with tests, tools or results.

    Returns:
        Findings in the order of the files and lines; each names the file, the line, the rule and the text.
    """
    findings = []
    for name, text in context.files.items():
        commands = read_dockerfile(text) if name == "Dockerfile" else read_script(text, folder=CHECKOUT)
        seen = set()
        for command, (rule, what) in _look(commands, lasting=name in LASTING):
            message = f"{name}, line {command.line}: {rule}: {what}: {_quoted(command)}"
            if (command.line, rule) not in seen:
                seen.add((command.line, rule))
                findings.append(Finding(defence=Defence.AUDIT, message=message))
    return findings


def _look(commands: list[Command], *, lasting: bool) -> Iterator[tuple[Command, tuple[str, str]]]:
    cloned = _cloned(commands)
    waits = any(command.name == "wait" for command in commands)
    for command, following in zip_longest(commands, commands[1:]):
        if any(command.folder == folder or command.folder.startswith(f"{folder}/") for folder in cloned):
            # Another project's checkout, whose commit and files nobody compares.
            command.folder = "/tmp/cloned"  # noqa: S108 - a name for what lies outside of the checkout
        for seen in about_command(command, persistent=lasting):
            if not (seen[0] == "background" and waits):
                yield command, seen
        if command.ended_by == "&" and not waits:
            yield command, ("background", "it is left running")
        if _defines_tool(command, following):
            yield command, ("tools", f"the function {command.name} takes the place of a tool")
    for group in pipelines(commands):
        yield from about_pipeline(group)


def _cloned(commands: list[Command]) -> list[str]:
    """Folders into which the script clones other repositories."""
    found = []
    for command in commands:
        if command.name == "git" and "clone" in command.words:
            plain = [word for word in command.words[command.words.index("clone") + 1 :] if not word.startswith("-")]
            urls = [number for number, word in enumerate(plain) if ":" in word or word.endswith(".git")]
            if urls:
                name = plain[urls[0] + 1 : urls[0] + 2] or [plain[urls[0]].rstrip("/").rpartition("/")[2]]
                found.append(f"{command.folder}/{name[0].removesuffix('.git')}")
    return found


def _defines_tool(command: Command, following: Command | None) -> bool:
    """Whether ``name() {`` defines a function under the name of a tool."""
    if len(command.words) != 1 or command.ended_by != "(" or following is None:
        return False
    return command.words[0] in TOOLS or PYTHON.fullmatch(command.words[0]) is not None


def _quoted(command: Command) -> str:
    text = " ".join(command.text.split())
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 1]}…"
