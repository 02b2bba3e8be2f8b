"""The examples in the docstrings of the package run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import actors.gather

MODULES = [f"actors.gather.{one.name}" for one in pkgutil.iter_modules(actors.gather.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_print_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), raise_on_error=False).failed == 0


def test_every_public_class_has_an_example() -> None:
    public = [getattr(actors.gather, name) for name in actors.gather.__all__]
    without = [
        one.__name__
        for one in public
        if inspect.isclass(one) and ">>>" not in (one.__doc__ or "") and one is not actors.gather.KeyVariable
    ]
    assert without == []
