"""The rules of the tamper audit: what a command of a build script would do to tests, tools or results.

Each rule looks at one command, or at text that a command writes, and says in words what it saw. Where the text cannot
tell (a variable set elsewhere, a downloaded file), a rule is silent: the image itself is examined afterwards.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from itertools import pairwise

from actors.verifier.checks.declared import CONFIGURATION, below
from actors.verifier.checks.shell_text import Command

__all__ = ["about_command", "about_pipeline", "about_text", "written_paths"]

Seen = tuple[str, str]
"""A rule's name and what it saw."""

CHECKOUT = "/workspace/repo"
TEST_FILE = re.compile(r"test_[^/]*\.py|[^/]*_test\.py|test_\*.*|\*_test\.py|conftest\.py")
TEST_FOLDER = re.compile(r"(tests?|benchmarks?|testing)")
VERSION_FILE = re.compile(
    r"_*version(_?info)?_*(\.\w+)?|VERSION(\.\w+)?|.*_version\.\w+|version.*\.(py|txt|h)", re.IGNORECASE
)
SHELLS = frozenset({"sh", "bash", "dash", "zsh"})
TOOLS = frozenset(
    {"pytest", "py.test", "git", "env", "timeout", "tmux", "screen", "tox", "nox", "coverage", "asv", "unittest"}
    | {"cat", "cp", "ls", "mv", "rm", "ln", "tee", "head", "tail", "test", "true", "false", "sleep", "mkdir", "chmod"}
    | {"sha256sum", "md5sum", "diff", "grep", "sed", "awk", "find", "sort", "tar", "ps", "kill", "uv"}
    | SHELLS
)
PYTHON = re.compile(r"python(\d+(\.\d+)*)?|pip(\d+(\.\d+)*)?")
PATH_FOLDER = re.compile(r"(/usr(/local)?)?/s?bin|/opt/venv/bin|/root/(\.local/)?bin")
SYSTEM_TOOL = re.compile(r"(/usr(/local)?/bin|/bin|/opt/[^/]+/bin)/([\w.+-]+)")
RUNNER = re.compile(r"(^|/)(_pytest|pytest|pluggy|xdist|pytest_[a-z_]+)(/[^/]+\.py$|\.py$)")
RUNNER_FOLDER = re.compile(r"(site|dist)-packages/(_pytest|pytest|pluggy)(/|$)")
LIBRARY = re.compile(r"/lib/python3(\.\d+)?/(?!site-packages|dist-packages|EXTERNALLY-MANAGED)[\w./-]*\.py$")
PROFILE = re.compile(
    r"/etc/(profile(\.d/.*)?|environment|bash\.bashrc|bashrc|zsh/.*)|.*/\.(bashrc|bash_profile|profile|zshrc|bash_aliases)"
)
VARIABLES = re.compile(
    r"\b(PYTEST_ADDOPTS|PYTEST_PLUGINS|PYTEST_DISABLE_\w+|PYTEST_THEME|LD_PRELOAD|LD_AUDIT|BASH_ENV|PYTHONSTARTUP"
    r"|PYTHONPATH|PYTHONHOME|PYTHONBREAKPOINT|PYTHONINSPECT|PYTHONUSERBASE|PYTHONOPTIMIZE|PROMPT_COMMAND)=\S"
)
RESULTS = re.compile(
    r"(.*[._-])?(junit|results?|summary|verdict|test[_-]?report|verification|harness)([._-].*)?\.(xml|json|jsonl)"
)
TEST_LIST = re.compile(
    r".*(tests?|benchmarks?|cases|nodeids?)[_-]?(list|names|ids|files|to[_-]run)?\.(txt|json|lst|list)"
)
NODE_ID = re.compile(r"\btest_\w+(\.py)?::\w+|[\w/]+\.py::\w+|\btest_\w+\.py\b|\btime_\w+")
PASSED = re.compile(
    r"""<testsuites?\b|\b\d+ passed\b|["'](passed|failed|tests_passed|success)["']\s*:|\btests?=\\?["']\d+"""
)
HOOKS = re.compile(
    r"\bdef\s+(pytest_(collection\w*|runtest_\w+|session\w+|pyfunc_call|configure|ignore_collect|report_\w+|terminal_\w+"
    r"|exception_interact|cmdline_\w+|load_initial_conftests|assertrepr_compare|unconfigure|addoption|make\w*))\b"
    r"|\bpytest11\b|\bcollect_ignore(_glob)?\s*="
)
KILLS_RUN = re.compile(r"\bos\._exit\(\s*0?\s*\)|\batexit\.register\b.*_exit|\bsys\.settrace\b|\bsys\.meta_path\b")
REACHES_RUNNER = re.compile(r"\b(from|import)\s+_pytest\b|\bTestReport\b|\bheadrace_reporter\b|/headrace/request\b")
DECODES = re.compile(
    r"\b(exec|eval)\s*\(\s*(compile\s*\(\s*)?(__import__\([^)]*\)|base64|zlib|codecs|bytes\.fromhex|marshal|binascii|bz2|lzma"
    r"|urllib|requests)\b|\bmarshal\.loads\b"
)
PYTHON_WRITES = re.compile(
    r"""open\(\s*[rf]?['"]([^'"]+)['"]\s*,\s*(?:mode\s*=\s*)?['"][wax+b]+['"]"""
    r"""|Path\(\s*[rf]?['"]([^'"]+)['"]\s*\)\.(?:write_text|write_bytes|unlink|touch|symlink_to|rename)"""
    r"""|(?:os\.(?:remove|unlink|symlink|rename|replace|truncate)|shutil\.(?:rmtree|move|copy\w*))"""
    r"""\((?:[^()]*,\s*)?\s*[rf]?['"]([^'"]+)['"]\s*\)"""
)
INSTALLERS = re.compile(
    r"https://(sh\.rustup\.rs|static\.rust-lang\.org|astral\.sh|install\.python-poetry\.org|bootstrap\.pypa\.io"
    r"|deb\.nodesource\.com|raw\.githubusercontent\.com/nvm-sh|get\.docker\.com|apt\.llvm\.org|pdm-project\.org"
    r"|raw\.githubusercontent\.com/(python-poetry|pdm-project)|micro\.mamba\.pm|pyenv\.run|cli\.github\.com)"
)
HARMLESS_NAMES = re.compile(
    r".*\.(pyc|pyo|log|o|so|egg-info)|__pycache__|\.pytest_cache|\.coverage|htmlcov|\.mypy_cache"
)
GIT_CHANGES = frozenset(
    {"apply", "am", "commit", "cherry-pick", "revert", "merge", "rebase", "stash", "update-index", "update-ref", "rm"}
    | {"mv", "sparse-checkout", "switch", "pull", "replace", "filter-branch", "read-tree", "symbolic-ref", "bisect"}
)
UNSAFE_GIT_SETTING = re.compile(
    r"core\.(hookspath|fsmonitor|worktree|excludesfile|attributesfile)|filter\..*|alias\..*", re.I
)


def place(command: Command, target: str) -> str:
    """The absolute path that a word means where the command runs."""
    if target.startswith("$"):
        return target
    return posixpath.normpath(posixpath.join(command.folder, target))


def written_paths(command: Command) -> Iterator[tuple[str, str]]:
    """Absolute paths that a command writes, moves or removes, and how: ``write``, ``edit``, ``link``, ``remove``."""
    for target in command.outputs:
        if not target.startswith("/dev/"):
            yield place(command, target), "write"
    for path, how in _arguments_written(command):
        yield place(command, path), how
    if PYTHON.fullmatch(command.name):
        for match in PYTHON_WRITES.finditer(python_code(command)):
            yield place(command, next(filter(None, match.groups()))), "write"


def python_code(command: Command) -> str:
    """Code that a call of Python gets from its words or its here-document."""
    words = command.words
    inline = words[words.index("-c") + 1] if "-c" in words[:-1] else ""
    return inline or command.given


def _plain(command: Command) -> list[str]:
    return [word for word in command.words[1:] if not word.startswith("-")]


def _arguments_written(command: Command) -> Iterator[tuple[str, str]]:
    words, plain = command.words, _plain(command)
    if command.name == "install":
        options = [after for flag, after in pairwise(words) if flag in {"-m", "-o", "-g", "-t"}]
        plain = [word for word in plain if word not in options]
    flags = [word for word in words[1:] if word.startswith("-")]
    match command.name:
        case "tee" | "touch" | "truncate":
            yield from ((path, "write") for path in plain)
        case "cp" | "mv" | "ln" | "install" | "rsync" if len(plain) >= 2:
            how = "link" if command.name == "ln" else "write"
            if command.name == "mv":
                yield from ((path, "remove") for path in plain[:-1])
            target = plain[-1]
            folder = target.endswith("/") or target in {".", ".."} or PATH_FOLDER.fullmatch(place(command, target))
            if folder or len(plain) > 2:
                yield from ((posixpath.join(target, posixpath.basename(path)), how) for path in plain[:-1])
            else:
                yield target, how
                yield posixpath.join(target, posixpath.basename(plain[0])), how
        case "rm" | "unlink" | "shred" | "rmdir":
            yield from ((path, "remove") for path in plain)
        case "sed" | "perl" | "gawk" if any(re.match(r"-[a-zA-Z]*i|--in-place", flag) for flag in flags):
            scripts = [after for flag, after in pairwise(words) if re.fullmatch(r"-[a-zA-Z]*[ef]", flag)]
            files = [word for word in plain if word not in scripts]
            yield from ((path, "edit") for path in files[0 if scripts else 1 :])
        case "wget" | "curl":
            for flag, value in pairwise(words):
                if flag in {"-o", "-O", "--output", "--output-document"}:
                    yield value, "write"
        case "dd":
            yield from ((word[3:], "write") for word in words if word.startswith("of="))


def about_text(text: str, *, code: bool = False) -> Iterator[Seen]:
    """What a text that is written to a file, or run as Python (``code``), would do."""
    if match := HOOKS.search(text):
        yield "plug-in", f"a pytest hook or plug-in is written: {match[0]}"
    if match := DECODES.search(text):
        yield "obfuscation", f"decoded text is run: {match[0]}"
    if (match := PASSED.search(text)) and not code:
        yield "results", f"a test result is written by hand: {match[0]}"
    if (match := KILLS_RUN.search(text)) and not code:
        yield "runner", f"code that ends or watches the runner is written: {match[0]}"
    if (match := REACHES_RUNNER.search(text)) and not code:
        yield "runner", f"code that reaches into the runner is written: {match[0]}"


def about_path(command: Command, path: str, how: str, *, text: str) -> Seen | None:  # noqa: PLR0911 - a return for each rule
    """What writing, linking or removing one path does."""
    name = posixpath.basename(path)
    if path.startswith("/headrace/") or path == "/headrace":
        return "results", f"{path} is where Headrace keeps its own files"
    if how != "remove" and RESULTS.fullmatch(name) and (how == "link" or PASSED.search(text) or text.strip()):
        return "results", f"the result file {path} is made by the script"
    if how == "remove":
        return _about_checkout(path, name, how)
    if name.split(".")[0] in {"sitecustomize", "usercustomize"} and not name.endswith(".pyc"):
        return "start-up", f"{path} runs when an interpreter starts"
    if name.endswith(".pth") and (
        "import" in text or (how in {"write", "link"} and not text and command.name in {"cp", "ln"})
    ):
        return "start-up", f"{path} holds code that runs when an interpreter starts"
    if path == "/etc/ld.so.preload":
        return "tools", f"{path} loads a library into every program"
    if RUNNER_FOLDER.search(path) or (RUNNER.search(path) and "-packages" in path):
        return "runner", f"{path} belongs to the test runner"
    if LIBRARY.search(path) or (path.startswith("$") and RUNNER.search(path)):
        return "runner", f"{path} belongs to Python or to the test runner"
    if PROFILE.fullmatch(path) and (
        match := VARIABLES.search(text) or re.search(r"\balias\s+\w+=|\w+\s*\(\)\s*\{", text)
    ):
        return "environment", f"{path} gets {match[0]}, which every shell would have"
    if PATH_FOLDER.fullmatch(posixpath.dirname(path)) and _is_tool(name) and not _is_same_tool(command, name):
        return "tools", f"{path} takes the place of a tool that verification uses"
    if TEST_LIST.fullmatch(name) and NODE_ID.search(text):
        return "test list", f"the list of tests {path} is written by the script"
    if path.startswith(("/etc/cron", "/var/spool/cron", "/etc/systemd/system/", "/etc/init.d/")) and text:
        return "background", f"{path} starts something later"
    return _about_checkout(path, name, how)


def _about_checkout(path: str, name: str, how: str) -> Seen | None:  # noqa: PLR0911 - a return for each rule
    if not below(path, CHECKOUT):
        if path in {f"/{n}" for n in CONFIGURATION} or (
            posixpath.dirname(path) == "/workspace" and name in CONFIGURATION
        ):
            return "tests", f"{path} configures tests from above the checkout"
        return None
    parts = path.removeprefix(CHECKOUT).split("/")
    done = {"remove": "removed or moved", "link": "made a link", "edit": "edited"}.get(how, "written")
    if any(part == ".git" for part in parts):
        return "repository", f"{path} of the repository's own records is {done}"
    if HARMLESS_NAMES.fullmatch(name):
        return None
    if TEST_FILE.fullmatch(name) or name in CONFIGURATION:
        return "tests", f"{path} of the tests or their configuration is {done}"
    if any(TEST_FOLDER.fullmatch(part) for part in parts[1 : 3 if how == "remove" else None]):
        return "tests", f"{path} in a folder of tests is {done}"
    if how == "edit":
        return None if VERSION_FILE.fullmatch(name) else ("checkout", f"{path} of the checkout is edited")
    if name.endswith(".py") and not VERSION_FILE.fullmatch(name) and "build" not in parts:
        return "checkout", f"the module {path} of the checkout is {done}"
    return None


def _is_tool(name: str) -> bool:
    return name in TOOLS or PYTHON.fullmatch(name) is not None


def _is_same_tool(command: Command, name: str) -> bool:
    """Whether a link gives a system's tool another of its own names, as ``python`` for ``python3``."""
    plain = _plain(command)
    match = SYSTEM_TOOL.fullmatch(plain[0]) if command.name in {"ln", "cp"} and plain else None
    if match is None:
        return False
    family = (
        SHELLS
        if name in SHELLS
        else {"pip"}
        if name.startswith("pip")
        else {"python"}
        if name.startswith("py")
        else {name}
    )
    return match[3] == name or (name not in {"pytest", "py.test"} and re.sub(r"[\d.]+$", "", match[3]) in family)


def about_command(command: Command, *, persistent: bool) -> Iterator[Seen]:
    """What one command does.

    Args:
        command: the command.
        persistent: what it sets stays in force for later shells (``profile.sh``, ``ENV``).
    """
    code = python_code(command) if PYTHON.fullmatch(command.name) else ""
    writes = list(written_paths(command))
    text = command.given
    if command.name in {"echo", "printf"}:
        text += " ".join(command.words[1:])
    if any(how == "write" for _, how in writes) and not code:
        yield from about_text(text)
    if code:
        yield from about_text(code, code=not writes)
    for path, how in writes:
        if seen := about_path(command, path, how, text=text or code):
            yield seen
    yield from _about_tools(command, persistent=persistent)
    if command.name == "git":
        yield from _about_git(command)


def _about_tools(command: Command, *, persistent: bool) -> Iterator[Seen]:
    words, plain = command.words, _plain(command)
    if command.name == "ln" and "/dev/null" in plain[:-1] and not plain[-1].startswith("/etc/systemd/"):
        yield "results", f"{plain[-1]} is linked to /dev/null"
    if command.name == "patch" and below(command.folder, CHECKOUT) and "--dry-run" not in words:
        yield "checkout", "a patch is applied to the checkout"
    if command.name == "alias":
        for word in plain:
            name, _, value = word.partition("=")
            if (
                value
                and _is_tool(name)
                and value.split()[:1]
                and re.sub(r"\d.*", "", value.split()[0]) != name.rstrip("0123456789.")
            ):
                yield "tools", f"alias {name} takes the place of a tool"
    if command.name == "function" and plain and _is_tool(plain[0].rstrip("(){")):
        yield "tools", f"the function {plain[0]} takes the place of a tool"
    if command.name == "export" and "-f" in words and any(_is_tool(word) for word in plain):
        yield "tools", f"the function {plain[0]} is exported in place of a tool"
    if command.name == "ENV" or (persistent and command.name in {"export", ""}):
        if command.name == "ENV" and plain and "=" not in plain[0]:
            plain = ["=".join(plain[:2])]
        for word in [*plain, *(f"{name}={value}" for name, value in command.assigned.items())]:
            if match := VARIABLES.match(word):
                yield "environment", f"{match[1]} is set for every later shell"
    yield from _about_later(command)


def _about_later(command: Command) -> Iterator[Seen]:
    """What is left running, removed by search, or run after decoding."""
    words = command.words
    if command.name in {"nohup", "setsid", "disown", "crontab", "at", "batch", "daemonize", "start-stop-daemon"}:
        yield "background", f"{command.name} leaves something running or starts it later"
    if command.name in {"tmux", "screen"} and any(word in {"-d", "-dm", "-dmS", "new-session"} for word in words):
        yield "background", f"{command.name} leaves something running"
    if command.name == "find" and ("-delete" in words or {"rm", "sed", "mv"} & set(words)):
        names = [word for flag, word in pairwise(words) if flag in {"-name", "-iname", "-path"}]
        named = [n for n in names if TEST_FILE.fullmatch(n) or n in CONFIGURATION or TEST_FOLDER.fullmatch(n)]
        started = [p for p in words[1:2] if below(place(command, p), CHECKOUT)]
        if started and named and not any(HARMLESS_NAMES.fullmatch(n) for n in names):
            yield "tests", f"files named {named[0]} are changed or removed"
    if command.name == "eval" and re.search(r"base64|xxd|openssl enc|\bcurl\b|\bwget\b|\brev\b", command.text):
        yield "obfuscation", "downloaded or decoded text is run"
    decoded = re.search(r"<?\(\s*(curl|wget|base64)|\$\(.*(base64|xxd)", command.text)
    if command.name in SHELLS | {"source", "."} and decoded and not INSTALLERS.search(command.text):
        yield "obfuscation", "downloaded or decoded text is run"


def _about_git(command: Command) -> Iterator[Seen]:
    words = command.words[1:]
    folder = command.folder
    while words and words[0].startswith("-"):
        if words[0] == "-C" and len(words) > 1:
            folder = posixpath.normpath(posixpath.join(folder, words[1]))
        words = words[2:] if words[0] in {"-C", "-c", "--git-dir", "--work-tree"} else words[1:]
    verb, rest = (words[0], words[1:]) if words else ("", [])
    plain = [word for word in rest if not word.startswith("-")]
    if verb == "config" and any(UNSAFE_GIT_SETTING.fullmatch(word) for word in plain[:1]):
        yield "repository", f"git is configured to run something else: {plain[0]}"
    if not below(folder, CHECKOUT):
        return
    if verb in GIT_CHANGES and not {"--check", "--stat", "list", "show"} & set(rest):
        yield "repository", f"git {verb} changes the checkout or its records"
    elif verb == "checkout" and not _restores(rest, plain):
        yield "repository", f"git checkout of {' '.join(plain[:2]) or 'something'} leaves the commit"
    elif verb == "reset" and [word for word in plain if word not in {"HEAD", "."}][:1] and "--" not in rest:
        yield "repository", f"git reset to {plain[0]} leaves the commit"
    elif verb == "restore" and any(w.startswith(("--source", "-s")) for w in rest):
        yield "repository", "git restore takes files of another commit"


def _restores(rest: list[str], plain: list[str]) -> bool:
    """Whether ``git checkout`` only takes files back from the commit, or makes a branch at it."""
    if "-b" in rest or "-B" in rest:
        return len(plain) <= 1
    if "--" in rest:
        return all(word in {"HEAD", "-f", "-q"} for word in rest[: rest.index("--")])
    return plain in ([], ["."], ["HEAD"])


def about_pipeline(group: list[Command]) -> Iterator[tuple[Command, Seen]]:
    """What commands do together: text from a download or a decoder that is run."""
    for number, command in enumerate(group[1:], start=1):
        if not _runs_its_input(command):
            continue
        for source in group[:number]:
            decodes = source.name in {"base64", "xxd", "openssl", "base32", "uudecode", "rev"}
            if decodes or (source.name in {"curl", "wget"} and not INSTALLERS.search(source.text)):
                yield source, ("obfuscation", f"the output of {source.name} is run by {command.name}")


def _runs_its_input(command: Command) -> bool:
    words = command.words[1:] if command.name in {"sudo", "env", "xargs"} else command.words
    if not words:
        return False
    name, rest = posixpath.basename(words[0]), words[1:]
    if name in SHELLS and "-s" in rest:
        return True
    interpreter = name in SHELLS | {"perl", "node", "ruby"} or re.fullmatch(r"python[\d.]*", name) is not None
    return interpreter and not {"-c", "-m", "-e"} & set(rest) and all(word.startswith("-") for word in rest)
