"""What stands between whatever wrote a context and its verdict: one name for each defence, and what a defence reports.

A defence's name is the name of its check in an outcome. ``docs/trust.md`` draws the boundary and says how each line of
it is enforced; ``tests/forged`` has, for each defence, real contexts that only it refuses.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from events.work import FailureClass

__all__ = ["Defence", "Finding"]


class Defence(StrEnum):
    """The defences, in the order in which they are applied."""

    TEMPLATE = "template"
    """Of a context's nine files, those that no agent may edit are ones that this installation trusts."""
    AUDIT = "audit"
    """The text of the scripts shows no tampering."""
    CHANNEL = "channel"
    """Results are read from files that were made outside for this run; the image has nothing in their place."""
    ENVIRONMENT = "environment"
    """Commands get a fixed environment; neither the image's configuration nor its shells' start-up files set one."""
    TOOLS = "tools"
    """Interpreter, libraries and system tools are the trusted parent image's, and nothing comes before them in PATH."""
    STARTUP = "startup"
    """Nothing but what the index served runs when the interpreter starts."""
    PROVENANCE = "provenance"
    """What is installed is what the index serves; the test runner and its plug-ins byte for byte."""
    TREE = "tree"
    """The checkout is the commit, but for build products that cannot change what the tests say."""
    ORIGIN = "origin"
    """The installed distribution and the imported modules come from this checkout."""
    PLUGINS = "plugins"
    """Plug-ins are loaded only if the requirements or the commit's own files name them."""
    COLLECTION = "collection"
    """The tests that were run are the tests that the commit has."""
    CANARIES = "canaries"
    """Tests from outside, which must fail and must pass, did."""
    CONTROL = "control"
    """With their own code taken away, or the package's, the same tests do not pass."""
    DEADLINE = "deadline"
    """What a limit ended has failed."""
    REUSE = "reuse"
    """All of this is done for every verification, also of contexts that were verified elsewhere."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a defence saw, in one line for people: which file or setting, and what is wrong with it."""

    defence: Defence
    message: str
    failure_class: FailureClass = FailureClass.TAMPER
