"""Which machine folds which stream, and the states of all machines as bytes.

======================  ==============================================================
stream                  state
======================  ==============================================================
``repository:O/R``      :class:`events.repository.RepositoryState`
``sweep:NAME``          :class:`events.sweep.SweepState`
``governor``            :class:`events.governor.GovernorState`
``gather:O/R``          :class:`events.gathering.GatherState`
``attempt:ID``          :class:`MailboxState`: a runner reports one outcome, of its own attempt
======================  ==============================================================

Packed and unpacked, a state is the same, the order of its dictionaries included (the order of a queue is part of it):
``first_difference`` finds nothing. ``shape_of`` changes whenever a state's fields do: packed states of another shape
are not to be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from hashlib import sha256
from typing import Any, Generic, TypeVar, cast

import msgspec

from events import gathering, governor, repository, sweep
from events.errors import IllegalTransition
from events.gathering import GatherState
from events.governor import GovernorState
from events.repository_state import RepositoryState
from events.sweep import SweepState
from events.types import Event, OutcomeReported
from events.work import Outcome

__all__ = [
    "Difference",
    "Machine",
    "MailboxState",
    "State",
    "digest_of",
    "field_digests",
    "first_difference",
    "machine_of",
]


class MailboxState(msgspec.Struct, kw_only=True):
    """What stream ``attempt:ID`` says."""

    attempt_id: str
    version: int = 0
    outcome: Outcome | None = None


State = RepositoryState | SweepState | GovernorState | GatherState | MailboxState
S = TypeVar("S", bound=RepositoryState | SweepState | GovernorState | GatherState | MailboxState)

_encoder = msgspec.msgpack.Encoder()


def _reported(state: MailboxState, event: Event) -> MailboxState:
    name = type(event).__name__
    if not isinstance(event, OutcomeReported) or event.attempt_id != state.attempt_id or state.outcome is not None:
        found = "reported" if state.outcome else "empty"
        raise IllegalTransition(machine="mailbox", state=found, event=name, subject=f"attempt {state.attempt_id}")
    state.outcome = event.outcome
    state.version += 1
    return state


class Machine(Generic[S]):
    """How streams of one kind are folded."""

    def __init__(self, state: type[S], *, initial: Callable[[str], S], evolve: Callable[[S, Any], S]) -> None:
        self.state, self.initial, self.evolve = state, initial, evolve
        self._decoder: msgspec.msgpack.Decoder[S] = msgspec.msgpack.Decoder(state)

    @cached_property
    def shape(self) -> str:
        """A digest of the state's fields and their types."""
        _, components = msgspec.json.schema_components([self.state])
        for one in components.values():
            one.pop("description", None)
        return sha256(msgspec.json.encode(components, order="sorted")).hexdigest()[:16]

    def pack(self, state: S) -> bytes:
        """``state`` as bytes."""
        return _encoder.encode(state)

    def unpack(self, data: bytes) -> S:
        """The state of which ``data`` are the bytes; raises ``msgspec.DecodeError`` for what is none."""
        return self._decoder.decode(data)


_MACHINES: dict[str, Machine[Any]] = {
    "repository": Machine(
        RepositoryState,
        initial=lambda name: RepositoryState(repository=name),
        evolve=repository.evolve,
    ),
    "sweep": Machine(SweepState, initial=lambda name: SweepState(sweep=name), evolve=sweep.evolve),
    "governor": Machine(GovernorState, initial=lambda _: GovernorState(), evolve=governor.evolve),
    "gather": Machine(GatherState, initial=lambda name: GatherState(repository=name), evolve=gathering.evolve),
    "attempt": Machine(MailboxState, initial=lambda name: MailboxState(attempt_id=name), evolve=_reported),
}


def machine_of(stream: str) -> tuple[Machine[Any], str] | None:
    """The machine of a stream, and the name of what it folds: ``o/r`` of ``repository:o/r``; none for others."""
    kind, colon, name = stream.partition(":")
    machine = _MACHINES.get(kind)
    return (machine, name) if machine is not None and bool(colon) == (kind != "governor") else None


def digest_of(state: State) -> str:
    """SHA-256 of a state, the same in every process: sets and dictionaries are taken in the order of their keys."""
    return sha256(msgspec.json.encode(_plain(state))).hexdigest()


def field_digests(state: State) -> dict[str, str]:
    """A short digest of each field of a state, made as :func:`digest_of`: to say where two states differ."""
    return {name: sha256(msgspec.json.encode(value)).hexdigest()[:12] for name, value in _plain(state).items()}


def _plain(state: State) -> dict[str, object]:
    return cast(dict[str, object], msgspec.to_builtins(state, str_keys=True, order="deterministic"))


class Difference(msgspec.Struct, frozen=True):
    """Where two states differ: ``field`` such as ``prs[7].state``, and what each of them holds there."""

    field: str
    one: str
    other: str


def first_difference(one: object, other: object, *, field: str = "") -> Difference | None:
    """The first place in which two states differ, fields in the order of their declaration; the order of dictionaries
    counts."""
    if isinstance(one, msgspec.Struct) and type(one) is type(other):
        parts: Iterable[tuple[str, object, object]] = (
            (f"{field}.{name}" if field else name, getattr(one, name), getattr(other, name))
            for name in one.__struct_fields__
        )
    elif isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        parts = ((f"{field}[{key}]", value, other[key]) for key, value in one.items())
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        parts = ((f"{field}[{place}]", *pair) for place, pair in enumerate(zip(one, other, strict=True)))
    else:
        same = one == other and not isinstance(one, dict)
        return None if same else Difference(field, _readable(one), _readable(other))
    return next((found for name, a, b in parts if (found := first_difference(a, b, field=name))), None)


def _readable(value: object) -> str:
    """A value in at most 80 characters."""
    if isinstance(value, dict) and len(value) > 1:
        value = list(value)
    if isinstance(value, set):
        value = sorted(value)
    text = msgspec.json.encode(msgspec.to_builtins(value, str_keys=True)).decode()
    return text if len(text) <= 80 else text[:77] + "..."
