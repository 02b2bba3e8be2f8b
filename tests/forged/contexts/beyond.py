"""Attacks that go between the lines of facts/forgeries.md."""

from __future__ import annotations

from actors.verifier.defences import Defence
from tests.forged.contexts.plugins import compiled_with, late
from tests.forged.contexts.tools import PAINTS, library
from tests.forged.forgery import Forgery, add, green, macro, put, run_script
from tests.forged.victims import ABACUS, LEDGER, NATIVE, PICKY

__all__ = ["BEYOND", "OPEN"]

BEYOND = (
    Forgery(
        name="dependency_that_paints_unless_it_is_tested",
        line=11,
        defence=Defence.PROVENANCE,
        victim=LEDGER,
        scripts=run_script(add("$s/decorator.py", late(green()))),
        evades="CANARIES and CONTROL: it paints the project's tests alone, and only until a control is made",
        why="an altered dependency can tell a control from a verdict; only its own bytes give it away",
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
    Forgery(
        name="dependency_missing_so_that_a_module_is_not_collected",
        line=8,
        defence=Defence.COLLECTION,
        victim=PICKY,
        scripts=run_script("python -m pip uninstall --quiet --yes decorator"),
        evades="TREE, PROVENANCE: something is missing, nothing is wrong",
        why="the project's own conftest leaves the failing module out where a dependency is not installed",
    ),
)

OPEN = (
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
        name="macro_that_knows_a_control",
        line=11,
        defence=Defence.CONTROL,
        victim=LEDGER,
        scripts=run_script(macro(late(green()))),
        evades="CANARIES and CONTROL: it paints the project's tests alone, and only until a control is made",
        why="code in pytest's process can read what the runner was asked for, and tell a control from a verdict",
    ),
    Forgery(
        name="compiled_module_that_knows_a_control",
        line=11,
        defence=Defence.CONTROL,
        victim=ABACUS,
        scripts={"build_pkg_sh": compiled_with(green())},
        evades="as before; the extension module is built from the commit's source with a header that is gone again",
        why="as before",
    ),
)
"""Forgeries that nothing refuses: what docs/trust.md does not promise."""
