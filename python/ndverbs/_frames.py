# SPDX-License-Identifier: Apache-2.0
"""What the frames of an iWARP stream say: MPA's start-up frames and FPDUs, field by field.

For programs that show captures; connections are made by C++ (src/iwarp), to which the tests hold
this. RFC 5044 sections 4 and 7, RFC 5041 section 4, RFC 5040 section 4, RFC 6581 section 9 and RFC
7306 sections 5 and 6.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

from ndverbs._native import _terminate_text

# "opcode" is the RFC's name of the frame; fields have the RFCs' names, in the order of the wire.
Fields: TypeAlias = "dict[str, int | str]"

_MPA = struct.Struct(">16sBBH")
_KEYS = {b"MPA ID Req Frame": "MPA Request", b"MPA ID Rep Frame": "MPA Reply"}
_MAX_PRIVATE_DATA = 512
_OPCODES = (
    "RDMA Write",
    "RDMA Read Request",
    "RDMA Read Response",
    "Send",
    "Send with Invalidate",
    "Send with Solicited Event",
    "Send with Solicited Event and Invalidate",
    "Terminate",
    "Immediate Data",
    "Immediate Data with Solicited Event",
    "Atomic Request",
    "Atomic Response",
)
_INVALIDATES = (4, 6)
_TERMINATE = 7
_CONTROL = struct.Struct(">HBB")
_Layout: TypeAlias = "tuple[struct.Struct, tuple[str, ...]]"
_TAGGED: _Layout = (struct.Struct(">IQ"), ("stag", "to"))
_UNTAGGED: _Layout = (struct.Struct(">IIII"), ("invalidate_stag", "queue_number", "msn", "mo"))
_BODIES: dict[int, _Layout] = {
    1: (struct.Struct(">IQIIQ"), ("sink_stag", "sink_to", "size", "source_stag", "source_to")),
    8: (struct.Struct(">II"), ("value", "rest")),
    9: (struct.Struct(">II"), ("value", "rest")),
    10: (
        struct.Struct(">IIIQQQQQ"),
        (
            "operation",
            "request_id",
            "stag",
            "to",
            "operand",
            "operand_mask",
            "compare",
            "compare_mask",
        ),
    ),
    11: (struct.Struct(">IQ"), ("request_id", "value")),
}
_ATOMIC_OPERATIONS = {0: "FetchAdd", 2: "CmpSwap"}
# As numbers of memory are written; other fields are decimal.
_HEXADECIMAL = {"stag": 8, "to": 16, "value": 1, "operand": 1, "compare": 1, "mask": 16}


def begins_start_up(data: bytes) -> bool:
    """Return whether the first bytes of a stream, however few, may be MPA's."""
    return any(key.startswith(data[: len(key)]) for key in _KEYS)


def start_up_size(data: bytes) -> int | None:
    """Return the size of the start-up frame that begins the data; None: not known yet, 0: none."""
    if not begins_start_up(data):
        return 0
    if len(data) < _MPA.size:
        return None
    length: int = _MPA.unpack_from(data)[3]
    return _MPA.size + length if length <= _MAX_PRIVATE_DATA else 0


def fpdu_size(data: bytes) -> int | None:
    """Return the size of the FPDU that begins the data, with pad and CRC; None: not known yet."""
    if len(data) < 2:
        return None
    length = 2 + int.from_bytes(data[:2], "big")
    return length + -length % 4 + 4


def start_up(frame: bytes) -> Fields:
    """Return what a whole start-up frame says; its private data is in hexadecimal."""
    key, flags, revision, length = _MPA.unpack_from(frame)
    fields: Fields = {"opcode": _KEYS[key], "revision": revision}
    said = [name for bit, name in _START_UP_FLAGS if flags & bit]
    private = frame[_MPA.size :]
    if flags & 0x10 and length >= 4:
        ird, ord_ = struct.unpack_from(">HH", private)
        said += [name for bit, name in _IRD_FLAGS if ird & bit]
        said += [name for bit, name in _ORD_FLAGS if ord_ & bit]
        fields |= {"ird": ird & 0x3FFF, "ord": ord_ & 0x3FFF}
        private = private[4:]
    if said:
        fields["flags"] = ",".join(said)
    fields["length"] = len(private)
    if private:
        fields["private_data"] = private.hex()
    return fields


_START_UP_FLAGS = ((0x80, "markers"), (0x40, "crc"), (0x20, "reject"))
_IRD_FLAGS = ((0x8000, "peer_to_peer"), (0x4000, "rtr_send"))
_ORD_FLAGS = ((0x8000, "rtr_write"), (0x4000, "rtr_read"))


def fpdu(frame: bytes, *, is_first: bool = False) -> Fields:
    """Return what a whole FPDU says, the first of its direction or a later one.

    ``length`` is that of the payload, ``last`` is 1 at the end of a message. What is shorter than
    its opcode needs has ``malformed`` with the reason.
    """
    ulpdu, ddp, rdmap = _CONTROL.unpack_from(frame)
    end = 2 + ulpdu
    if end < _CONTROL.size:
        return {"opcode": "FPDU", "malformed": f"{ulpdu} bytes are shorter than a header"}
    opcode = rdmap & 15
    known = opcode < len(_OPCODES)
    fields: Fields = {"opcode": _OPCODES[opcode] if known else f"opcode {opcode}"}
    at = _CONTROL.size
    parts = [_TAGGED if ddp & 0x80 else _UNTAGGED]
    if opcode in _BODIES and not ddp & 0x80:
        parts.append(_BODIES[opcode])
    for layout, names in parts:
        if end - at < layout.size:
            fields["malformed"] = f"{ulpdu} bytes are shorter than its header"
            return fields
        fields |= zip(names, layout.unpack_from(frame, at), strict=True)
        at += layout.size
    if opcode not in _INVALIDATES and not fields.get("invalidate_stag"):
        fields.pop("invalidate_stag", None)
    if "operation" in fields:
        operation = int(fields["operation"]) & 15
        fields["operation"] = _ATOMIC_OPERATIONS.get(operation, operation)
    if opcode == _TERMINATE:
        fields |= _terminate(frame[at:end], is_first)
    if fields.get("rest") == 0:
        del fields["rest"]  # of eight bytes, what no immediate value of ours has
    return fields | {"length": end - at, "last": ddp >> 6 & 1}


def _terminate(body: bytes, is_first: bool) -> Fields:
    """Return the error that a Terminate reports (RFC 5040 section 4.8)."""
    if len(body) < 4:
        return {"malformed": f"{len(body)} bytes are shorter than its control word"}
    first, code, flags = body[:3]
    high, low = first >> 4, first & 15
    layer, kind = (low, high) if _is_swapped(first, code, flags, is_first) else (high, low)
    meaning = terminate_meaning(layer, kind, code) or "unknown error"
    return {"error": f"{layer}/{kind}/{code:02x}", "meaning": meaning}


def terminate_meaning(layer: int, kind: int, code: int) -> str | None:
    """Return what layer, type and code of a Terminate mean; None where no RFC has them."""
    meaning = _terminate_text(layer, kind, code).partition(": ")[2].rpartition(" (")[0]
    return None if meaning == "unknown error" else meaning


def _is_swapped(first: int, code: int, flags: int, is_first: bool) -> bool:
    """Return whether a control word is in siw's order: docs/wire/iwarp.md#terminate."""
    if flags & 0xE0:
        return False
    if flags & 0x07 or first == 0x21:
        return True
    if first == 0x02:
        return code <= 4 or (code <= 7 and is_first)
    return first == 0x20 and (code >= 8 or (code in (5, 6) and not is_first))


def text(fields: Fields) -> str:
    """Return the fields in one line."""
    words = [f"{fields['opcode']}:"]
    for name, value in fields.items():
        if name == "last":
            words += [name] * bool(value)
        elif name != "opcode":
            width = _HEXADECIMAL.get(name.rpartition("_")[2])
            words.append(f"{name} {value:#0{2 + width}x}" if width else f"{name} {value}")
    return " ".join(words)
