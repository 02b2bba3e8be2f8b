"""Environment variables, shells' start-up files and configuration above the checkout, on real images."""

from __future__ import annotations

import pytest

from actors.verifier.checks.environment import check_environment
from actors.verifier.defences import Defence
from tests.verifier.images import Altered

pytestmark = pytest.mark.engine

RUSTUP = """case ":${PATH}:" in
    *:"$HOME/.cargo/bin":*)
        ;;
    *)
        export PATH="$HOME/.cargo/bin:$PATH"
        ;;
esac
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTEST_ADDOPTS": "-knothing"},
        {"PYTHONPATH": "/opt/evil"},
        {"PYTHONSTARTUP": "/opt/evil.py"},
        {"LD_PRELOAD": "/opt/evil.so"},
        {"LD_LIBRARY_PATH": "/opt"},
        {"BASH_ENV": "/opt/evil.sh"},
        {"PATH": "/opt/evil:/opt/venv/bin:/usr/bin:/bin"},
        {"COV_CORE_SOURCE": "x"},
        {"GLIBC_TUNABLES": "x"},
    ],
)
def test_a_variable_that_commands_would_obey_is_refused(altered: Altered, variables: dict[str, str]) -> None:
    (finding,) = check_environment(altered.files(env=variables))
    assert finding.defence is Defence.ENVIRONMENT
    assert next(iter(variables)) in finding.message


def test_variables_that_change_no_result_are_allowed(altered: Altered) -> None:
    harmless = {"PYTHONUNBUFFERED": "1", "CC": "gcc", "MY_DATA": "/data", "PATH": "$PATH:/root/.local/bin"}
    assert check_environment(altered.files(env=harmless)) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/profile.d/evil.sh", "export PYTEST_ADDOPTS='-k nothing'\n"),
        ("etc/profile.d/evil.sh", "if true; then PYTHONPATH=/opt/evil; fi\n"),
        ("opt/headrace/profile.sh", "pytest() { true; }\n"),
        ("etc/profile.d/evil.sh", "function git {\n  true\n}\n"),
        ("root/.bashrc", "alias python=true\n"),
        ("root/.bash_profile", 'eval "$(printf x)"\n'),
        ("root/.profile", ". /opt/evil.sh\n"),
        ("root/.profile", '. "$EVIL"\n'),
        ("etc/environment", "PYTEST_PLUGINS=evil\n"),
        ("etc/environment", "PATH=/opt/shims:/usr/bin:/bin\n"),
        ("etc/bash.bashrc", "export \\\n  LD_PRELOAD=/opt/evil.so\n"),
        ("etc/profile.d/evil.sh", 'export PATH="/opt/shims:$PATH"\n'),
        ("etc/profile.d/evil.sh", "hash -p /opt/evil python\n"),
    ],
)
def test_a_start_up_file_that_redirects_is_refused(altered: Altered, path: str, text: str) -> None:
    laid = {"opt/evil.sh": "python3() { true; }\n", "opt/shims/git": "", path: text}
    found = check_environment(altered.files(laid))
    name = "etc/profile.d/headrace.sh" if path == "opt/headrace/profile.sh" else path
    assert [finding.defence for finding in found] == [Defence.ENVIRONMENT]
    assert f"/{name} " in found[0].message


def test_what_installers_write_into_start_up_files_is_allowed(altered: Altered) -> None:
    laid = {
        "root/.cargo/env": RUSTUP,
        "root/.cargo/bin/cargo": "x",
        "root/.bash_profile": '. "$HOME/.cargo/env"\n',
        "root/.bashrc": "# shell\nalias ll='ls -l'\nexport EDITOR=vi\n[ -f ~/.missing ] && . ~/.missing\n",
        "etc/profile.d/locale.sh": "export LC_ALL=C.UTF-8\ngreet() { echo hello; }\n",
        "etc/environment": "LANG=C.UTF-8\n",
    }
    assert check_environment(altered.files(laid)) == []


@pytest.mark.parametrize("path", ["workspace/pytest.ini", "workspace/conftest.py", "tox.ini", "pyproject.toml"])
def test_configuration_above_the_checkout_is_refused(altered: Altered, path: str) -> None:
    (finding,) = check_environment(altered.files({path: "[pytest]\n"}))
    assert f"/{path} lies above" in finding.message
