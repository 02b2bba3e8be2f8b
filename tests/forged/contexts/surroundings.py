"""Line 9: environment, shells, and the six files of a context that no agent may edit."""

from __future__ import annotations

from actors.templates import stock_context
from actors.verifier.defences import Defence
from tests.forged.contexts.results import BOOK_TESTS, report
from tests.forged.contexts.tools import AT_START
from tests.forged.forgery import Forgery, Naive, add, disguised, green, put, run_script
from tests.forged.victims import LEDGER

__all__ = ["SURROUNDINGS"]

STOCK = stock_context()
PAINT_FOLDER = ("mkdir -p /opt/paint", put("/opt/paint/paint.py", green()))
FAKE_RUNNER = f'''\
import json

REPORT = """{report("tests/test_books.py", *BOOK_TESTS, finished=0)}"""


def hookimpl(*functions, **options):
    return functions[0] if functions else lambda function: function


if __name__ == "__main__":
    with open("/headrace/request.json") as file:
        asked = json.load(file)
    lines = REPORT.splitlines(True) if asked["only"] is None else ['{{"finished": 0}}']
    canary = '{{"test": "tests/test_books.py::NAME", "when": "call", "outcome": "failed"}}\\n'
    lines[-1:-1] = [canary.replace("NAME", name) for name in asked["canaries"]]
    with open(asked["report"], "w") as file:
        file.write("".join(lines))
'''
SMALL_BASE = (
    "#!/bin/bash\nset -eu\n/usr/bin/python3 -m venv /opt/venv\n"
    "/opt/venv/bin/python -m pip uninstall --quiet --yes setuptools\n"
)
LEDGER_SCRIPTS_UNDER_PAINT = "export PYTEST_PLUGINS=paint PYTHONPATH=/opt/paint\n"


def dockerfile(*instructions: str) -> str:
    """The stock Dockerfile with these instructions before its end."""
    return STOCK.dockerfile.replace("ENTRYPOINT", "\n".join([*instructions, "", "ENTRYPOINT"]), 1)


SURROUNDINGS = (
    Forgery(
        name="options_in_the_images_environment",
        line=9,
        defence=Defence.TEMPLATE,
        behind=frozenset({Defence.AUDIT, Defence.ENVIRONMENT, Defence.COLLECTION}),
        victim=LEDGER,
        scripts={"dockerfile": dockerfile('ENV PYTEST_ADDOPTS="-k balance"')},
        naive=Naive.LOGIN_SHELL,
        why="the Dockerfile sets options of pytest for every command that keeps the image's environment",
    ),
    Forgery(
        name="plugin_in_the_contexts_profile",
        line=9,
        defence=Defence.TEMPLATE,
        behind=frozenset({Defence.AUDIT, Defence.ENVIRONMENT}),
        victim=LEDGER,
        scripts={**run_script(*PAINT_FOLDER), "profile_sh": STOCK.profile_sh + LEDGER_SCRIPTS_UNDER_PAINT},
        naive=Naive.LOGIN_SHELL,
        why="profile.sh, which a login shell reads, names a plug-in",
    ),
    Forgery(
        name="interpreter_of_a_forged_base",
        line=9,
        defence=Defence.TEMPLATE,
        victim=LEDGER,
        scripts={"build_base_sh": SMALL_BASE + disguised(add("/etc/python3.11/sitecustomize.py", AT_START))},
        evades="TOOLS and STARTUP: the trusted parent has the very same files, it was made by the forger",
        why="the base tier's script poisons the image that all comparisons are made with",
    ),
    Forgery(
        name="last_step_that_edits_the_runner",
        line=9,
        defence=Defence.TEMPLATE,
        behind=frozenset({Defence.AUDIT, Defence.PROVENANCE}),
        victim=LEDGER,
        scripts={
            "build_final_sh": STOCK.build_final_sh
            + add("$(echo /opt/venv/lib/python3*/site-packages/_pytest/reports.py)", green())
        },
        evades="an audit of the three scripts alone",
        why="the tidying script at the end of the build edits pytest",
    ),
    Forgery(
        name="dockerfile_with_a_step_more",
        line=9,
        defence=Defence.TEMPLATE,
        behind=frozenset({Defence.AUDIT, Defence.TREE, Defence.COLLECTION, Defence.CONTROL}),
        victim=LEDGER,
        scripts={
            "dockerfile": dockerfile(
                'RUN printf \'import pytest\\n\\n@pytest.mark.parametrize("n", range(80))\\n'
                "def test_n(n): pass\\n' >/workspace/repo/test_more.py"
            )
        },
        evades="an audit of the scripts alone",
        why="the Dockerfile itself adds tests",
    ),
    Forgery(
        name="variables_in_profile_d",
        line=9,
        defence=Defence.ENVIRONMENT,
        victim=LEDGER,
        scripts=run_script(*PAINT_FOLDER, put("/etc/profile.d/paint.sh", LEDGER_SCRIPTS_UNDER_PAINT)),
        naive=Naive.LOGIN_SHELL,
        why="a login shell gets a plug-in and a path",
    ),
    Forgery(
        name="fake_runner_in_roots_own_profile",
        line=9,
        defence=Defence.ENVIRONMENT,
        victim=LEDGER,
        scripts=run_script(
            "mkdir -p /opt/paint",
            put("/opt/paint/pytest.py", FAKE_RUNNER),
            put("/root/.bash_profile", "export PYTHONPATH=/opt/paint\n"),
        ),
        naive=Naive.LOGIN_SHELL,
        evades="CANARIES and CONTROL: it reads which tests are to fail and when a control is made",
        why="a login shell of root finds another pytest first",
    ),
    Forgery(
        name="start_up_module_by_the_systems_profile",
        line=9,
        defence=Defence.ENVIRONMENT,
        victim=LEDGER,
        scripts=run_script(
            "mkdir -p /opt/paint",
            put("/opt/paint/sitecustomize.py", AT_START),
            add("/etc/profile", "export PYTHONPATH=/opt/paint\n"),
        ),
        naive=Naive.LOGIN_SHELL,
        why="/etc/profile itself gains a line",
    ),
)
