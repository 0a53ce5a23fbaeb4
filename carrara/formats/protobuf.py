"""Protocol buffers read without their description: a row of fields, each a key (number, way of storing) and a value.

A value is a number of 7 bits a byte, 4 or 8 plain bytes, or a length and that many bytes, which may be a message again.
Source: "Encoding" in the documentation of Protocol Buffers.
"""

from __future__ import annotations

from typing import Any

Fields = dict[int, list[Any]]

PLAIN = {1: 8, 5: 4}
NUMBER, LENGTH = 0, 2


def fields(message: Any) -> Fields:
    """Return a message's values by the number of their field: numbers as they are, everything else as bytes.

    Args:
        message: bytes or a view of some; values are slices of it.

    Raises:
        ValueError, IndexError: it is cut short, or no protocol buffer.
    """
    found: Fields = {}
    place = 0
    while place < len(message):
        key, place = varint(message, place)
        stored = key & 7
        value: Any
        if stored == NUMBER:
            value, place = varint(message, place)
        else:
            size = PLAIN.get(stored)
            if size is None:
                size, place = varint(message, place)
            if stored not in (*PLAIN, LENGTH) or not 0 <= size <= len(message) - place:
                raise ValueError("cut short, or no protocol buffer")
            value, place = message[place : place + size], place + size
        found.setdefault(key >> 3, []).append(value)
    return found


def varint(data: Any, place: int) -> tuple[int, int]:
    """Return a number stored in 7 bits a byte, lowest first, as a signed one of 64 bits, and the place after it.

    Raises:
        ValueError, IndexError: it does not end.
    """
    value = shift = 0
    while shift < 64:
        byte, place = data[place], place + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value - 2**64 if value >= 2**63 else value, place
    raise ValueError("a number that does not end")
