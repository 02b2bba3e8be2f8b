"""Reads shell scripts as text: commands with their words, redirections and here-documents, quoting and comments known.

No shell: nothing is run or expanded but variables that the script itself set to literal text, ``~`` and ``$PWD``. The
working folder is followed through ``cd`` as far as it is literal. What cannot be told stays as it is written.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

import msgspec

__all__ = ["Command", "pipelines", "read_dockerfile", "read_script"]

HOME = "/root"
OPERATORS = re.compile(r"&&|\|\||;;|\|&|&>>|&>|<<<|<<-|<<|>>|>\||>&|<&|<\(|>\(|[;&|<>()\n]")
REDIRECTIONS = frozenset({">", ">>", ">|", "&>", "&>>", "<", "<<<", ">&", "<&"})
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\+?=(.*)", re.DOTALL)
VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::?[-=+?%#/][^}]*)?\})")
KEYWORDS = frozenset({"if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}", "time"})
MAX_DEPTH = 8


class Command(msgspec.Struct, kw_only=True):
    """One simple command. ``assigned``: variables set before its name; ``outputs`` and ``inputs``: targets of
    redirections; ``given``: its here-document; ``ended_by``: the operator after it; ``folder``: where it runs."""

    line: int
    text: str
    words: list[str]
    assigned: dict[str, str]
    outputs: list[str]
    inputs: list[str]
    given: str = ""
    ended_by: str = ""
    folder: str = ""
    nested: bool = False

    @property
    def name(self) -> str:
        """The program's name without its folder; empty for bare assignments."""
        return posixpath.basename(self.words[0]) if self.words else ""


def read_dockerfile(text: str) -> list[Command]:
    """Commands of the ``RUN`` lines; ``ENV`` lines as commands ``ENV``, ``COPY`` and ``ADD`` ones as ``cp``."""
    lines = []
    going_on = False
    for line in text.splitlines():
        match = re.match(r"\s*(RUN|ENV|COPY|ADD|[A-Z]+)\s+(.*)", line) if not going_on else None
        if match is not None:
            lines.append({"RUN": "", "ENV": "ENV ", "COPY": "cp ", "ADD": "cp "}.get(match[1], "# ") + match[2])
        else:
            lines.append(line if going_on or line.lstrip().startswith("#") else "")
        going_on = line.rstrip().endswith("\\") or (going_on and line.lstrip().startswith("#"))
    return read_script("\n".join(lines), folder="/workspace/repo")


def read_script(text: str, *, folder: str, line: int = 1, depth: int = 0) -> list[Command]:
    """The commands of a script in the order of the text, those of ``$(…)`` after the one that they stand in.

    Args:
        text: the script.
        folder: absolute path of the folder in which it starts.
        line: number of its first line.
        depth: how many scripts it is nested in.
    """
    return _Reader(text, folder=folder, line=line, depth=depth).read()


class _Reader:
    def __init__(self, text: str, *, folder: str, line: int, depth: int) -> None:
        self._text, self._at, self._line, self._depth = text, 0, line, depth
        self._variables: dict[str, str] = {"HOME": HOME}
        self._folders = [folder]
        self._awaiting: list[tuple[Command, str]] = []
        self._commands: list[Command] = []
        self._inner: list[tuple[str, int]] = []
        self._begun: int | None = None
        self._begun_line = line
        self._before = 0

    def read(self) -> list[Command]:
        command = self._new()
        pending = ""
        while (token := self._token()) is not None:
            kind, value = token
            if kind == "word" and pending:
                self._redirect(command, pending, value)
                pending = ""
            elif kind == "word":
                match = ASSIGNMENT.fullmatch(value)
                if match and not command.words:
                    command.assigned[match[1]] = match[2]
                elif not (not command.words and value in KEYWORDS):
                    command.words.append(value)
            elif value in REDIRECTIONS or value in {"<<", "<<-"}:
                if (
                    command.words
                    and command.words[-1].isdigit()
                    and self._text[self._before - 1 : self._before].isdigit()
                ):
                    command.words.pop()
                pending = value
            else:
                command = self._end(command, value)
        self._end(command, "")
        return self._commands

    def _new(self) -> Command:
        return Command(line=self._line, text="", words=[], assigned={}, outputs=[], inputs=[], folder=self._folders[-1])

    def _redirect(self, command: Command, operator: str, target: str) -> None:
        if operator in {"<<", "<<-"}:
            self._awaiting.append((command, target))
        elif operator == "<<<":
            command.given += target
        elif operator == "<":
            command.inputs.append(target)
        elif operator not in {">&", "<&"} or not re.fullmatch(r"\d+|-", target):
            command.outputs.append(target)

    def _end(self, command: Command, operator: str) -> Command:
        command.ended_by = operator
        if self._begun is not None:
            command.line = self._begun_line
        elif operator == "&" and self._commands and not command.outputs:
            # After a closing bracket: all that stands in it goes on by itself.
            self._commands[-1].ended_by = operator
        command.text = self._text[self._start() : self._before].strip() if command.words else command.text
        if command.words or command.assigned or command.outputs:
            command.folder = self._folders[-1]
            self._commands.append(command)
            self._follow(command)
        for inner, line in self._inner:
            if self._depth < MAX_DEPTH:
                for found in read_script(inner, folder=self._folders[-1], line=line, depth=self._depth + 1):
                    found.nested = True
                    self._commands.append(found)
        self._inner = []
        if operator == "\n":
            self._here_documents()
        if operator == "(":
            self._folders.append(self._folders[-1])
        elif operator == ")" and len(self._folders) > 1:
            self._folders.pop()
        self._begun = None
        return self._new()

    def _start(self) -> int:
        return self._begun if self._begun is not None else self._at

    def _follow(self, command: Command) -> None:
        """Keeps variables that are set to literal text, and the working folder."""
        declared = command.words[1:] if command.name in {"export", "declare", "readonly", "local", "typeset"} else []
        pairs = dict(command.assigned) if not command.words else {}
        pairs |= {m[1]: m[2] for word in declared if (m := ASSIGNMENT.fullmatch(word))}
        for name, value in pairs.items():
            if "$(" in value or "`" in value:
                self._variables.pop(name, None)
            else:
                self._variables[name] = value
        if command.name in {"cd", "pushd"} and command.ended_by != "|":
            target = next((word for word in command.words[1:] if not word.startswith("-")), HOME)
            self._folders[-1] = posixpath.normpath(posixpath.join(self._folders[-1], target))

    def _here_documents(self) -> None:
        for command, delimiter in self._awaiting:
            body = []
            while self._at < len(self._text):
                end = self._text.find("\n", self._at)
                end = len(self._text) if end < 0 else end
                line = self._text[self._at : end]
                self._at, self._line = end + 1, self._line + 1
                if line.lstrip("\t").rstrip("\r") == delimiter or line.strip() == delimiter:
                    break
                body.append(line)
            command.given += "\n".join(body) + "\n"
        self._awaiting = []

    def _token(self) -> tuple[str, str] | None:
        """The next word or operator; ``None`` at the end."""
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char in " \t\r":
                self._at += 1
            elif text.startswith("\\\n", self._at):
                self._at, self._line = self._at + 2, self._line + 1
            elif char == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            else:
                break
        else:
            self._before = len(text)
            return None
        self._before = self._at
        if self._begun is None and text[self._at] not in "\n;&|()":
            self._begun, self._begun_line = self._at, self._line
        if match := OPERATORS.match(text, self._at):
            if match[0] in {"<(", ">("}:
                return "word", self._substitution(self._at + 1)
            self._at = match.end()
            self._line += match[0].count("\n")
            return "operator", match[0]
        return "word", self._word()

    def _word(self) -> str:
        text, out = self._text, []
        while self._at < len(text):
            char = text[self._at]
            if char in " \t\r\n;&|<>()":
                break
            out.append(self._piece(char))
        return "".join(out)

    def _piece(self, char: str) -> str:  # noqa: PLR0911 - a return for each kind of quoting
        text = self._text
        if char == "'" or text.startswith("$'", self._at):
            start = self._at + (1 if char == "'" else 2)
            return self._until_quote(start)
        if char == '"':
            return self._double_quoted()
        if char == "\\":
            self._at += 2
            if text[self._at - 1 : self._at] == "\n":
                self._line += 1
                return ""
            return text[self._at - 1 : self._at]
        if char in "$`":
            return self._expansion()
        self._at += 1
        if (
            char == "~"
            and (text[self._at - 2 : self._at - 1] or " ") in " \t\n=>"
            and text[self._at : self._at + 1] in "/ \t\n"
        ):
            return HOME
        return char

    def _until_quote(self, start: int) -> str:
        end = self._text.find("'", start)
        end = len(self._text) if end < 0 else end
        self._line += self._text.count("\n", start, end)
        self._at = end + 1
        return self._text[start:end]

    def _double_quoted(self) -> str:
        self._at += 1
        out = []
        while self._at < len(self._text) and (char := self._text[self._at]) != '"':
            if char == "\\" and self._text[self._at + 1 : self._at + 2] in '"\\$`\n':
                out.append(self._text[self._at + 1 : self._at + 2].replace("\n", ""))
                self._line += self._text[self._at + 1 : self._at + 2] == "\n"
                self._at += 2
            elif char in "$`":
                out.append(self._expansion())
            else:
                self._line += char == "\n"
                out.append(char)
                self._at += 1
        self._at += 1
        return "".join(out)

    def _expansion(self) -> str:
        text = self._text
        if text[self._at] == "`":
            end = text.find("`", self._at + 1)
            end = len(text) if end < 0 else end
            raw = text[self._at : end + 1]
            self._inner.append((raw.strip("`"), self._line))
            self._line += raw.count("\n")
            self._at = end + 1
            return raw
        if text.startswith("$(", self._at):
            return self._substitution(self._at + 1)
        if match := VARIABLE.match(text, self._at):
            self._at = match.end()
            name = match[1] or match[2]
            if name == "PWD":
                return self._folders[-1]
            plain = match[1] or match[0] == f"${{{name}}}"
            return self._variables.get(name, match[0]) if plain else match[0]
        self._at += 1
        return "$"

    def _substitution(self, opening: int) -> str:
        """What stands in ``$(…)`` from its opening bracket; its commands are read too."""
        at, depth, quote = opening, 0, ""
        while at < len(self._text):
            char = self._text[at]
            if quote:
                if char == "\\" and quote == '"':
                    at += 1
                elif char == quote:
                    quote = ""
            elif char in "'\"":
                quote = char
            elif char == "\\":
                at += 1
            elif char == "(":
                depth += 1
            elif char == ")":
                depth -= 1
                if depth == 0:
                    break
            at += 1
        inner = self._text[opening + 1 : at]
        raw = self._text[opening - 1 : at + 1]
        line = self._line
        self._line += raw.count("\n")
        self._at = at + 1
        if inner.strip() == "pwd":
            return self._folders[-1]
        if not inner.startswith("("):
            self._inner.append((inner, line))
        return raw


def pipelines(commands: list[Command]) -> Iterator[list[Command]]:
    """Commands grouped as they are piped into each other."""
    group: list[Command] = []
    for command in commands:
        if command.nested:
            continue
        group.append(command)
        if command.ended_by not in {"|", "|&"}:
            yield group
            group = []
    if group:
        yield group
