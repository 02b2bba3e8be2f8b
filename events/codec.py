"""Events to stored bytes and back.

An event is stored as its type's name, a schema number and a JSON object. Reading goes through the chain of upcasters
from the stored schema to today's, so that every log ever written stays readable; an unknown type or a newer schema
fails loudly and names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast, get_args

import msgspec

from events.errors import UnknownEventType
from events.types import Event

__all__ = ["EVENT_TYPES", "SCHEMAS", "UPCASTERS", "decode", "encode", "reader", "schema_of"]

EVENT_TYPES: Mapping[str, type[msgspec.Struct]] = {cls.__name__: cls for cls in get_args(Event)}
"""Every event type by the name under which it is stored."""

SCHEMAS: Mapping[str, int] = dict.fromkeys(EVENT_TYPES, 1)
"""Today's schema number of every event type."""

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""``(type, schema)`` to the function that lifts a payload of that schema to the next one."""

_encoder = msgspec.json.Encoder()
_decoders = {name: msgspec.json.Decoder(cls) for name, cls in EVENT_TYPES.items()}


def schema_of(event: Event) -> int:
    """The schema number under which ``event`` is stored today."""
    return SCHEMAS[type(event).__name__]


def encode(event: Event) -> bytes:
    """The JSON object of ``event``, without its type."""
    return _encoder.encode(event)


def reader(type_: str, schema: int) -> Callable[[bytes | str], Event]:
    """What reads all events of one type and schema; raises as :func:`decode`, or ``msgspec.DecodeError``."""
    if SCHEMAS.get(type_) == schema:
        return cast(Callable[[bytes | str], Event], _decoders[type_].decode)
    return partial(decode, type_, schema)


def decode(type_: str, schema: int, data: bytes | str) -> Event:
    """Reads one stored event.

    Raises:
        UnknownEventType: the type is unknown, its schema is newer than this program's, or the payload does not fit.
    """
    decoder = _decoders.get(type_)
    if decoder is None:
        raise UnknownEventType(type_=type_, schema=schema)
    current = SCHEMAS[type_]
    try:
        if schema == current:
            return decoder.decode(data)  # type: ignore[return-value]
        return _upcast(type_, schema, current, data)
    except msgspec.DecodeError as exc:
        raise UnknownEventType(type_=type_, schema=schema, detail=str(exc)) from exc


def _upcast(type_: str, schema: int, current: int, data: bytes | str) -> Event:
    if schema > current:
        raise UnknownEventType(type_=type_, schema=schema, detail=f"this program knows up to schema {current}")
    payload = msgspec.json.decode(data)
    for step in range(schema, current):
        upcaster = UPCASTERS.get((type_, step))
        if upcaster is None:
            raise UnknownEventType(type_=type_, schema=schema, detail=f"no upcaster from schema {step}")
        try:
            payload = upcaster(payload)
        except (LookupError, TypeError, ValueError) as exc:
            detail = f"the upcaster from schema {step} failed: {type(exc).__name__}: {exc}"
            raise UnknownEventType(type_=type_, schema=schema, detail=detail) from exc
    return msgspec.convert(payload, EVENT_TYPES[type_])  # type: ignore[return-value]
