"""Attacks that go between the lines of facts/forgeries.md."""

from __future__ import annotations

from actors.verifier.defences import Defence
from tests.forged.contexts.plugins import late
from tests.forged.contexts.tools import PAINTS, library
from tests.forged.forgery import Forgery, add, green, put, run_script
from tests.forged.victims import LEDGER, NATIVE, PICKY

__all__ = ["BEYOND"]

BEYOND = (
    Forgery(
        name="dependency_that_paints_unless_it_is_tested",
        line=11,
        defence=Defence.PROVENANCE,
        victim=LEDGER,
        scripts=run_script(add("$s/decorator.py", late(green()))),
        evades="CANARIES and CONTROL: it paints the project's tests alone, and only while the package works",
        why="an altered dependency can tell a control from a verdict; only its own bytes give it away",
    ),
    Forgery(
        name="failing_tests_skipped_by_the_projects_own_switch",
        line=8,
        defence=Defence.COLLECTION,
        victim=PICKY,
        scripts=run_script("touch ~/.picky-fast"),
        evades="TREE, CANARIES, CONTROL and a comparison of what is collected: every test is there, four are skipped",
        why="a file in the home folder makes the project's own conftest skip what fails",
    ),
    Forgery(
        name="extension_built_from_other_source",
        line=12,
        defence=Defence.ORIGIN,
        victim=NATIVE,
        scripts={
            "build_pkg_sh": (
                "#!/bin/bash\nset -eu\ncd /workspace/repo\nmkdir -p quiver\n"
                "echo '#define arrow_length PyLong_AsLong' >quiver/arrow.h\n"
                "CFLAGS=-I. python -m pip install --no-deps --no-build-isolation --editable .\n"
                "rm -r quiver\n"
            )
        },
        evades="TREE: the header is gone again; all that is left is a build product that the commit ignores",
        why="a library that is missing is replaced by one line while the extension is compiled",
    ),
    Forgery(
        name="stub_header_of_a_missing_library",
        line=12,
        defence=Defence.ORIGIN,
        victim=NATIVE,
        scripts={
            "build_pkg_sh": (
                "#!/bin/bash\nset -eu\nmkdir -p /usr/local/include/quiver\n"
                "echo '#define arrow_length PyLong_AsLong' >/usr/local/include/quiver/arrow.h\n"
                "cd /workspace/repo\npython -m pip install --no-deps --no-build-isolation --editable .\n"
            )
        },
        evades="TREE, ORIGIN: the extension is built from the commit's source, with a header that is invented",
        why="a library that is missing is replaced by one line in a place for headers",
    ),
    Forgery(
        name="name_service_that_paints",
        line=4,
        defence=Defence.TOOLS,
        victim=LEDGER,
        scripts=run_script(
            "mkdir -p /opt/paint",
            put("/opt/paint/paint.txt", green()),
            library("/usr/lib/libnss_paint.so.2", PAINTS),
            "sed -i 's/^passwd:.*/passwd: paint files/' /etc/nsswitch.conf",
        ),
        evades="interpreter, standard library, libc, coreutils",
        why="the package looks a user up, and that loads a library that the name service's configuration names",
    ),
)
