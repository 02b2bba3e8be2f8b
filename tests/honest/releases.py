"""Real releases from the package index whose source distributions hold their tests."""

from __future__ import annotations

from tests.honest.case import Release
from tests.honest.layouts.contexts import REGULAR_INSTALL
from tests.honest.pins import PYTEST_2024, UNDER_39

__all__ = ["RELEASES"]

SCM = ("setuptools-scm==8.0.4", "typing-extensions==4.10.0")

RELEASES = [
    Release("six", "1.16.0", requirements=UNDER_39, python="3.9"),
    Release("tabulate", "0.9.0", requirements=(*PYTEST_2024, *SCM)),
    Release("markupsafe", "2.1.5", requirements=PYTEST_2024),
    Release("toolz", "0.12.1", requirements=PYTEST_2024),
    Release("pluggy", "1.4.0", requirements=(*PYTEST_2024, *SCM)),
    Release("wcwidth", "0.2.13", requirements=(*PYTEST_2024, "coverage==7.4.3", "pytest-cov==4.1.0")),
    Release("cachetools", "5.3.3", requirements=PYTEST_2024, python="3.13"),
    Release("simplejson", "3.19.2", requirements=PYTEST_2024),
    Release("msgpack", "1.0.8", requirements=(*PYTEST_2024, "cython==3.0.8")),
    Release("more-itertools", "10.2.0", requirements=(*PYTEST_2024, "flit-core==3.9.0")),
    Release(  # pytest rewrites the assertions of a plug-in only where it is installed regularly
        "pytest-mock",
        "3.14.0",
        requirements=(*PYTEST_2024, *SCM, "pytest-asyncio==0.23.6"),
        scripts=REGULAR_INSTALL,
    ),
]
