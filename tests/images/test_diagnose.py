"""What is read from the output of failed builds: real endings of real tools, shortened."""

from __future__ import annotations

import pytest

from actors.images.diagnose import diagnose, tail_of
from events.work import FailureClass

STEP = "Step 4/9 : RUN bash /opt/headrace/docker_build_pkg.sh\n ---> Running in 0123456789ab\n"
CODE_1 = "The command '/bin/sh -c bash x.sh' returned a non-zero code: 1"
INFRA, RECIPE = FailureClass.INFRA, FailureClass.RECIPE

PIP_WRAPPER = """\
  error: subprocess-exited-with-error

  × Building wheel for x (pyproject.toml) did not run successfully.
  │ exit code: 1
  ╰─> [3 lines of output]
{inner}
      [end of output]

  note: This error originates from a subprocess, and is likely not a problem with pip.
  ERROR: Failed building wheel for x
Failed to build x
ERROR: Failed to build installable wheels for some pyproject.toml based projects (x)
"""
NO_INDEX = """\
WARNING: Retrying (Retry(total=1, connect=None)) after connection broken by 'NewConnectionError(...)': /simple/x/
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError("<pip>: Failed to \
establish a new connection: [Errno -3] Temporary failure in name resolution")': /simple/x/
ERROR: Could not find a version that satisfies the requirement x (from versions: none)
ERROR: No matching distribution found for x
"""


@pytest.mark.parametrize(
    ("output", "wanted", "blame"),
    [
        (
            PIP_WRAPPER.format(inner="      src/a.c:3:5: error: unknown type name 'flot'"),
            "src/a.c:3:5: error: unk",
            RECIPE,
        ),
        (PIP_WRAPPER.format(inner="      a.h:1:10: fatal error: hdf5.h: No such file"), "fatal error: hdf5.h", RECIPE),
        (
            PIP_WRAPPER.format(inner="      ModuleNotFoundError: No module named 'numpy'"),
            "No module named 'numpy'",
            RECIPE,
        ),
        (PIP_WRAPPER.format(inner="      /usr/bin/ld: cannot find -lfoo: No such file"), "cannot find -lfoo", RECIPE),
        ("error[E0432]: unresolved import `pyo3`\nerror: could not compile `x`\n", "error[E0432]: unresolved", RECIPE),
        ("ERROR: No matching distribution found for x==9\n", "No matching distribution found for x==9", RECIPE),
        ("x.sh: line 3: cmake: command not found\n", "cmake: command not found", RECIPE),
        ("E: Unable to locate package libfoo-dev\n", "Unable to locate package libfoo-dev", RECIPE),
        ("just some words\n", "just some words", RECIPE),
        (
            PIP_WRAPPER.format(inner="      set PROJ_DIR first")
            + "  Getting requirements to build wheel: finished with status 'error'\n",
            "set PROJ_DIR first (in",
            RECIPE,
        ),
        (PIP_WRAPPER.format(inner="      set PROJ_DIR before you build"), "set PROJ_DIR before you build (in", RECIPE),
        (NO_INDEX, "Temporary failure in name resolution", INFRA),
        ("OSError: [Errno 28] No space left on device\n", "No space left on device", INFRA),
        ("ERROR: HTTP error 429 while getting x: 429 Client Error: Too Many Requests\n", "Too Many Requests", INFRA),
        ("E: Failed to fetch http://m/x.deb  Temporary failure resolving 'm'\n", "Temporary failure resolving", INFRA),
        ("fatal: unable to access 'u': Could not resolve host: h\n", "Could not resolve host: h", INFRA),
    ],
)
def test_the_real_error_is_found_and_blamed_rightly(output: str, wanted: str, blame: FailureClass) -> None:
    found = diagnose(STEP + output, engine_error=CODE_1)
    assert wanted in found.message
    assert found.failure_class is blame
    assert "\n" not in found.message
    assert "non-zero code" not in found.message


def test_a_compilers_error_outweighs_a_warning_about_the_network() -> None:
    output = STEP + NO_INDEX + "core.c:1:1: error: expected ';'\n"
    assert diagnose(output, engine_error=CODE_1).failure_class is RECIPE


def test_a_retry_that_was_made_good_is_no_evidence() -> None:
    retried = NO_INDEX.splitlines()[1] + "\nSuccessfully installed x\n" + "more\n" * 8
    found = diagnose(STEP + retried + "AssertionError: two is not three\n", engine_error=CODE_1)
    assert (found.failure_class, "two is not three" in found.message) == (RECIPE, True)


def test_trouble_in_an_earlier_step_is_no_evidence() -> None:
    output = "Step 3/9 : RUN x\n" + NO_INDEX + STEP + "ERROR: No matching distribution found for y==1\n"
    assert diagnose(output, engine_error=CODE_1).failure_class is RECIPE


def test_the_last_way_of_building_counts_unless_a_compiler_spoke_earlier() -> None:
    ways = "==> one\nModuleNotFoundError: No module named 'a'\n==> two\nRuntimeError: the real one\n"
    assert "the real one" in diagnose(STEP + ways, engine_error=CODE_1).message
    compiled = "==> one\nx.c:1:1: error: wrong\n" + ways
    assert "x.c:1:1: error: wrong" in diagnose(STEP + compiled, engine_error=CODE_1).message


def test_a_configure_probe_that_does_not_compile_is_not_the_error() -> None:
    output = STEP + "_configtest.c:1:5: error: no such thing\nRuntimeError: no BLAS found\n"
    assert "no BLAS found" in diagnose(output, engine_error=CODE_1).message


def test_a_killed_step_is_put_down_to_the_memory_limit() -> None:
    found = diagnose(STEP + "building\n", engine_error="The command 'x' returned a non-zero code: 137")
    assert "build.memory_mb" in found.message
    assert found.failure_class is RECIPE


@pytest.mark.parametrize(
    ("engine_error", "blame"),
    [
        ("failed to create endpoint x on network bridge: could not find bridge docker0", INFRA),
        ("OCI runtime create failed: cgroup trouble", INFRA),
        ("write /var/lib/x: no space left on device", INFRA),
        ('OCI runtime create failed: exec: "cmake": executable file not found in $PATH', RECIPE),
        ("COPY failed: file not found in build context", RECIPE),
        ("unknown instruction: NONSENSE", RECIPE),
    ],
)
def test_the_engines_own_trouble_is_told_from_a_wrong_dockerfile(engine_error: str, blame: FailureClass) -> None:
    found = diagnose(STEP, engine_error=engine_error)
    assert found.failure_class is blame
    assert engine_error in found.message


def test_a_message_stays_short_and_names_the_step() -> None:
    versions = ", ".join(f"1.{minor}" for minor in range(500))
    output = STEP + f"ERROR: Could not find a version that satisfies the requirement x (from versions: {versions})\n"
    message = diagnose(output, engine_error=CODE_1).message
    assert message.endswith("(from versions: …) (in RUN bash /opt/headrace/docker_build_pkg.sh)")
    assert len(diagnose(STEP + "E" * 5000 + "Error: x\n", engine_error=CODE_1).message) < 1000


def test_colours_and_progress_bars_are_cut_away() -> None:
    output = STEP + "\x1b[91m 10%\r 90%\rValueError: bad\x1b[0m\n"
    assert diagnose(output, engine_error=CODE_1).message.startswith("ValueError: bad (in")


def test_the_tail_holds_the_last_lines_and_never_too_much() -> None:
    text = "".join(f"line {number}\n" for number in range(100))
    assert tail_of(text).splitlines()[-1] == "line 99"
    assert len(tail_of(text).splitlines()) == 60
    assert len(tail_of("ä" * 50_000).encode()) <= 8000
