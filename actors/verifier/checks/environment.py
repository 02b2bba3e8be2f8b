"""Neither the image's configuration nor the start-up files of its shells set what commands would obey.

A verification gives every command an environment of its own and starts no shell, so nothing found here could have had
an effect on its verdict; but a context that does this wants one, and people who use its image would feel it. Shell text
is judged line by line and without running it: what cannot be understood (``eval``) is refused.
"""

from __future__ import annotations

import re
from posixpath import dirname, normpath

from actors.verifier.checks.tools import CORE_TOOLS, PATH_FOLDERS
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.image_files import Entry, FileTooLarge, ImageFiles
from actors.verifier.image.layout import CHECKOUT, VENV_BIN, resolved

__all__ = ["check_environment"]

MATTERS = re.compile(
    r"PYTHON\w*|_?PYTEST\w*|PY_\w+|LD_\w+|PATH|BASH_ENV|BASH_FUNC_.*|ENV|COV_\w+|COVERAGE_\w+|GLIBC_TUNABLES|GCONV_PATH|"
    r"LOCPATH|MALLOC_\w+|SHELLOPTS|BASHOPTS|PROMPT_COMMAND|PS4|IFS|HOME|VIRTUAL_ENV|OPENSSL_\w+|HYPOTHESIS_\w+|TOX_\w+|"
    r"GIT_(?!SSL_)\w+|PERL5\w+|PERLLIB|NODE_OPTIONS"
)
HARMLESS = frozenset(
    {
        *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUTF8"),
        *("PYTHONFAULTHANDLER", "PYTHON_VERSION", "PYTHON_SHA256", "PYTHON_PIP_VERSION", "PYTHON_SETUPTOOLS_VERSION"),
    }
)
STARTUP_FILES = frozenset(
    {
        *("etc/profile", "etc/bash.bashrc", "etc/environment", "etc/security/pam_env.conf", "root/.pam_environment"),
        *(
            f"root/.{name}"
            for name in ("bashrc", "profile", "bash_profile", "bash_login", "bash_aliases", "bash_logout")
        ),
        *("root/.zshrc", "root/.zshenv", "root/.zprofile", "etc/zsh/zshenv", "etc/zsh/zshrc", "etc/zsh/zprofile"),
    }
)
STARTUP_FOLDER = "etc/profile.d"
ABOVE_CHECKOUT = ("", dirname(CHECKOUT))
TEST_CONFIGURATION = (
    *("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "pyproject.toml", "tox.ini", "setup.cfg"),
    *("conftest.py", "setup.py"),
)
"""What pytest looks for in every folder from the tests upwards."""
ASSIGNMENT = re.compile(
    r"(?:(?:export|readonly|typeset|declare|local|then|else|do|\{)\s+(?:-\w+\s+)*)*(?P<name>[A-Za-z_]\w*)\+?=(?P<value>.*)"
)
DEFINITION = re.compile(
    r"alias\s+(?:--\s+)?(?P<alias>[^\s=]+)=|(?:function\s+)?(?P<function>[\w.\[-]+)\s*\(\)|function\s+(?P<word>[\w.-]+)"
)
SOURCED = re.compile(r"(?:then\s+|do\s+|\{\s+)?(?:\.|source)\s+(?P<path>.+)")
OBSCURE = re.compile(
    r"(?:then\s+|do\s+|else\s+|\{\s+)?(?:eval|exec|trap|enable|hash\s+-p|printf\s+-v|command_not_found_handle)\b"
)
PYTHON_TOOL = re.compile(r"python[\d.]*|pip[\d.]*|pytest|py\.test|tox|nox|coverage|uv|tmux|docker")
MAX_SCRIPT_BYTES = 1 << 20
MAX_SOURCED = 3


def check_environment(files: ImageFiles) -> list[Finding]:
    """Environment variables, shell start-up files and, above the checkout, configuration that pytest would find."""
    findings = [*_configured(files)]
    for path, entry in files.changed().items():
        if entry is None:
            continue
        if path in STARTUP_FILES or dirname(path) == STARTUP_FOLDER:
            findings += [f"/{path} {problem}" for problem in _Shell(files).judge(path)]
        elif dirname(path) in ABOVE_CHECKOUT and path.rpartition("/")[2] in TEST_CONFIGURATION:
            findings.append(
                f"/{path} lies above the checkout, where pytest would take it for its configuration; remove it"
            )
    return [Finding(defence=Defence.ENVIRONMENT, message=message) for message in findings]


def _configured(files: ImageFiles) -> list[str]:
    """What the image's own configuration sets otherwise than the parent's."""
    before, problems = files.config.parent_environment, []
    for name, value in files.config.environment.items():
        if before.get(name) == value or name in HARMLESS or not MATTERS.fullmatch(name):
            continue
        if name == "PATH" and _extends(files, value.split(":"), before.get("PATH", "").split(":")):
            continue
        problems.append(f"the image sets {name}={value[:80]!r}; remove it from the Dockerfile")
    return problems


def _extends(files: ImageFiles, folders: list[str], known: list[str]) -> bool:
    """Whether the known folders are all there, in their order, and the others shadow nothing."""
    others = [folder for folder in folders if folder not in known]
    return [folder for folder in folders if folder in known] == known and all(_is_modest(files, f) for f in others)


def _is_modest(files: ImageFiles, folder: str) -> bool:
    """Whether a folder can be put before the others in PATH: it holds no program that is looked for elsewhere."""
    if not folder.startswith("/"):
        return False
    path = normpath(folder).strip("/")
    if path in PATH_FOLDERS:
        return path == VENV_BIN
    real = resolved(files, path)
    return real is None or not any(_is_tool(files, entry.path.rpartition("/")[2]) for entry in files.children(real))


def _is_tool(files: ImageFiles, name: str) -> bool:
    if name in CORE_TOOLS or PYTHON_TOOL.fullmatch(name):
        return True
    return any(files.parent_entry(f"{folder}/{name}") is not None for folder in PATH_FOLDERS)


class _Shell:
    """Judges one start-up file, and the files that it reads."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._seen: set[str] = set()

    def judge(self, path: str) -> list[str]:
        """What is wrong with the lines that the parent's file of this name does not have."""
        real = resolved(self._files, path)
        if real is None or real in self._seen or len(self._seen) > MAX_SOURCED:
            return [] if real is None or real in self._seen else ["reads too many other files; remove it"]
        self._seen.add(real)
        if real not in self._files.changed():
            return []
        try:
            text = self._files.read(real, max_bytes=MAX_SCRIPT_BYTES).decode("utf-8", "replace")
        except (FileNotFoundError, FileTooLarge):
            return ["is no file of ordinary size; remove it"]
        known = set(self._parent_lines(real))
        problems = []
        for line in _lines(text):
            if line not in known:
                found = next((problem for part in _statements(line) if (problem := self._statement(part))), None)
                problems += [f"{found} ({line[:60]!r}); remove it"] if found else []
        return problems

    def _parent_lines(self, path: str) -> list[str]:
        before: Entry | None = self._files.parent_entry(path)
        if before is None or before.kind != "file":
            return []
        return _lines(self._files.read_parent(path).decode("utf-8", "replace"))

    def _statement(self, statement: str) -> str | None:
        if OBSCURE.match(statement):
            return "runs what cannot be judged"
        if found := SOURCED.fullmatch(statement):
            return self._sourced(found["path"])
        if found := DEFINITION.match(statement):
            name = found["alias"] or found["function"] or found["word"]
            return f"puts something of its own in the place of {name}" if _is_tool(self._files, name) else None
        if found := ASSIGNMENT.fullmatch(statement):
            return self._assignment(found["name"], found["value"].strip().strip("\"'"))
        return None

    def _assignment(self, name: str, value: str) -> str | None:
        if not MATTERS.fullmatch(name) or name in HARMLESS or (name, value) == ("VIRTUAL_ENV", "/opt/venv"):
            return None
        if name == "PATH":
            added = [_expanded(part) for part in value.split(":") if part not in {"$PATH", "${PATH}"}]
            inherits = len(added) < len(value.split(":"))
            fixed = [part for part in added if part.strip("/") in PATH_FOLDERS or part.strip("/") in {"usr/games"}]
            if all(part in fixed or _is_modest(self._files, part) for part in added) and (inherits or added == fixed):
                return None
        return f"sets {name}"

    def _sourced(self, text: str) -> str | None:
        path = _expanded(text.strip().strip("\"'"))
        if not path.startswith("/") or re.search(r"[$`*?()<>|&]", path):
            return "reads a file that cannot be told"
        problems = self.judge(normpath(path).strip("/"))
        return f"reads {path}, which {problems[0]}" if problems else None


def _expanded(path: str) -> str:
    return re.sub(r"^(?:~|\$HOME|\$\{HOME\})(?=/|$)", "/root", path.strip("\"'"))


def _lines(text: str) -> list[str]:
    joined = text.replace("\\\n", " ").split("\n")
    return [line.strip() for line in joined if line.strip() and not line.strip().startswith("#")]


def _statements(line: str) -> list[str]:
    """The commands of one line; what stands in quotes may be cut too, which makes it no more harmless."""
    return [part.strip() for part in re.split(r";|&&|\|\||\*\)|\{(?=\s)", line) if part.strip()]
