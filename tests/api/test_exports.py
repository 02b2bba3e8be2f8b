"""The names that programs import, and what importing costs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import actors
import actors.api
from actors import (
    DockerContext,
    RateLimitError,
    ResolutionRequired,
    SynthesisState,
    SynthesizeImagesRunner,
    Synthesizer,
)

ROOT = Path(__file__).parents[2]
MODULES = [f"actors.api.{one.name}" for one in pkgutil.iter_modules(actors.api.__path__)]
MODULES += ["store.docker_context", "events.errors"]


def test_the_names_of_the_contract_can_be_imported_from_actors() -> None:
    names = [DockerContext, RateLimitError, ResolutionRequired, SynthesisState, SynthesizeImagesRunner, Synthesizer]
    assert [one.__name__ for one in names] == actors.__all__
    assert set(actors.__all__) <= set(dir(actors))


def test_the_states_are_those_of_the_contract_and_their_values_the_lower_case_names() -> None:
    assert [one.name for one in SynthesisState] == [
        "CHECK_CACHE",
        "FIND_SIMILAR",
        "TRY_SIMILAR",
        "TRY_DEFAULT",
        "LLM_GENERATE",
        "FAIL",
    ]
    assert all(one.value == one.name.lower() for one in SynthesisState)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Synthesiser"):
        actors.Synthesiser  # noqa: B018 - looking it up is the test


def test_importing_a_module_of_actors_imports_neither_the_api_nor_ray() -> None:
    code = "import sys, actors.settings; print([m for m in ('ray', 'docker', 'actors.api') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.ray
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_print_what_they_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_class_has_an_example() -> None:
    public = [getattr(actors.api, name) for name in actors.api.__all__]
    classes = [one for one in public if inspect.isclass(one)]
    assert [one.__name__ for one in classes if ">>>" not in (one.__doc__ or "")] == []
