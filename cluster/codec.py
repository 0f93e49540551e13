"""Messages to bytes and back. Rules of this file: nothing but shape; what it returns is safe to use.

A message is one msgpack array: kind, link, seq, ack, then the fields in order. Fields a newer peer
adds at the end are ignored. Nothing here runs code from the wire: msgpack extension types are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import msgpack

from cluster.actor import Header
from cluster.config import MAX_MESSAGE_BYTES
from cluster.messages import CHECKS, COLUMN_PLACES, FIELDS, MESSAGES, BadMessage, Message

_HEAD = 4


def _no_extensions(code: int, data: bytes) -> Any:
    raise BadMessage("extension types are not part of the protocol")


_PACK = msgpack.Packer().pack


def _values(cls: type[Message]) -> Callable[[Message], Iterable[Any]]:
    """The fields of a message, in order; ``attrgetter`` gives no tuple for less than two."""
    names = FIELDS[cls]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda message: [getattr(message, name) for name in names]


_VALUES = {cls: _values(cls) for cls in FIELDS}


def encode(header: Header, message: Message) -> bytes:
    cls = type(message)
    out: bytes = _PACK([cls.KIND, *header, *_VALUES[cls](message)])
    return out


def decode(raw: bytes | memoryview) -> tuple[Header, Message]:
    """Header and message; :class:`BadMessage` names what is wrong, and nothing else is ever raised."""
    if len(raw) > MAX_MESSAGE_BYTES:
        raise BadMessage(f"{len(raw)} bytes are over the limit of {MAX_MESSAGE_BYTES}")
    try:
        parts: Any = msgpack.unpackb(raw, strict_map_key=True, max_ext_len=0, ext_hook=_no_extensions)
    except BadMessage:
        raise
    except Exception as e:
        raise BadMessage(f"not msgpack: {type(e).__name__}") from None
    if type(parts) is not list or len(parts) < _HEAD:
        raise BadMessage("not an array with a header")
    kind, link, seq, ack = parts[:_HEAD]
    if not (type(kind) is type(link) is type(seq) is type(ack) is int and link >= 0 and seq >= 0 and ack >= 0):
        raise BadMessage("the header is not four natural numbers")
    cls = MESSAGES.get(kind)
    if cls is None:
        raise BadMessage(f"unknown kind {kind}")
    checks = CHECKS[cls]
    values = parts[_HEAD : _HEAD + len(checks)]
    if len(values) < len(checks):
        raise BadMessage(f"{cls.__name__} has {len(values)} of {len(checks)} fields")
    for place, check in enumerate(checks):
        if not check(values[place]):
            raise BadMessage(f"{cls.__name__}.{FIELDS[cls][place]} has the wrong shape")
    columns = COLUMN_PLACES[cls]
    if columns:
        rows = len(values[columns[0]])
        for place in columns:
            if len(values[place]) != rows:
                raise BadMessage(f"{cls.__name__} has columns of different length")
    message = cls(*values)
    return Header(link, seq, ack), message
