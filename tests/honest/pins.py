"""Pinned requirements of the honest projects: few sets, small wheels, each closed under its dependencies."""

from __future__ import annotations

__all__ = [
    "FLIT",
    "HATCH",
    "MESON",
    "PDM",
    "POETRY",
    "PYTEST",
    "PYTEST_2024",
    "SCIKIT_BUILD",
    "SCM",
    "SETUPTOOLS",
    "UNDER_39",
]

PYTEST = ("iniconfig==2.1.0", "packaging==24.2", "pluggy==1.5.0", "pytest==8.3.5")
SETUPTOOLS = (*PYTEST, "setuptools==78.1.0")
SCM = (*SETUPTOOLS, "setuptools-scm==8.2.0")
FLIT = (*PYTEST, "flit-core==3.12.0")
POETRY = (*PYTEST, "poetry-core==2.1.2")
PDM = (*PYTEST, "pdm-backend==2.4.3")
HATCH = (*PYTEST, "editables==0.5", "hatchling==1.27.0", "pathspec==0.12.1", "trove-classifiers==2025.3.19.19")
MESON = (*PYTEST, "meson==1.7.1", "meson-python==0.17.1", "ninja==1.11.1.4", "pyproject-metadata==0.9.1")
SCIKIT_BUILD = (*PYTEST, "cmake==4.0.0", "ninja==1.11.1.4", "pathspec==0.12.1", "scikit-build-core==0.11.1")

PYTEST_2024 = (
    "iniconfig==2.0.0",
    "packaging==23.2",
    "pluggy==1.4.0",
    "pytest==8.0.2",
    "setuptools==69.1.1",
    "wheel==0.42.0",
)

UNDER_39 = (
    *("attrs==21.4.0", "iniconfig==1.1.1", "packaging==21.3", "pluggy==1.0.0", "py==1.11.0", "pyparsing==3.0.6"),
    *("pytest==6.2.5", "setuptools==57.5.0", "toml==0.10.2", "wheel==0.37.1"),
)
"""Of January 2022: a setuptools without editable installs by the standard, and pytest 6."""
