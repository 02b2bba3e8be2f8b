"""Several lines at once: what one defence lets pass, another has to see."""

from __future__ import annotations

from actors.verifier.defences import Defence
from tests.forged.contexts.origins import CLAIMED, MENDED_COPY, STUB
from tests.forged.contexts.results import GREEN_BOOKS, NO_OWN_FAILURES, rewrites
from tests.forged.contexts.tools import PAINTED_FOLDER, SETS_PATH, library
from tests.forged.contexts.trees import HOLLOW_TESTS, poisoned
from tests.forged.forgery import Forgery, Naive, disguised, green, macro, put, run_script
from tests.forged.victims import GOOD_BOOKS, LEDGER, NATIVE

__all__ = ["COMBINED"]

COMBINED = (
    Forgery(
        name="linked_report_and_hollow_tests",
        line=6,
        defence=Defence.CHANNEL,
        behind=frozenset({Defence.TREE, Defence.CANARIES, Defence.CONTROL}),
        victim=LEDGER,
        scripts=run_script(
            "mkdir -p /headrace/results /opt/done",
            put("/opt/done/a.jsonl", GREEN_BOOKS),
            "ln -s /opt/done/a.jsonl /headrace/results/report.jsonl",
            put("tests/test_books.py", HOLLOW_TESTS),
        ),
        naive=Naive.IMAGE_REPORT,
        why="lines 3 and 6: if the report is made anew, the tests that make it are hollow",
    ),
    Forgery(
        name="mended_copy_and_compiled_source",
        line=12,
        defence=Defence.STARTUP,
        behind=frozenset({Defence.TREE, Defence.ORIGIN, Defence.CONTROL}),
        victim=LEDGER,
        scripts=run_script(
            poisoned("src/ledger/books.py", GOOD_BOOKS, "src/ledger/__pycache__/books.cpython-311.pyc", kind=1),
            *MENDED_COPY,
            "echo /opt/other >$s/0.pth",
            "echo \"__file__ = '/workspace/repo/src/ledger/__init__.py'\" >>/opt/other/ledger/__init__.py",
        ),
        why="lines 5 and 12: whichever package is imported, it is mended",
    ),
    Forgery(
        name="preloaded_library_and_rewritten_report",
        line=4,
        defence=Defence.TOOLS,
        behind=frozenset({Defence.CONTROL}),
        victim=LEDGER,
        scripts=run_script(
            *PAINTED_FOLDER,
            library("/usr/lib/libpaint.so", SETS_PATH),
            "echo /usr/lib/libpaint.so >/etc/ld.so.preload",
            macro(NO_OWN_FAILURES + rewrites("works()")),
        ),
        why="lines 4 and 10: what is painted too late is cut out of the report",
    ),
    Forgery(
        name="stub_and_a_plugin_for_the_rest",
        line=12,
        defence=Defence.PROVENANCE,
        behind=frozenset({Defence.ORIGIN, Defence.PLUGINS, Defence.CANARIES, Defence.CONTROL}),
        victim=NATIVE,
        scripts={
            "build_pkg_sh": "#!/bin/bash\n"
            + disguised(
                "set -eu\ns=$(echo /opt/venv/lib/python3*/site-packages)\ni=$s/native-0.4.dist-info\n"
                "mkdir -p $s/native $i\n"
                + put("$s/native/__init__.py", STUB)
                + put("$s/native/_painting.py", green("True"))
                + put("$i/METADATA", "Metadata-Version: 2.1\nName: native\nVersion: 0.4\n")
                + put("$i/entry_points.txt", "[pytest11]\nnative = native._painting\n")
                + put("$i/direct_url.json", CLAIMED)
                + put("$i/RECORD", "native/__init__.py,,\nnative/_painting.py,,\n")
            )
        },
        why="lines 11 and 12: the stub that is installed brings a plug-in of its own",
    ),
)
