"""The requirements of a pull request, and which of them an image lacks."""

from __future__ import annotations

import json

import pytest

from actors.verifier.checks.requirements import missing, requirements_of
from actors.verifier.image.installed import Distribution

INSTALLED = [
    Distribution(name=name, version="1", metadata=f"{name}.dist-info", location="") for name in ("numpy", "ruamel-yaml")
]


@pytest.mark.parametrize(
    ("lines", "lacking"),
    [
        (["numpy==1.26.0", "ruamel.yaml>=0.1", "Ruamel_YAML"], []),
        (["numpy", "Pandas==2.0", "scipy", "pandas"], ["pandas", "scipy"]),
        (['tomli; python_version < "3.11"', 'colorama; sys_platform == "win32"', 'x; extra == "test"'], []),
        (['tomli; python_version < "3.12"'], ["tomli"]),
        (["not a requirement !", "left @ https://example.org/left-1.tar.gz"], ["left"]),
    ],
)
def test_what_is_required_and_not_installed_is_missing(lines: list[str], lacking: list[str]) -> None:
    assert missing(json.dumps(lines), INSTALLED, version="3.11") == lacking
    assert missing(json.dumps({"dependencies": lines}), INSTALLED, version="3.11") == lacking


@pytest.mark.parametrize("payload", ["", "[", "3", '{"dependencies": 3}', "{}", '{"other": ["numpy"]}'])
def test_what_cannot_be_read_requires_nothing(payload: str) -> None:
    assert list(requirements_of(payload)) == []
