# SPDX-License-Identifier: Apache-2.0
"""Writes the seed corpora of the fuzz targets from the golden bytes of the tests.

Run with tests/ and the built package on the path after a target's input format has changed:
``PYTHONPATH=tests python tests/fuzz/make_corpus.py``.
"""

import itertools
import json
import struct
from pathlib import Path

from ndverbs import _testing
from wire import reference

CORPUS = Path(__file__).parent / "corpus"
STREAM_VECTORS = Path(__file__).parent.parent / "stream" / "vectors"
WINDOW, WINDOW_TO = 0x1100, 0x1000
INITIATOR, CRC, RTR_READ, ESTABLISHED = 0x01, 0x02, 0x0C, 0x40


def save(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def fed(stream, cut=0):
    """A stream as feed commands of connection.cpp."""
    out = bytearray()
    while stream:
        quarter = min(63, (len(stream) - 1) // 4)
        size = 1 + 4 * quarter
        out += bytes([cut << 6 | quarter]) + stream[:size]
        stream = stream[size:]
    return bytes(out)


def framed(*ulpdus):
    """ULPDUs that the target itself puts into FPDUs."""
    return b"".join(bytes([0x80 | len(u) >> 8, len(u) & 0xFF]) + u for u in ulpdus)


def sink_stags(count):
    """The STags that the engine of connection.cpp gives to its reads."""
    engine = _testing.Engine(is_initiator=True, seed=1)
    for context in range(count):
        engine.post_read(context, [(0, 4)], WINDOW, WINDOW_TO)
    engine.begin(0)
    ulpdus = [ulpdu for ulpdu, _ in reference.split_fpdus(engine.transmit())[0]]
    return [struct.unpack_from(">I", ulpdu, 18)[0] for ulpdu in ulpdus[1:]]


def connection_inputs():
    for crc in (False, True):
        settings = ESTABLISHED | (CRC if crc else 0)
        label = "crc" if crc else "plain"
        write = reference.tagged(reference.WRITE, WINDOW, WINDOW_TO, b"payload", crc=crc)
        parts = reference.tagged(
            reference.WRITE, WINDOW, WINDOW_TO, bytes(600), last=False, crc=crc
        ) + reference.tagged(reference.WRITE, WINDOW, WINDOW_TO + 600, bytes(5), crc=crc)
        send = reference.untagged(reference.SEND, 0, 1, 0, b"hello", crc=crc)
        two = reference.untagged(
            reference.SEND, 0, 1, 0, b"abcd", last=False, crc=crc
        ) + reference.untagged(reference.SEND, 0, 1, 4, b"ef", crc=crc)
        invalidate = reference.untagged(
            reference.SEND_INVALIDATE, 0, 1, 0, b"x", reserved=0x4400, crc=crc
        )
        read = reference.read_request(1, 7, 0, 900, WINDOW, WINDOW_TO, crc=crc)
        stag = sink_stags(1)[0]
        response = reference.tagged(reference.READ_RESPONSE, stag, 0, bytes(100), crc=crc)
        terminate = reference.untagged(
            reference.TERMINATE, 2, 1, payload=bytes.fromhex("20020000"), crc=crc
        )
        atomics = b"".join(
            reference.atomic_request(
                msn, 7, WINDOW, WINDOW_TO + 8, 5, operation=operation, operand_mask=mask, crc=crc
            )
            for msn, operation, mask in ((1, 0, 0), (2, 2, reference.ALL_BITS), (3, 0, 1 << 31))
        )
        yield f"{label}-atomics", bytes([settings | 0x10]) + fed(atomics)
        yield (
            f"{label}-atomic-not-aligned",
            bytes([settings])
            + fed(reference.atomic_request(1, 7, WINDOW, WINDOW_TO + 4, 5, crc=crc)),
        )
        yield (
            f"{label}-immediate",
            bytes([settings]) + fed(write + reference.immediate(9, 1, crc=crc)),
        )
        yield (
            f"{label}-immediate-parts",
            bytes([settings])
            + fed(
                parts + reference.immediate(9, 1, opcode=reference.IMMEDIATE_SOLICITED, crc=crc), 1
            ),
        )
        answers = response + reference.atomic_response(sink_stags(2)[1], 42, crc=crc)
        for command in (0xD2, 0xD3):
            yield (
                f"{label}-atomic-response-{command:x}",
                bytes([settings | INITIATOR, command, 0xC9]) + fed(answers) + b"\xc9",
            )
        yield f"{label}-send-immediates", bytes([settings | INITIATOR]) + b"\xd0\xf1\xe9\xe9\xc9"
        for cut in range(2):
            yield f"{label}-write-{cut}", bytes([settings]) + fed(write, cut)
            yield f"{label}-send-{cut}", bytes([settings]) + fed(send, cut)
        yield f"{label}-write-parts", bytes([settings | 0x20]) + fed(parts)
        yield f"{label}-send-parts", bytes([settings]) + fed(two) + b"\xc0"
        yield f"{label}-invalidate", bytes([settings]) + fed(invalidate)
        yield f"{label}-read", bytes([settings | 0x20]) + fed(read) + b"\xc8\xc8\xca\xc9"
        yield f"{label}-response", bytes([settings | INITIATOR]) + b"\xc9" + fed(response)
        yield f"{label}-opening", bytes([settings | INITIATOR | RTR_READ]) + b"\xc3\xc4\xc2\xc9"
        yield f"{label}-terminate", bytes([settings]) + fed(terminate)
        yield (
            f"{label}-pause",
            bytes([settings])
            + fed(send)
            + fed(reference.untagged(reference.SEND, 0, 2, 0, b"two", crc=crc))
            + b"\xc5\xc0\xc9\xc6",
        )
    untagged = struct.pack(">IIII", 0, 0, 1, 0)
    window = struct.pack(">IQ", WINDOW, WINDOW_TO)
    for flags in (0, CRC, INITIATOR, INITIATOR | CRC):
        settings = bytes([ESTABLISHED | flags])
        yield (
            f"framed-{flags:02x}-messages",
            settings
            + framed(
                reference.control(reference.SEND, False) + untagged + b"abc",
                reference.control(reference.SEND) + struct.pack(">IIII", 0, 0, 1, 3) + b"abc",
                reference.control(reference.WRITE, False) + window + bytes(59),
                reference.control(reference.WRITE) + struct.pack(">IQ", WINDOW, WINDOW_TO + 59),
            ),
        )
        for size in (33, 4000):
            # A slow link, so that the responses take several steps; then the window goes.
            read = (
                settings
                + b"\xe9"
                + framed(
                    reference.control(reference.READ_REQUEST)
                    + struct.pack(">IIIIIQIIQ", 0, 1, 1, 0, 7, 0, size, WINDOW, WINDOW_TO)
                )
            )
            yield f"framed-{flags:02x}-read-{size}", read + b"\xe9\xe9\xea\xe9"
        yield (
            f"framed-{flags:02x}-read-invalidate",
            read
            + framed(
                reference.control(reference.SEND_INVALIDATE)
                + struct.pack(">IIII", 0x9900, 0, 1, 0)
                + b"x"
            ),
        )
        large = bytearray(framed(reference.control(reference.WRITE) + window))
        large[0] |= 0x20
        yield f"framed-{flags:02x}-large", settings + bytes(large) * 3
        yield (
            f"framed-{flags:02x}-responses",
            settings
            + b"\xc1\xc9"
            + framed(
                *(
                    reference.control(reference.READ_RESPONSE)
                    + struct.pack(">IQ", stag, 0)
                    + bytes(n)
                    for stag, n in zip(sink_stags(2), (100, 8), strict=True)
                )
            ),
        )
    for vector in reference.load_vectors("fpdu")["vectors"]:
        if vector["crc"] is not None:
            stream = bytes.fromhex(vector["bytes"] + vector["crc"])
            yield f"vector-{vector['name']}", bytes([ESTABLISHED | CRC]) + fed(stream)
    for vector in reference.load_vectors("terminate")["complete"]:
        stream = bytes.fromhex(vector["bytes"] + vector["crc"])
        yield f"vector-{vector['name']}", bytes([ESTABLISHED | CRC]) + fed(stream)


def stream_inputs():
    """Connection data, then commands of stream.cpp as words: message, descriptor, send, ..."""
    vectors = json.loads((STREAM_VECTORS / "rsockets.json").read_text())
    words = [bytes.fromhex(vector["bytes"]) for vector in vectors["message_words"]]
    (second_half,) = (bytes.fromhex(vector["bytes"]) for vector in vectors["descriptors"])

    def command(code, argument=0):
        return struct.pack("=I", argument << 4 | code)

    for vector in vectors["connection_data"]:
        for settings in (command(15, 7), command(14, 7)):
            start = settings + bytes.fromhex(vector["bytes"])
            data = command(4) + command(0) + words[0] + command(5, 3) + command(6, 9)
            granted = command(10) + second_half + command(1) + words[1] + command(3, 50)
            end = command(7) + command(0) + words[3] + command(7, 1) + command(4)
            name = f"{vector['name']}-{settings[0]:02x}"
            yield f"{name}-data", start + data
            yield f"{name}-granted", start + granted + data
            yield f"{name}-end", start + data + end


def direct_inputs():
    """Settings, then commands of direct.cpp: what the peer writes, what this end does, steps."""

    def command(code, choice=0, *numbers):
        return bytes([choice << 5 | code]) + b"".join(numbers)

    def u8(number):
        return struct.pack("=B", number)

    step = command(31, 5)
    short_step = command(31, 1)
    receives = b"".join(command(20, kind) for kind in range(4))
    second, supplied, posted = 1, 2, 4

    def small(choice=0, text=b"hello"):
        return command(0, choice, u8(len(text)), text)

    def large(choice, size):
        return command(1, choice, struct.pack("=H", size))

    def any_slot(kind, marks, length, value, choice=1, away=0):
        return command(2, choice, struct.pack("=BBIBh", kind, marks, length, value, away))

    def requests(code, flags=0):
        return b"".join(command(code, choice, u8(flags)) for choice in range(8))

    offers = b"".join(command(7, n, struct.pack("=HI", 100 * n, 30000)) for n in range(8))
    takes = command(5)
    for settings in (0, second, supplied, posted):
        head = bytes([settings]) + receives + step
        label = f"{settings:02x}"
        yield f"{label}-messages", head + small() + small(3) + large(0, 41) + step + small(2) + step
        yield f"{label}-fragments", head + large(4, 9000) * 2 + step + large(0, 2000) + step
        yield f"{label}-waits", head + small() * 6 + step + receives + command(21, 6) + step
        yield f"{label}-cut", head + large(4, 900) + command(22) + step
        yield (
            f"{label}-kinds",
            head + b"".join(any_slot(kind, 0, 30, 0) + step for kind in (3, 4, 0, 9)),
        )
        yield f"{label}-immediates", head + any_slot(4, 1, 2**31, 7) * 2 + step
        for value in range(4):
            yield f"{label}-invalidates-{value}", head + any_slot(1, 2, 5, value) + step
    answers = b"".join(
        command(5) + command(29, choice, struct.pack("=H", 30000)) + step for choice in range(3)
    )
    for way, flags in itertools.product((0, 8, 16), (0, 16, 1, 4, 8, 32)):
        head = bytes([way])
        label = f"{way:02x}-{flags:02x}"
        for code in range(13, 18):
            yield f"request-{code}-{label}", head + requests(code, flags) + step + answers
        if flags in (0, 1, 16):
            sends = requests(12, flags)
            yield f"sends-{label}", head + sends + step + takes + step
            yield f"placed-{label}", head + offers + sends + step + takes + step
            slowly = (short_step + takes) * 20
            yield f"placed-{label}-slowly", head + offers + sends + slowly
    for choice in range(8):
        asked = command(28, choice, struct.pack("=HI", 24, 600))
        yield f"asked-{choice}", b"\4" + asked + step + asked * 2 + short_step + takes + step
    yield "closing", b"\0" + offers + sends + command(9, 1) + sends + requests(13) + step
    yield (
        "closing-while-placed",
        b"\0" + offers + sends[:2] + short_step + command(9, 1) + short_step + command(22) + step,
    )
    yield "lies", b"\0" + sends + command(6, 4, struct.pack("=QQ", 1 << 40, 7)) + sends
    yield (
        "verdict",
        b"\4" + small() + sends + command(8, 0, struct.pack("=I", 0x80010200)) + step + sends,
    )
    yield "local", b"\4" + command(18, 3) + command(18, 5) + command(18, 5) + step
    yield "invalidation", b"\0" + command(12, 1, u8(1)) + requests(13) + step + takes + step
    # In the middle of a step: the length of a slot, the peer's end.
    for offset in (0, 8, 64, 192):
        yield (
            f"meanwhile-{offset:02x}",
            b"\4"
            + command(4, 0, struct.pack("=IB", offset, 8), b"\1" * 8)
            + any_slot(1, 2, 5, 2)
            + requests(13)
            + step * 2,
        )
    for code in (23, 24, 25, 26):
        yield (
            f"end-{code}",
            b"\4" + sends + large(4, 900) + step + command(code, 5) + small() + step,
        )
    yield "held", b"\4" + command(10, 2, u8(0), u8(0)) + command(25, 5) + step * 3
    yield (
        "sleep",
        b"\0" + command(27) + small() + command(10, 1, u8(7), u8(2)) + sends + command(27),
    )


def main():
    for name, data in direct_inputs():
        save("direct", name, data)
    for name, data in stream_inputs():
        save("stream", name, data)
    for name, data in connection_inputs():
        save("connection", name, data)
    for vector in reference.load_vectors("mpa")["vectors"]:
        frame = bytes.fromhex(vector["bytes"])
        is_reply = vector["header"]["kind"] == "reply"
        for settings in (0x0E, 0x56) if not is_reply else (0x0F, 0x17):
            save("handshake", f"{vector['name']}-{settings:02x}", bytes([settings, 200]) + frame)
    for vector in reference.load_vectors("terminate")["complete"]:
        stream = bytes.fromhex(vector["bytes"])
        body = stream[20 : 2 + struct.unpack_from(">H", stream)[0]]
        save("terminate", vector["name"], bytes([vector["before_first_fpdu"]]) + body)


if __name__ == "__main__":
    main()
