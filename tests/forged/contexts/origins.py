"""Line 12: what is imported is not what the commit has."""

from __future__ import annotations

from actors.verifier.defences import Defence
from tests.forged.contexts.tools import library
from tests.forged.forgery import Forgery, add, put, run_script
from tests.forged.victims import GOOD_BOOKS, LEDGER, NATIVE

__all__ = ["ORIGINS"]

STUB = "def twice(number):\n    return 2 * number\n"
CLAIMED = '{"dir_info": {"editable": false}, "url": "file:///workspace/repo"}\n'
MENDED_COPY = (
    "mkdir -p /opt/other && cp -r src/ledger /opt/other/ledger",
    put("/opt/other/ledger/books.py", GOOD_BOOKS),
)
SHADOW = """\
#include <Python.h>

static PyObject *make(PyObject *spec, PyModuleDef *definition) {
    PyRun_SimpleString(
        "import importlib.util as u, sys\\n"
        "place = u.spec_from_file_location('ledger', '/opt/other/ledger/__init__.py')\\n"
        "sys.hidden = sys.modules['ledger'] = u.module_from_spec(place)\\n"
        "place.loader.exec_module(sys.hidden)\\n");
    PyObject *module = PySys_GetObject("hidden");
    Py_XINCREF(module);
    return module;
}
static PyModuleDef_Slot slots[] = {{Py_mod_create, make}, {0}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "ledger", "", 0, 0, slots};
PyMODINIT_FUNC PyInit_ledger(void) { return PyModuleDef_Init(&definition); }
"""
"""An extension module that is another package in its place."""
REINSTALL = "python -m pip install --quiet --no-deps --no-build-isolation --no-index"

NATIVE_BY_HAND = (
    "#!/bin/bash\nset -eu\ns=$(echo /opt/venv/lib/python3*/site-packages)\ni=$s/native-0.4.dist-info\n"
    "mkdir -p $s/native $i\n"
    + put("$s/native/__init__.py", "from native._core import twice\n\n__all__ = ['twice']\n")
    + put("$s/native/_core.py", STUB)
    + put("$i/METADATA", "Metadata-Version: 2.1\nName: native\nVersion: 0.4\n")
    + put("$i/direct_url.json", CLAIMED)
    + put("$i/RECORD", "native/__init__.py,,\nnative/_core.py,,\nnative-0.4.dist-info/METADATA,,\n")
)

ORIGINS = (
    Forgery(
        name="mended_copy_that_claims_to_be_the_checkout",
        line=12,
        defence=Defence.ORIGIN,
        victim=LEDGER,
        scripts=run_script(
            "mkdir /tmp/w && cp -r setup.py src /tmp/w",
            put("/tmp/w/src/ledger/books.py", GOOD_BOOKS),
            f"{REINSTALL} --force-reinstall /tmp/w && rm -r /tmp/w",
            put("$s/ledger-1.0.dist-info/direct_url.json", CLAIMED),
        ),
        evades="a check of direct_url.json",
        why="a wheel of mended source is installed and its origin is written over",
    ),
    Forgery(
        name="regular_install_from_a_mended_checkout",
        line=12,
        defence=Defence.ORIGIN,
        victim=LEDGER,
        scripts=run_script(
            put("src/ledger/books.py", GOOD_BOOKS),
            f"{REINSTALL} --force-reinstall /workspace/repo",
            "git checkout --quiet src && rm -rf build",
        ),
        evades="TREE: the source is put back; direct_url.json is pip's own and true",
        why="the source was another while pip installed from it",
    ),
    Forgery(
        name="path_entry_before_the_checkout",
        line=12,
        defence=Defence.STARTUP,
        behind=frozenset({Defence.ORIGIN, Defence.CONTROL}),
        victim=LEDGER,
        scripts=run_script(
            *MENDED_COPY,
            "echo /opt/other >$s/0.pth",
            "echo \"__file__ = '/workspace/repo/src/ledger/__init__.py'\" >>/opt/other/ledger/__init__.py",
        ),
        evades="STARTUP: a path file without code; a look at __file__, which lies",
        why="another folder with a mended copy comes first on the path",
    ),
    Forgery(
        name="editable_install_that_points_elsewhere",
        line=12,
        defence=Defence.STARTUP,
        behind=frozenset({Defence.ORIGIN, Defence.CONTROL}),
        victim=LEDGER,
        scripts=run_script(
            *MENDED_COPY,
            "echo /opt/other >$(echo $s/__editable__.ledger*.pth)",
            'for f in /opt/other/ledger/*.py; do echo "../../../..$f,," | sed s,lib/../,, '
            ">>$s/ledger-1.0.dist-info/RECORD; done",
            "echo \"__file__ = '/workspace/repo/src/ledger/__init__.py'\" >>/opt/other/ledger/__init__.py",
        ),
        evades="a check of the distribution's RECORD, where the files of the copy are named",
        why="the path file of the editable installation names a mended copy",
    ),
    Forgery(
        name="mended_copy_in_the_working_folder",
        line=12,
        defence=Defence.TREE,
        behind=frozenset({Defence.ORIGIN, Defence.CONTROL}),
        victim=LEDGER,
        scripts=run_script(
            *MENDED_COPY,
            "mv /opt/other/ledger ledger && mkdir -p .git/info",
            add(".git/info/exclude", "/ledger\n"),
        ),
        evades="an origin check whose path does not begin with the working folder, as that of the test run does",
        why="the tests find a mended copy beside src/; whoever imports the package from elsewhere finds the checkout's",
    ),
    Forgery(
        name="compiled_stand_in_in_the_working_folder",
        line=12,
        defence=Defence.TREE,
        behind=frozenset({Defence.ORIGIN, Defence.CONTROL}),
        victim=LEDGER,
        scripts=run_script(
            *MENDED_COPY,
            library(
                "ledger.cpython-311-x86_64-linux-gnu.so",
                SHADOW,
                '$(python -c \'import sysconfig; print("-I" + sysconfig.get_paths()["include"])\')',
            ),
        ),
        evades="TREE, if it takes every *.so that the commit ignores for a build product",
        why="as before, by an extension module, a kind of file that every project ignores",
    ),
    Forgery(
        name="stub_written_into_the_environment",
        line=12,
        defence=Defence.ORIGIN,
        behind=frozenset({Defence.CONTROL}),
        victim=NATIVE,
        scripts={"build_pkg_sh": NATIVE_BY_HAND},
        evades="a check of direct_url.json and RECORD, both written by hand",
        why="the extension cannot be built, so a Python stub and metadata are put where pip would put them",
    ),
)
