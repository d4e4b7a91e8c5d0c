"""Reads from a 64-bit little-endian ELF file which shared libraries it needs (DT_NEEDED) and its program loader.

Source of the layout: System V ABI, chapters 4 and 5 (elf(5)).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


@dataclass(frozen=True, slots=True)
class Dependencies:
    """`interpreter` is the loader's path, None in a library; `needed` the sonames in the file's order."""

    interpreter: str | None
    needed: tuple[str, ...]


def dependencies(data: bytes) -> Dependencies:
    """What `data`, the content of an ELF file, needs at run time. Raises ValueError if it is not such a file."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    try:
        return _read(data)
    except struct.error as error:
        raise ValueError(f"a truncated ELF file ({error})") from error


def _read(data: bytes) -> Dependencies:
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    loads: list[tuple[int, int, int]] = []
    dynamic: list[tuple[int, int]] = []
    interpreter = None
    for index in range(count):
        kind, _, start, address, _, length = struct.unpack_from("<IIQQQQ", data, offset + index * size)
        if kind == _PT_LOAD:
            loads.append((address, start, length))
        elif kind == _PT_INTERP:
            interpreter = _string(data, start)
        elif kind == _PT_DYNAMIC:
            dynamic = [struct.unpack_from("<QQ", data, at) for at in range(start, start + length, 16)]
    dynamic = dynamic[: next((i for i, (tag, _) in enumerate(dynamic) if tag == _DT_NULL), len(dynamic))]
    strings = next((value for tag, value in dynamic if tag == _DT_STRTAB), None)
    if strings is None:
        return Dependencies(interpreter, ())
    table = next((start + strings - at for at, start, length in loads if at <= strings < at + length), None)
    if table is None:
        raise ValueError("an ELF file whose string table lies in no segment")
    return Dependencies(interpreter, tuple(_string(data, table + value) for tag, value in dynamic if tag == _DT_NEEDED))


def _string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
