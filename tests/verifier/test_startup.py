"""What runs when the interpreter starts: real images, and the index that this machine uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.verifier.checks.editable import is_namespace_line, is_starter
from actors.verifier.checks.startup import check_startup
from actors.verifier.checks.truth import IndexTruth
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.image_files import ImageFiles
from actors.verifier.image.installed import read_installed
from events.work import FailureClass
from tests.verifier.images import Altered

engine = pytest.mark.engine
SITE = "opt/venv/lib/python3.11/site-packages"
FINDER = f"{SITE}/__editable___sample_pkg_1_2_finder.py"
NAMESPACE = (
    "import sys, types, os;has_mfs = sys.version_info > (3, 5);"
    "p = os.path.join(sys._getframe(1).f_locals['sitedir'], *('zope',));"
    "importlib = has_mfs and __import__('importlib.util');has_mfs and __import__('importlib.machinery');"
    "m = has_mfs and sys.modules.setdefault('zope', importlib.util.module_from_spec("
    "importlib.machinery.PathFinder.find_spec('zope', [os.path.dirname(p)])));"
    "m = m or sys.modules.setdefault('zope', types.ModuleType('zope'));"
    "mp = (m or []) and m.__dict__.setdefault('__path__',[]);(p not in mp) and mp.append(p)"
)


@pytest.fixture(scope="module")
def truth(bench_cache: Path) -> IndexTruth:
    return IndexTruth(index_url="", cache_dir=bench_cache)


def findings(files: ImageFiles, truth: IndexTruth) -> list[Finding]:
    return check_startup(files, read_installed(files), truth)


FORGERIES: dict[str, tuple[dict[str, str | bytes], str, str]] = {
    "sitecustomize": ({f"{SITE}/sitecustomize.py": ""}, "", "sitecustomize.py would run"),
    "a package usercustomize": ({f"{SITE}/usercustomize/__init__.py": ""}, "", "usercustomize would run"),
    "a compiled sitecustomize": ({f"{SITE}/sitecustomize.pyc": "x"}, "", "sitecustomize.pyc would run"),
    "an extension sitecustomize": ({f"{SITE}/sitecustomize.abi3.so": "x"}, "", "sitecustomize.abi3.so would run"),
    "the system's sitecustomize": ({"etc/python3.11/sitecustomize.py": "x"}, "", "/etc/python3.11/sitecustomize.py"),
    "a sitecustomize of the base": (
        {"usr/lib/python3/dist-packages/sitecustomize.py": ""},
        "",
        "dist-packages/sitecustomize.py would run",
    ),
    "the user's site-packages": (
        {"root/.local/lib/python3.11/site-packages/x.pth": ""},
        "",
        "/root/.local/lib/python3.11/site-packages/x.pth",
    ),
    "Debian's third folder": ({"opt/venv/lib/python3/dist-packages/x.py": ""}, "", "dist-packages/x.py lies where"),
    "Debian's local folder": ({"opt/venv/local/lib/python3.11/dist-packages/x.py": ""}, "", "lies where"),
    "Debian's old folder": ({"opt/venv/lib/python3.11/dist-packages/x.py": ""}, "", "lies where"),
    "code": ({f"{SITE}/evil.pth": "import os; os._exit(0)\n"}, "", "evil.pth is code that no installer writes"),
    "code after a tabulator": ({f"{SITE}/evil.pth": "import\tevil\n"}, "", "evil.pth is code"),
    "code behind a mark": ({f"{SITE}/evil.pth": b"\xef\xbb\xbfimport evil\n"}, "", "evil.pth is code"),
    "code behind a form feed": ({f"{SITE}/evil.pth": "# notes\x0cimport evil\n"}, "", "control characters"),
    "code behind a carriage return": ({f"{SITE}/evil.pth": "# notes\rimport evil\n"}, "", "control characters"),
    "a binary": ({f"{SITE}/evil.pth": b"\xff\xfe"}, "", "no text"),
    "a link": ({"opt/evil.txt": "import evil\n"}, f"ln -s /opt/evil.txt /{SITE}/evil.pth", "is a link"),
    "a foreign folder": ({f"{SITE}/x.pth": "/opt/evil\n"}, "", "puts /opt/evil on the interpreter's path"),
    "a folder that comes later": ({f"{SITE}/x.pth": "/proc/self/cwd\n"}, "", "puts /proc/self/cwd"),
    "a way out of the checkout": (
        {f"{SITE}/x.pth": "/workspace/repo/../../opt/evil\n"},
        "",
        "puts /opt/evil on the interpreter's path",
    ),
    "an archive": ({f"{SITE}/x.pth": "./x.egg\n", f"{SITE}/x.egg": "PK"}, "", "which is no folder"),
    "a system folder with more in it": (
        {f"{SITE}/x.pth": "/usr/lib/python3/dist-packages\n", "usr/lib/python3/dist-packages/x.py": ""},
        "",
        "puts /usr/lib/python3/dist-packages",
    ),
    "a sitecustomize in the checkout": (
        {f"{SITE}/x.pth": "/workspace/repo\n", "workspace/repo/sitecustomize.py": ""},
        "",
        "makes the interpreter run /workspace/repo/sitecustomize.py",
    ),
    "an altered finder": ({}, f"echo 'import evil' >>/{FINDER}", "is not what a build backend writes"),
    "a finder that looks elsewhere": ({}, f"sed -i s,/workspace/repo,/opt/evil, /{FINDER}", "is not what a build"),
    "a finder with code for a value": (
        {},
        f"sed -i 's,^NAMESPACES.*,NAMESPACES: dict[str\\, list[str]] = __import__(\"evil\").x,' /{FINDER}",
        "is not what a build",
    ),
    "a finder that is hidden by another": (
        {f"{FINDER.removesuffix('.py')}/__init__.py": ""},
        "",
        "would be taken for",
    ),
    "a finder's line with more in it": (
        {},
        f"sed -i 's/$/; import evil/' /{SITE}/__editable__.sample_pkg-1.2.pth",
        "is code that no installer writes",
    ),
    "a namespace with more in it": ({f"{SITE}/zope-nspkg.pth": NAMESPACE + ";import evil\n"}, "", "is code"),
    "an egg that comes first": (
        {
            f"{SITE}/easy-install.pth": "import sys; sys.__plen = len(sys.path)\n./evil.egg\nimport sys; "
            "new=sys.path[sys.__plen:]; del sys.path[sys.__plen:]; p=getattr(sys,'__egginsert',0); "
            "sys.path[p:p]=new; sys.__egginsert = p+len(new)\n",
            f"{SITE}/evil.egg/pytest.py": "",
        },
        "",
        "evil.egg on the interpreter's path",
    ),
    "bytecode without a source": ({f"{SITE}/extra/module.pyc": "x"}, "", "compiled code without its source"),
    "bytecode in place of its source": (
        {},
        f"cd /{SITE}/_pytest && mv main.py main.pyc",
        "_pytest/main.pyc is compiled",
    ),
}


@engine
@pytest.mark.parametrize("name", FORGERIES)
def test_is_refused(altered: Altered, truth: IndexTruth, name: str) -> None:
    laid, run, message = FORGERIES[name]
    found = findings(altered.files(laid, run=run), truth)
    assert {finding.defence for finding in found} == {Defence.STARTUP}
    assert any(message in finding.message for finding in found), found


HONEST: dict[str, tuple[dict[str, str | bytes], str]] = {
    "the sample as it was built": ({"opt/notes.txt": ""}, ""),
    "the checkout's folder": ({f"{SITE}/sample.pth": "# a comment\n\n/workspace/repo\n"}, ""),
    "folders in site-packages": ({f"{SITE}/easy-install.pth": "./tool.egg\n", f"{SITE}/tool.egg/tool.py": ""}, ""),
    "a namespace package": ({f"{SITE}/zope-nspkg.pth": NAMESPACE + "\n"}, ""),
    "a system folder as it was": ({f"{SITE}/x.pth": "/usr/lib/python3/dist-packages\n"}, ""),
    "compiled files in their place": ({f"{SITE}/_pytest/__pycache__/x.cpython-311.pyc": "x"}, ""),
    "a tool of the user": ({"root/.local/bin/tool": ""}, ""),
}


@engine
@pytest.mark.parametrize("name", HONEST)
def test_is_allowed(altered: Altered, truth: IndexTruth, name: str) -> None:
    laid, run = HONEST[name]
    assert findings(altered.files(laid, run=run), truth) == []


@engine
def test_an_editable_install_whose_backend_is_away_is_the_recipes_fault(altered: Altered, truth: IndexTruth) -> None:
    line = "import _x_editable_loader; _x_editable_loader.init()\n"
    (finding,) = findings(altered.files({f"{SITE}/x.pth": line, f"{SITE}/_x_editable_loader.py": INIT}), truth)
    assert finding.failure_class is FailureClass.RECIPE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("('zope',)", "('zope', __import__('evil'))"),
        ("sys._getframe(1).f_locals['sitedir']", "'/opt/evil'"),
        ("(p not in mp)", "(p in mp)"),
        ("'zope'", "'other'"),
    ],
)
def test_only_the_very_line_of_a_namespace_is_one(old: str, new: str) -> None:
    assert is_namespace_line(NAMESPACE)
    assert is_namespace_line(NAMESPACE.replace("sys._getframe(1).f_locals['sitedir']", "'/workspace/repo/src'"))
    changed = NAMESPACE.replace(old, new, 1)
    assert changed != NAMESPACE
    assert not is_namespace_line(changed)


INSTALL = "install({'mine': '/workspace/repo/src/mine/__init__.py'}, {}, ['mine'], None, False, [], '')"
INIT = """
def init():
    finder = MesonpyMetaFinder(
        'mine',
        {'mine'},
        '/workspace/repo/build/cp311',
        ['/opt/venv/bin/ninja', '-j2'],
        False,
    )
    sys.meta_path.insert(0, finder)
    sys.path_hooks.insert(0, finder._path_hook)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("'mine'", "'pytest'"),
        ("'mine'", "'json'"),
        ("'mine'", "evil()"),
        ("/workspace/repo/", "/opt/evil/"),
        ("False", "__import__('evil')"),
    ],
)
def test_a_finder_that_comes_first_may_only_find_the_checkouts_own_modules(old: str, new: str) -> None:
    for text in (INSTALL, INIT):
        assert is_starter(text)
        assert old in text
        assert not is_starter(text.replace(old, new))
    assert not is_starter(INIT.replace("/opt/venv/bin/ninja", "/opt/evil"))
    assert not is_starter(INSTALL + "\nimport evil\n")
    assert not is_starter(INIT + "    evil()\n")


def test_what_a_finder_has_in_site_packages_is_told_by_relative_paths_and_its_command_is_not() -> None:
    told = INSTALL.replace("{}", "{'mine._fast': 'mine/_fast.so'}", 1)
    assert is_starter(told)
    assert not is_starter(told.replace("mine/_fast.so", "../../evil.so"))
    assert not is_starter(INIT.replace("/opt/venv/bin/ninja", "evil/run"))
