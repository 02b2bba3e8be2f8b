"""Replaced, removed, shadowed: each way to slip in other tools than the parent's, on real images."""

from __future__ import annotations

import pytest

from actors.verifier.checks.tools import MAX_FINDINGS, check_channel, check_tools
from actors.verifier.defences import Defence
from actors.verifier.image.console_script import is_console_script
from events.work import FailureClass
from tests.verifier.images import Altered

SHIM = "#!/bin/sh\nexit 0\n"
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
SCRIPT = """#!/opt/venv/bin/python
import sys
from pytest import console_main
if __name__ == '__main__':
    sys.argv[0] = sys.argv[0].removesuffix('.exe')
    sys.exit(console_main())
"""
engine = pytest.mark.engine

FORGERIES = {
    "a shim in the environment": ({"opt/venv/bin/git": SHIM}, "chmod 755 /opt/venv/bin/git", "/opt/venv/bin/git"),
    "a shim in /usr/local": (
        {"usr/local/bin/timeout": SHIM},
        "chmod 755 /usr/local/bin/timeout",
        "/usr/local/bin/timeout",
    ),
    "another python in front": ({}, "cp /bin/true /usr/local/bin/python3", "/usr/local/bin/python3"),
    "a replaced interpreter link": ({}, "ln -sf /bin/true /opt/venv/bin/python3", "/opt/venv/bin/python3"),
    "a replaced interpreter": ({"usr/bin/python3.11": SHIM}, "", "/usr/bin/python3.11"),
    "a replaced shell": ({}, "ln -sf bash /usr/bin/sh", "/usr/bin/sh"),
    "a replaced tool": ({}, "cp /usr/bin/true /usr/bin/timeout", "/usr/bin/timeout"),
    "a removed core tool": ({}, "rm /usr/bin/env", "/usr/bin/env is gone"),
    "a folder of tools behind a link": ({}, "rm -r /usr/local/sbin && ln -s /opt /usr/local/sbin", "/usr/local/sbin"),
    "site-packages behind a link": (
        {},
        "cd /opt/venv/lib/python3.11 && mv site-packages /opt/evil && ln -s /opt/evil site-packages",
        "site-packages is not the parent's any more (a link to /opt/evil)",
    ),
    "the environment's configuration": ({"opt/venv/pyvenv.cfg": "home = /opt/evil\n"}, "", "/opt/venv/pyvenv.cfg"),
    "a configuration beside the interpreter": (
        {"opt/venv/bin/pyvenv.cfg": "home = /opt/evil\n"},
        "",
        "/opt/venv/bin/pyvenv.cfg",
    ),
    "a library beside the interpreter": ({"usr/bin/lib/python3.11/os.py": ""}, "", "/usr/bin/lib"),
    "a build folder beside the interpreter": ({"usr/bin/pybuilddir.txt": "x"}, "", "/usr/bin/pybuilddir.txt"),
    "a zipped standard library": ({"usr/lib/python311.zip": "x"}, "", "/usr/lib/python311.zip"),
    "a folder in place of the zipped library": (
        {"usr/lib/python311.zip/json.py": ""},
        "",
        "/usr/lib/python311.zip",
    ),
    "an altered standard library": (
        {},
        "echo pass >>/usr/lib/python3.11/json/decoder.py",
        "/usr/lib/python3.11/json/decoder.py is not the parent's",
    ),
    "a module in front of site-packages": (
        {"usr/lib/python3.11/pytest.py": ""},
        "",
        "/usr/lib/python3.11/pytest.py was added",
    ),
    "a package that hides a module": (
        {"usr/lib/python3.11/json/decoder/__init__.py": ""},
        "",
        "/usr/lib/python3.11/json/decoder",
    ),
    "an extension module of the library": (
        {},
        "echo x >>/usr/lib/python3.11/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so",
        "lib-dynload/_json",
    ),
    "an alternative of its own": ({}, "ln -sf /opt/evil /etc/alternatives/awk && cp /bin/true /opt/evil", "/opt/evil"),
    "preloaded libraries": ({"etc/ld.so.preload": "/opt/evil.so\n"}, "", "/etc/ld.so.preload"),
    "a C library in front": (
        {},
        f"cp {LIBRARIES}/libc.so.6 /usr/local/lib/libc.so.6",
        "/usr/local/lib/libc.so.6 can be loaded instead",
    ),
    "a library for this processor": (
        {},
        f"cd {LIBRARIES} && mkdir -p glibc-hwcaps/x86-64-v3 && cp libz.so.1 glibc-hwcaps/x86-64-v3/",
        "glibc-hwcaps/x86-64-v3/libz.so.1",
    ),
    "a replaced library": ({}, f"echo x >>{LIBRARIES}/libexpat.so.1", "libexpat.so.1"),
    "a retargeted library": ({}, f"ln -sf /opt/evil.so {LIBRARIES}/libz.so.1", "libz.so.1"),
    "another dynamic loader": ({}, f"cp /bin/true {LIBRARIES}/ld-linux-x86-64.so.2", "ld-linux-x86-64.so.2"),
    "a loader cache that points elsewhere": (
        {},
        f"mkdir /opt/evil && cp -L {LIBRARIES}/libz.so.1 /opt/evil/ && echo /opt/evil >/etc/ld.so.conf.d/0.conf "
        "&& ldconfig",
        "/etc/ld.so.cache makes programs load /opt/evil/libz.so.1 as libz.so.1",
    ),
    "a forged loader cache": ({"etc/ld.so.cache": "ld.so-1.7.0 not really"}, "", "/etc/ld.so.cache is not one"),
    "a module of the name service": ({f"{LIBRARIES[1:]}/libnss_evil.so.2": "x"}, "", "libnss_evil.so.2"),
    "a converter of character sets": ({f"{LIBRARIES[1:]}/gconv/EVIL.so": "x"}, "", "gconv/EVIL.so"),
    "an OpenSSL that loads more": (
        {},
        "printf '[evil]\\nmodule = /opt/evil.so\\n' >>/etc/ssl/openssl.cnf",
        "/etc/ssl/openssl.cnf",
    ),
    "a test runner of its own": ({"opt/venv/bin/pytest": SHIM}, "", "/opt/venv/bin/pytest"),
    "a test runner with more in it": (
        {"opt/venv/bin/py.test": SCRIPT + "import os\n"},
        "",
        "/opt/venv/bin/py.test",
    ),
    "a pip with more in it": ({"opt/venv/bin/pip": SCRIPT}, "", "/opt/venv/bin/pip"),
    "a forged record of an upgrade": (
        {},
        "echo x >>/usr/bin/bash && sed -i 's/^\\(Version: 5.2.15.*\\)/\\1.1/' /var/lib/dpkg/status && "
        'sed -i "s,^.*  bin/bash$,$(md5sum </usr/bin/bash | cut -c-32)  bin/bash," /var/lib/dpkg/info/bash.md5sums',
        "/usr/bin/bash is not the parent's; its package was changed",
    ),
}


@engine
@pytest.mark.parametrize("name", FORGERIES)
def test_is_refused(altered: Altered, name: str) -> None:
    files, run, message = FORGERIES[name]
    findings = check_tools(altered.files(files, run=run))
    assert {finding.defence for finding in findings} == {Defence.TOOLS}
    assert any(message in finding.message for finding in findings), findings


HONEST = {
    "data in library folders": ({"usr/lib/thing/data.txt": "x", "usr/local/lib/thing/x.so": "x"}, ""),
    "a new tool": ({"usr/local/bin/frobnicate": SHIM}, "chmod 755 /usr/local/bin/frobnicate"),
    "a name for the same interpreter": ({}, "ln -s /usr/bin/python3 /usr/local/bin/python3 && ldconfig"),
    "a file in front that cannot be run": ({"opt/venv/bin/git": "notes"}, ""),
    "compiled files of the standard library": (
        {},
        "python3 -c 'import json.tool, xml.dom' && rm -rf /usr/lib/python3.11/__pycache__",
    ),
    "another library of a tool": ({"usr/lib/tool/libz.so.1": "x"}, ""),
    "files written again as they were": ({}, "cp -a /usr/bin/env /e && cp -a /e /usr/bin/env && rm /e"),
    "an OpenSSL that allows old ciphers": ({}, "echo 'CipherString = DEFAULT@SECLEVEL=1' >>/etc/ssl/openssl.cnf"),
    "a package that was taken away": ({}, "dpkg --purge --force-depends g++ g++-12"),
    "a runner from another installer": (
        {
            "opt/venv/bin/pytest": "#!/opt/venv/bin/python3\n# -*- coding: utf-8 -*-\nimport re\nimport sys\n"
            "from pytest import main\nif __name__ == '__main__':\n"
            "    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])\n    sys.exit(main())\n"
        },
        "",
    ),
}


@engine
@pytest.mark.parametrize("name", HONEST)
def test_is_allowed(altered: Altered, name: str) -> None:
    files, run = HONEST[name]
    assert check_tools(altered.files(files, run=run)) == []


@engine
def test_changes_that_a_package_manager_accounts_for_are_not_called_tampering(altered: Altered) -> None:
    _, run, _ = FORGERIES["a forged record of an upgrade"]
    (finding,) = check_tools(altered.files(run=run))
    assert finding.failure_class is FailureClass.RECIPE
    (finding,) = check_tools(altered.files(run="rm /usr/bin/g++"))
    assert finding.failure_class is FailureClass.RECIPE
    (finding,) = check_tools(altered.files(run="cp /bin/true /usr/bin/timeout"))
    assert finding.failure_class is FailureClass.TAMPER


@engine
def test_very_many_changes_are_counted_instead_of_named(altered: Altered) -> None:
    findings = check_tools(altered.files(run="rm -r /usr/lib/python3.11/asyncio /usr/lib/python3.11/email"))
    assert len(findings) == MAX_FINDINGS
    assert "more files of the system" in findings[-1].message


@engine
def test_files_where_results_go_are_refused(altered: Altered) -> None:
    (finding,) = check_channel(altered.files({"headrace/results/junit.xml": "<testsuites/>"}))
    assert finding.defence is Defence.CHANNEL
    assert "/headrace" in finding.message
    assert check_channel(altered.files({"opt/headrace/notes.txt": "x"})) == []


@pytest.mark.parametrize(
    "text",
    [
        SCRIPT.replace("#!/opt/venv/bin/python", "#!/bin/sh"),
        SCRIPT.replace("console_main()", "console_main(['-k', 'nothing'])"),
        SCRIPT.replace("from pytest", "from pytest_evil"),
        SCRIPT.replace("import sys", "import sys; sys.exit(0)"),
        SCRIPT.replace("    sys.exit(console_main())", "    sys.exit(0)"),
        SCRIPT + "from pytest import main\n",
        "",
        "\udcff",
    ],
)
def test_a_console_script_with_anything_of_its_own_is_none(text: str) -> None:
    assert is_console_script(SCRIPT.encode(), modules=("pytest",))
    assert not is_console_script(text.encode("utf-8", "surrogateescape"), modules=("pytest",))
