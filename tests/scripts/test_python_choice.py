"""Which Python a pull request gets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from actors.settings import BuildSettings
from scripts.python_choice import NoPythonFits, available_pythons, choose_python

DEBIAN = ["3.9", "3.11", "3.13"]


def choice(
    at: str, *, requires: str | None = None, classified: tuple[str, ...] = (), available: list[str] = DEBIAN
) -> tuple[str, bool]:
    chosen = choose_python(
        requires_python=requires,
        classifiers=[f"Programming Language :: Python :: {version}" for version in classified],
        at=datetime.fromisoformat(at).replace(tzinfo=UTC),
        available=available,
    )
    return chosen.version, chosen.younger


def test_the_newest_that_had_been_out_for_half_a_year_is_taken() -> None:
    assert choice("2023-04-01") == ("3.9", False)
    assert choice("2023-05-01") == ("3.11", False)


def test_one_that_the_project_classifies_goes_before_a_newer_one() -> None:
    assert choice("2025-06-01", classified=("3.8", "3.9", "3.11")) == ("3.11", False)


def test_of_unclassified_ones_the_nearest_is_taken() -> None:
    assert choice("2025-06-01", classified=("3.5", "3.6")) == ("3.9", False)
    assert choice("2025-06-01", classified=("3.13",), requires="<3.12") == ("3.11", False)


def test_a_fresh_one_is_taken_when_no_older_one_is_there() -> None:
    assert choice("2020-11-01") == ("3.9", False)


def test_the_oldest_is_taken_when_all_are_younger() -> None:
    assert choice("2015-01-01") == ("3.9", True)
    assert choice("2015-01-01", requires=">=3.10") == ("3.11", True)


def test_what_the_project_forbids_is_not_taken() -> None:
    assert choice("2026-01-01", requires=">=3.9.2,<3.11") == ("3.9", False)
    assert choice("2026-01-01", requires="!=3.13.*") == ("3.11", False)
    with pytest.raises(NoPythonFits, match=r"allows none of 3\.9, 3\.11, 3\.13"):
        choice("2026-01-01", requires="==3.10.*")


def test_a_demand_that_is_no_specifier_is_no_demand() -> None:
    assert choice("2026-01-01", requires="three or so") == ("3.13", False)


def test_a_version_of_unknown_age_is_the_last_resort() -> None:
    assert choice("2026-01-01", available=["3.13", "3.99"]) == ("3.13", False)
    assert choice("2026-01-01", available=["3.99"]) == ("3.99", True)


def test_versions_are_ordered_as_numbers_and_those_of_the_provider() -> None:
    assert choice("2026-01-01", available=["3.10", "3.9"]) == ("3.10", False)
    assert available_pythons(BuildSettings(provider="debootstrap")) == ["3.9", "3.11", "3.13"]
    assert available_pythons(BuildSettings(python_versions=["3.10", "3.9"])) == ["3.9", "3.10"]
