# SPDX-License-Identifier: Apache-2.0
"""FPDUs built by an independent reading of the RFCs, to compare the C++ against.

Nothing here calls ndverbs. The CRC is the bit-by-bit definition of CRC-32C; headers are put
together with struct from RFC 5044 section 4, RFC 5041 section 4, RFC 5040 section 4 and RFC 7306
sections 5 and 6.
"""

import json
import struct
from pathlib import Path

VECTORS = Path(__file__).parent / "vectors"

WRITE, READ_REQUEST, READ_RESPONSE, SEND = 0, 1, 2, 3
SEND_INVALIDATE, SEND_SOLICITED, SEND_SOLICITED_INVALIDATE, TERMINATE = 4, 5, 6, 7
IMMEDIATE, IMMEDIATE_SOLICITED, ATOMIC_REQUEST, ATOMIC_RESPONSE = 8, 9, 10, 11
TAGGED_OPCODES = (WRITE, READ_RESPONSE)
FETCH_ADD, COMPARE_SWAP = 0, 2
ALL_BITS = 2**64 - 1


def load_vectors(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def crc32c(data, start=0):
    """Bit by bit: polynomial 0x1EDC6F41 reflected, all ones in, inverted out."""
    crc = start ^ 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def crc_bytes(data):
    """The CRC as it goes on the wire: the one little-endian field of MPA."""
    return struct.pack("<I", crc32c(data))


def fpdu(ulpdu, crc=True):
    """ULPDU_Length, ULPDU, zero pad to a multiple of four, CRC (zero when off)."""
    framed = struct.pack(">H", len(ulpdu)) + ulpdu
    framed += bytes(-len(framed) % 4)
    return framed + (crc_bytes(framed) if crc else bytes(4))


def control(opcode, last=True, ddp_version=1, rdmap_version=1, tagged=None):
    if tagged is None:
        tagged = opcode in TAGGED_OPCODES
    return bytes(
        [(0x80 if tagged else 0) | (0x40 if last else 0) | ddp_version, rdmap_version << 6 | opcode]
    )


def tagged(opcode, stag, to, payload=b"", *, last=True, crc=True):
    """A whole FPDU of an RDMA Write or Read Response."""
    return fpdu(control(opcode, last) + struct.pack(">IQ", stag, to) + payload, crc)


def untagged(opcode, queue, msn, mo=0, payload=b"", *, last=True, reserved=0, crc=True):
    """A whole FPDU of a Send kind, Read Request or Terminate."""
    header = control(opcode, last) + struct.pack(">IIII", reserved, queue, msn, mo)
    return fpdu(header + payload, crc)


def read_request(msn, sink_stag, sink_to, size, source_stag, source_to, *, crc=True):
    body = struct.pack(">IQIIQ", sink_stag, sink_to, size, source_stag, source_to)
    return untagged(READ_REQUEST, 1, msn, payload=body, crc=crc)


def immediate(value, msn, *, opcode=IMMEDIATE, crc=True):
    return untagged(opcode, 0, msn, payload=struct.pack(">II", value, 0), crc=crc)


def atomic_request(
    msn,
    request_id,
    stag,
    to,
    operand,
    *,
    operation=FETCH_ADD,
    operand_mask=0,
    compare=0,
    compare_mask=ALL_BITS,
    crc=True,
):
    body = struct.pack(
        ">IIIQQQQQ", operation, request_id, stag, to, operand, operand_mask, compare, compare_mask
    )
    return untagged(ATOMIC_REQUEST, 1, msn, payload=body, crc=crc)


def atomic_response(request_id, value, msn=1, *, queue=3, crc=True):
    return untagged(
        ATOMIC_RESPONSE, queue, msn, payload=struct.pack(">IQ", request_id, value), crc=crc
    )


def split_fpdus(stream):
    """Cut a byte stream into (ULPDU, CRC bytes) pairs and the rest that is no whole FPDU."""
    found = []
    at = 0
    while len(stream) - at >= 2:
        (length,) = struct.unpack_from(">H", stream, at)
        size = 2 + length + -(2 + length) % 4 + 4
        if len(stream) - at < size:
            break
        found.append((stream[at + 2 : at + 2 + length], stream[at + size - 4 : at + size]))
        at += size
    return found, stream[at:]
