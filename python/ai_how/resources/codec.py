"""Resources as JSON and back, for the guard of a change (engine/guard.py).

How a value is written follows from the type of its field alone, so a new field or kind needs nothing here. What is read
must fit exactly: an unknown, missing or wrong part is an error, never a default.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePosixPath
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

from ai_how.resources.base import Kind, Resource
from ai_how.resources.domain import Domain
from ai_how.resources.firewall import FirewallTable
from ai_how.resources.hook import Hook
from ai_how.resources.network import VirtualNetwork
from ai_how.resources.passage import Passage
from ai_how.resources.pool import Pool
from ai_how.resources.registration import Registration
from ai_how.resources.resolver import ResolverRoute
from ai_how.resources.route import HostRoute
from ai_how.resources.seed import Seed
from ai_how.resources.servers import Servers
from ai_how.resources.sysctl import Sysctl
from ai_how.resources.volume import Volume

#: The class of each kind.
CLASSES: dict[Kind, Any] = {
    each.kind: each
    for each in (
        Sysctl,
        FirewallTable,
        Passage,
        Hook,
        Servers,
        Pool,
        VirtualNetwork,
        HostRoute,
        ResolverRoute,
        Volume,
        Seed,
        Domain,
        Registration,
    )
}

#: What JSON has itself, and what it has as text.
_PLAIN = (str, int, bool)
_AS_TEXT = (IPv4Address, IPv4Network, PurePosixPath)

_Convert = Callable[[Any], Any]


def to_json(resource: Resource) -> dict[str, Any]:
    """The resource as JSON has it: its fields, and its `kind`."""
    found: dict[str, Any] = {"kind": str(resource.kind)}
    found |= _writer(type(resource))(resource)
    return found


def from_json(data: Any) -> Resource:
    """What `to_json` made. Raises ValueError, which says where, for everything else."""
    if not isinstance(data, dict):
        raise ValueError(f"{data!r} is no resource")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in set(Kind):
        raise ValueError(f"kind: {kind!r} is none that this version knows")
    try:
        read: Resource = _reader(CLASSES[Kind(kind)])({name: each for name, each in data.items() if name != "kind"})
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from error
    return read


@cache
def _writer(hint: Any) -> _Convert:
    """What turns a value of the type `hint` into JSON."""
    if isinstance(hint, NewType):
        return _writer(hint.__supertype__)
    if hint in _PLAIN:
        return _same
    if hint in _AS_TEXT:
        return str
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value: value.value
    if get_origin(hint) is tuple:
        return _tuple_writer(get_args(hint))
    if (inner := _optional(hint)) is not None:
        write = _writer(inner)
        return lambda value: None if value is None else write(value)
    if is_dataclass(hint):
        writers = {name: _writer(each) for name, each in _hints(hint).items()}
        return lambda value: {name: write(getattr(value, name)) for name, write in writers.items()}
    raise TypeError(f"{hint} cannot be written as JSON")


@cache
def _reader(hint: Any) -> _Convert:
    """What turns JSON into a value of the type `hint`; it raises ValueError where it is none."""
    if isinstance(hint, NewType):
        return _reader(hint.__supertype__)
    if hint in _PLAIN:
        return _checked(hint)
    if hint in _AS_TEXT:
        text = _checked(str)
        return lambda data: hint(text(data))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if get_origin(hint) is tuple:
        return _tuple_reader(get_args(hint))
    if (inner := _optional(hint)) is not None:
        read = _reader(inner)
        return lambda data: None if data is None else read(data)
    if is_dataclass(hint):
        return _dataclass_reader(hint)
    raise TypeError(f"{hint} cannot be read from JSON")


def _hints(cls: Any) -> dict[str, Any]:
    """The fields that make a value of `cls`, with their types; what follows from them is left out."""
    found = get_type_hints(cls)
    return {each.name: found[each.name] for each in fields(cls) if each.init}


def _optional(hint: Any) -> Any:
    """`X` of `X | None`; None for all other types."""
    if get_origin(hint) not in (Union, types.UnionType):
        return None
    inner = [each for each in get_args(hint) if each is not types.NoneType]
    return inner[0] if len(inner) == 1 else None


def _same(value: Any) -> Any:
    return value


def _checked(cls: type) -> _Convert:
    def read(data: Any) -> Any:
        if type(data) is not cls:  # a bool would pass for an int
            raise ValueError(f"{data!r} is no {cls.__name__}")
        return data

    return read


def _tuple_writer(hints: tuple[Any, ...]) -> _Convert:
    if hints[-1] is Ellipsis:
        write = _writer(hints[0])
        return lambda value: [write(each) for each in value]
    writers = [_writer(each) for each in hints]
    return lambda value: [write(each) for write, each in zip(writers, value, strict=True)]


def _tuple_reader(hints: tuple[Any, ...]) -> _Convert:
    readers = [_reader(each) for each in hints if each is not Ellipsis]
    endless = hints[-1] is Ellipsis

    def read(data: Any) -> Any:
        if not isinstance(data, list):
            raise ValueError(f"{data!r} is no list")
        each = readers * len(data) if endless else readers
        if len(each) != len(data):
            raise ValueError(f"{data!r} has not {len(each)} parts")
        found = []
        for number, (read_one, part) in enumerate(zip(each, data, strict=True)):
            try:
                found.append(read_one(part))
            except ValueError as error:
                raise ValueError(f"[{number}]: {error}") from error
        return tuple(found)

    return read


def _dataclass_reader(cls: Any) -> _Convert:
    readers = {name: _reader(each) for name, each in _hints(cls).items()}

    def read(data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError(f"{data!r} is no {cls.__name__}")
        if missing := readers.keys() - data.keys():
            raise ValueError(f"{min(missing)} is missing")
        if unknown := data.keys() - readers.keys():
            raise ValueError(f"{min(unknown)} is unknown")
        values = {}
        for name, read_one in readers.items():
            try:
                values[name] = read_one(data[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return cls(**values)

    return read
