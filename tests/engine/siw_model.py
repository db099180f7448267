# SPDX-License-Identifier: Apache-2.0
"""The kernel's siw as a peer, as strict as it is, in plain Python.

Source: docs/wire/siw.md. A message that siw drops without a word sets ``dropped``; one that it
answers with a Terminate (in its own nibble order) sets ``terminated``. Either ends the stream: siw
knows no half-close, and a FIN while the stream is up is an error to it.
"""

import struct
from collections import deque
from dataclasses import dataclass

from wire import reference

REQUEST_KEY, REPLY_KEY = b"MPA ID Req Frame", b"MPA ID Rep Frame"
M, C, R, S = 0x80, 0x40, 0x20, 0x10
MAX_LIMIT = 128
OWN_PD = 1


class Dropped(Exception):  # noqa: N818
    """siw closes the TCP connection and says nothing."""


class Terminated(Exception):  # noqa: N818
    """siw closes after a Terminate: its control word and what it attaches."""

    def __init__(self, control, attached=b""):
        super().__init__(control)
        self.body = bytes.fromhex(control) + attached


@dataclass
class Region:
    """siw compares the index and the key; the right to read is never checked."""

    memory: bytearray
    to: int
    remote_write: bool = True
    pd: int = OWN_PD


def power_of_two_from(count):
    return 1 << (count - 1).bit_length() if count else 0


class SiwModel:
    def __init__(self, *, is_initiator, ird=16, ord_=16, mss=1460, private_data=b""):
        self.is_initiator = is_initiator
        self.ird, self.ord = ird, ord_
        self.fpdu_limit = mss & ~7
        self.private_data = private_data
        self.peer_private_data = None
        self.crc = False
        self.waits_for_first_fpdu = False
        self.phase = "request" if is_initiator else "awaiting request"
        self.regions = {}
        self.receives = deque()  # sizes of posted receives
        self.received = []  # (opcode, payload) of completed Sends
        self.completed_reads = []
        self.dropped = None
        self.terminated = None
        self.outbox = bytearray()
        self._inbox = bytearray()
        self._waiting = deque()  # FPDUs held until the first inbound one
        self._send_msn = self._read_msn = 1
        self._next_send_msn = self._next_read_msn = 1
        self._tagged = self._untagged = None
        self._reads = deque()  # own: [stag, to, size, collected]
        self._queued_reads = deque()
        self._inbound_reads = 0
        self._pad = 0xA5  # bytes of an earlier message

    # ---- what the application does ----------------------------------------------------------

    @property
    def is_up(self):
        return self.phase == "open"

    def start(self):
        """As initiator: the MPA request, in one segment."""
        data = struct.pack(">HH", self.ird, self.ord) + self.private_data
        self.outbox += REQUEST_KEY + struct.pack(">BBH", S, 2, len(data)) + data
        self.phase = "awaiting reply"

    def send(self, payload, opcode=reference.SEND, stag=0):
        limit = (self.fpdu_limit - 20 - 4) & ~3
        for at in range(0, max(1, len(payload)), limit):
            part = payload[at : at + limit]
            header = reference.control(opcode, at + limit >= len(payload))
            header += struct.pack(">IIII", stag, 0, self._send_msn, at)
            self._emit(header + part)
        self._send_msn += 1

    def write(self, stag, to, payload):
        self._emit_tagged(reference.WRITE, stag, to, payload)

    def read(self, sink_stag, sink_to, size, source_stag, source_to):
        """Posted; goes out when a slot is free. siw may use the next power of two."""
        self._queued_reads.append((sink_stag, sink_to, size, source_stag, source_to))
        self._start_reads()

    def end_of_stream(self):
        """A FIN: there is no half-close with siw."""
        if self.phase not in ("closed",):
            self.dropped = self.dropped or "FIN"
            self.phase = "closed"

    # ---- what the link does -----------------------------------------------------------------

    def deliver(self, data):
        """Bytes from the peer. After the end they go nowhere."""
        if self.phase == "closed":
            return
        self._inbox += data
        try:
            if self.phase == "awaiting request":
                self._take_request()
            if self.phase == "awaiting reply":
                self._take_reply()
            while self.phase == "open" and self._take_fpdu():
                pass
        except Dropped as reason:
            self.dropped = str(reason)
            self.phase = "closed"
        except Terminated as terminate:
            self.terminated = terminate.body
            self._write(reference.control(7) + struct.pack(">IIII", 0, 2, 1, 0) + terminate.body)
            self.phase = "closed"

    def take(self):
        data = bytes(self.outbox)
        self.outbox.clear()
        return data

    # ---- start-up ---------------------------------------------------------------------------

    def _frame(self, key):
        """One MPA frame, or None; bytes behind the announced end are fatal."""
        if len(self._inbox) < 20:
            return None
        flags, revision, length = struct.unpack_from(">BBH", self._inbox, 16)
        if length > 256:
            raise Dropped("private data of more than 256 bytes")
        if len(self._inbox) < 20 + length:
            return None
        if len(self._inbox) > 20 + length:
            raise Dropped("bytes behind the MPA frame")
        frame = bytes(self._inbox)
        self._inbox.clear()
        if frame[:16] != key:
            raise Dropped("wrong key") if key == REQUEST_KEY else Terminated("02040000")
        return flags, revision, frame[20:]

    def _take_request(self):
        frame = self._frame(REQUEST_KEY)
        if frame is None:
            return
        flags, revision, data = frame
        if revision > 2:
            raise Dropped("revision above 2")
        enhanced = revision == 2 and flags & S
        if flags & M or (enhanced and len(data) < 4):
            words = bytes(4) if enhanced and len(data) >= 4 else b""
            self.outbox += REPLY_KEY + struct.pack(">BBH", flags & ~M | R, revision, len(words))
            self.outbox += words
            raise Dropped("markers" if flags & M else "no enhanced data")
        words = b""
        if enhanced:
            first, second = struct.unpack_from(">HH", data)
            data = data[4:]
            peer_ird, peer_ord = min(first & 0x3FFF, MAX_LIMIT), min(second & 0x3FFF, MAX_LIMIT)
            self.ird, self.ord = max(self.ird, peer_ord), min(self.ord, peer_ird)
            first, second = self.ird, self.ord | (second & 0xC000 if first & 0x8000 else 0)
            if struct.unpack_from(">H", frame[2])[0] & 0x8000:
                self.waits_for_first_fpdu = True
                first |= 0x8000
                second = self.ord | (0x8000 if second & 0x8000 or not second & 0x4000 else 0x4000)
            words = struct.pack(">HH", first, second)
        else:
            self.ird = self.ord = 0
        self.crc = bool(flags & C)
        self.peer_private_data = data
        # The header of the request is edited in place and sent back, reserved bits and all.
        self.outbox += REPLY_KEY + struct.pack(
            ">BBH", flags, revision, len(words) + len(self.private_data)
        )
        self.outbox += words + self.private_data
        self.phase = "open"

    def _take_reply(self):
        frame = self._frame(REPLY_KEY)
        if frame is None:
            return
        flags, revision, data = frame
        if flags & R:
            raise Dropped("rejected")
        if flags & M or revision != 2 or not flags & S or len(data) < 4:
            raise Dropped("unusable reply")
        first, second = struct.unpack_from(">HH", data)
        if second & 0x3FFF > max(self.ird, MAX_LIMIT):
            raise Terminated("02060000")
        self.ird, self.ord = second & 0x3FFF, first & 0x3FFF
        self.crc = bool(flags & C)
        self.peer_private_data = data[4:]
        self.phase = "open"

    # ---- FPDUs in ---------------------------------------------------------------------------

    def _take_fpdu(self):
        if len(self._inbox) < 4:
            return False
        length, ddp, rdmap = struct.unpack_from(">HBB", self._inbox)
        self._check_control(length, ddp, rdmap)
        size = 2 + length + -(2 + length) % 4 + 4
        if len(self._inbox) < size:
            return False
        fpdu = bytes(self._inbox[:size])
        del self._inbox[:size]
        if self.crc and reference.crc_bytes(fpdu[:-4]) != fpdu[-4:]:
            raise Terminated("02020000")
        self._take_ulpdu(fpdu[2 : 2 + length])
        if self.waits_for_first_fpdu:
            self.waits_for_first_fpdu = False
            while self._waiting:
                self._write(self._waiting.popleft())
        return True

    @staticmethod
    def _check_control(length, ddp, rdmap):
        if ddp & 3 != 1:
            raise Terminated("11040000" if ddp & 0x80 else "21060000")
        if rdmap >> 6 != 1:
            raise Terminated("20050000")
        opcode = rdmap & 15
        if opcode > 7:
            raise Terminated("20060000")
        if bool(ddp & 0x80) is not (opcode in reference.TAGGED_OPCODES):
            raise Dropped("tagged bit")
        header = {reference.READ_REQUEST: 46, reference.WRITE: 14, reference.READ_RESPONSE: 14}
        if length < header.get(opcode, 18):
            raise Terminated("02030000")
        if opcode == reference.READ_REQUEST and length > 46:
            raise Dropped("long Read Request")

    def _take_ulpdu(self, ulpdu):
        opcode, is_last = ulpdu[1] & 15, bool(ulpdu[0] & 0x40)
        if opcode in reference.TAGGED_OPCODES:
            stag, to = struct.unpack_from(">IQ", ulpdu, 2)
            payload = ulpdu[14:]
            attached = struct.pack(">H", len(payload)) + ulpdu[:14]
            if self._tagged is not None and self._tagged[0] != opcode:
                raise Dropped("a tagged message changed its opcode")
            if opcode == reference.WRITE:
                self._take_write(stag, to, payload, attached)
            else:
                self._take_response(stag, to, payload, is_last, attached)
            self._tagged = None if is_last else (opcode, stag, to + len(payload))
            return
        attached = struct.pack(">H", len(ulpdu) - 18) + ulpdu[:18]
        reserved, queue, msn, mo = struct.unpack_from(">IIII", ulpdu, 2)
        if opcode == reference.TERMINATE:
            raise Dropped(f"peer's Terminate {ulpdu[18:22].hex()}")
        if opcode == reference.READ_REQUEST:
            self._take_read_request(ulpdu, queue, msn, attached)
            return
        self._take_send(opcode, reserved, queue, msn, mo, ulpdu[18:], is_last, attached)

    def _take_write(self, stag, to, payload, attached):
        if not payload:
            return
        if self._tagged is not None and self._tagged[1:] != (stag, to):
            raise Terminated("11000300" if self._tagged[1] != stag else "11010300", attached)
        region = self.regions.get(stag)
        if region is None or not region.remote_write:
            raise Terminated("11000300", attached)
        if region.pd != OWN_PD:
            raise Terminated("11020300", attached)
        start = to - region.to
        if start < 0 or start + len(payload) > len(region.memory):
            raise Terminated("11010300", attached)
        region.memory[start : start + len(payload)] = payload

    def _take_response(self, stag, to, payload, is_last, attached):
        if not self._reads:
            raise Terminated("01000300", attached)
        read = self._reads[0]
        if stag != read[0]:
            raise Terminated("11000300", attached)
        end = len(read[3]) + len(payload)
        if to != read[1] + len(read[3]) or end > read[2] or (is_last and end != read[2]):
            raise Terminated("11010300", attached)
        read[3].extend(payload)
        if is_last:
            self.completed_reads.append(bytes(self._reads.popleft()[3]))
            self._start_reads()

    def _take_send(self, opcode, stag, queue, msn, mo, payload, is_last, attached):
        if queue != 0:
            raise Terminated("21010300", attached)
        if msn != self._next_send_msn:
            raise Terminated("21030300", attached)
        if self._untagged is None:
            if mo != 0:
                raise Terminated("21040300", attached)
            if not self.receives:
                raise Terminated("21020300", attached)
            self._untagged = [opcode, bytearray()]
        if self._untagged[0] != opcode:
            raise Dropped("a Send changed its opcode")
        collected = self._untagged[1]
        if mo != len(collected):
            raise Terminated("21040300", attached)
        if mo + len(payload) > self.receives[0]:
            raise Terminated("21020300", attached)
        collected.extend(payload)
        if not is_last:
            return
        if opcode in (reference.SEND_INVALIDATE, reference.SEND_SOLICITED_INVALIDATE):
            region = self.regions.get(stag)
            if region is None:
                raise Terminated("20090300", attached)
            if region.pd != OWN_PD:
                raise Terminated("10090700", attached)
            del self.regions[stag]
        self.receives.popleft()
        self.received.append((opcode, bytes(collected)))
        self._untagged = None
        self._next_send_msn += 1

    def _take_read_request(self, ulpdu, queue, msn, attached):
        if queue != 1:
            raise Terminated("21010300", attached)
        if msn != self._next_read_msn:
            raise Terminated("21030300", attached)
        if self._inbound_reads >= power_of_two_from(self.ird):
            raise Terminated("20070300", attached)
        self._next_read_msn += 1
        sink_stag, sink_to, size, stag, to = struct.unpack(">IQIIQ", ulpdu[18:46])
        payload = b""
        if size:
            region = self.regions.get(stag)
            echoed = b"\0\0" + ulpdu[:10] + struct.pack(">II", size, 0) + ulpdu[18:46]
            if region is None:
                raise Terminated("10000700", echoed)
            if region.pd != OWN_PD:
                raise Terminated("10030700", echoed)
            start = to - region.to
            if start < 0 or start + size > len(region.memory):
                raise Terminated("10010700", echoed)
            payload = bytes(region.memory[start : start + size])
        self._emit_tagged(reference.READ_RESPONSE, sink_stag, sink_to, payload)

    # ---- FPDUs out --------------------------------------------------------------------------

    def _start_reads(self):
        while self._queued_reads and len(self._reads) < power_of_two_from(self.ord):
            sink_stag, sink_to, size, source_stag, source_to = self._queued_reads.popleft()
            header = reference.control(reference.READ_REQUEST)
            header += struct.pack(">IIII", 0, 1, self._read_msn, 0)
            self._emit(
                header + struct.pack(">IQIIQ", sink_stag, sink_to, size, source_stag, source_to)
            )
            self._read_msn += 1
            self._reads.append([sink_stag, sink_to, size, bytearray()])

    def _emit_tagged(self, opcode, stag, to, payload):
        limit = (self.fpdu_limit - 16 - 4) & ~3
        for at in range(0, max(1, len(payload)), limit):
            part = payload[at : at + limit]
            header = reference.control(opcode, at + limit >= len(payload))
            self._emit(header + struct.pack(">IQ", stag, to + at) + part)

    def _emit(self, ulpdu):
        if self.waits_for_first_fpdu:
            self._waiting.append(ulpdu)
        else:
            self._write(ulpdu)

    def _write(self, ulpdu):
        framed = struct.pack(">H", len(ulpdu)) + ulpdu
        # Small messages go through a buffer whose pad bytes are not cleared.
        pad = -len(framed) % 4
        framed += bytes([self._pad if len(ulpdu) <= 50 else 0]) * pad
        self.outbox += framed + (reference.crc_bytes(framed) if self.crc else bytes(4))
