"""Messages to bytes and back. Rules of this file: nothing but shape; what it returns is safe to use.

A message is one msgpack array: kind, link, seq, ack, then the fields in order. Fields a newer peer
adds at the end are ignored. Nothing here runs code from the wire: msgpack extension types are refused.
"""

from __future__ import annotations

from typing import Any

import msgpack

from cluster.actor import Header
from cluster.config import MAX_MESSAGE_BYTES
from cluster.messages import CHECKS, FIELDS, MESSAGES, BadMessage, Message

_HEAD = 4


def _no_extensions(code: int, data: bytes) -> Any:
    raise BadMessage("extension types are not part of the protocol")


def encode(header: Header, message: Message) -> bytes:
    cls = type(message)
    out: bytes = msgpack.packb([cls.KIND, *header, *[getattr(message, name) for name in FIELDS[cls]]])
    return out


def decode(raw: bytes | memoryview) -> tuple[Header, Message]:
    """Header and message; :class:`BadMessage` names what is wrong, and nothing else is ever raised."""
    if len(raw) > MAX_MESSAGE_BYTES:
        raise BadMessage(f"{len(raw)} bytes are over the limit of {MAX_MESSAGE_BYTES}")
    try:
        parts: Any = msgpack.unpackb(raw, strict_map_key=True, ext_hook=_no_extensions)
    except BadMessage:
        raise
    except Exception as e:
        raise BadMessage(f"not msgpack: {type(e).__name__}") from None
    if type(parts) is not list or len(parts) < _HEAD:
        raise BadMessage("not an array with a header")
    kind, link, seq, ack = parts[:_HEAD]
    if not (type(kind) is type(link) is type(seq) is type(ack) is int) or min(link, seq, ack) < 0:
        raise BadMessage("the header is not four natural numbers")
    cls = MESSAGES.get(kind)
    if cls is None:
        raise BadMessage(f"unknown kind {kind}")
    names, checks = FIELDS[cls], CHECKS[cls]
    values = parts[_HEAD : _HEAD + len(names)]
    if len(values) < len(names):
        raise BadMessage(f"{cls.__name__} has {len(values)} of {len(names)} fields")
    for check, value in zip(checks, values, strict=True):
        if not check(value):
            wrong = next(n for n, c, v in zip(names, checks, values, strict=True) if not c(v))
            raise BadMessage(f"{cls.__name__}.{wrong} has the wrong shape")
    message = cls(*values)
    if cls.COLUMNS:
        first, *others = cls.COLUMNS
        length = len(getattr(message, first))
        for name in others:
            if len(getattr(message, name)) != length:
                raise BadMessage(f"{cls.__name__} has columns of different length")
    return Header(link, seq, ack), message
