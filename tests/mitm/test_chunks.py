"""Chunks that are read together: what they say, and where they are broken, is what h11 makes of them one by one."""

from __future__ import annotations

import pytest
from h11 import Data, EndOfMessage, ProtocolError
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer

from sidestep.mitm.protocols import JoinedChunks

BODIES = {
    "small chunks": b"3\r\nabc\r\n1\r\nd\r\n2\r\nef\r\n0\r\n\r\n",
    "one by one": b"".join(b"1\r\n%c\r\n" % (97 + i) for i in range(20)) + b"0\r\n\r\n",
    "large and small letters": b"A\r\n0123456789\r\nb\r\n0123456789a\r\n00c\r\n0123456789ab\r\n0\r\n\r\n",
    "line ends inside": b"6\r\n\r\n1\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "extensions": b"1\r\na\r\n2;n=v\r\nbc\r\n3 \r\ndef\r\n1\r\ng\r\n0\r\n\r\n",
    "trailers": b"1\r\na\r\n0\r\nname: value\r\n\r\n",
    "an end of many zeros": b"1\r\na\r\n000\r\n\r\n",
    "more after the end": b"1\r\na\r\n0\r\n\r\n1\r\nb\r\n",
    "no length": b"1\r\na\r\n\r\n0\r\n\r\n",
    "a sign": b"1\r\na\r\n-1\r\nb\r\n",
    "a prefix": b"1\r\na\r\n0x1\r\nb\r\n",
    "longer than it says": b"1\r\na\r\n1\r\nbc\r\n1\r\nd\r\n0\r\n\r\n",
    "shorter than it says": b"1\r\na\r\n4\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
    "a line end alone": b"1\r\na\r\n1\nb\r\n0\r\n\r\n",
    "a line end too few": b"1\r\na\r\n1\r\nb\n0\r\n\r\n",
    "a long length": b"1\r\na\r\n123456789\r\nb",
    "cut off": b"1\r\na\r\n5\r\nab",
}


def read(reader: ChunkedReader, reads: list[bytes], *, joined: bool) -> tuple[bytes, object, list[int]]:
    """What was read, how that ended, how many bytes came at a time."""
    buffer, body, sizes = ReceiveBuffer(), b"", list[int]()
    for data in reads:
        buffer += data
        if joined:
            JoinedChunks.adopt(reader)
        while True:
            try:
                event = reader(buffer)
            except ProtocolError as e:
                return body, type(e), sizes
            if event is None:
                break
            if isinstance(event, EndOfMessage):
                return body, (event.headers.raw_items(), bytes(buffer)), sizes
            assert isinstance(event, Data)
            body += bytes(event.data)
            sizes.append(len(event.data))
    return body, bytes(buffer), sizes


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_read_is_what_h11_reads(body: bytes) -> None:
    ways = [[body], [body[i : i + 1] for i in range(len(body))]]
    ways += [[body[:cut], body[cut:]] for cut in range(len(body))]
    ways += [[body[i : i + 7] for i in range(0, len(body), 7)]]
    for reads in ways:
        expected = read(ChunkedReader(), reads, joined=False)
        assert read(ChunkedReader(), reads, joined=True)[:2] == expected[:2], reads


def test_what_has_come_together_is_given_out_in_few_pieces_and_the_first_does_not_wait() -> None:
    body = b"".join(b"3\r\nabc\r\n" for _ in range(10))
    assert read(ChunkedReader(), [body, body + b"0\r\n\r\n"], joined=True)[2] == [3, 6, 12, 9] * 2
    assert read(ChunkedReader(), [body[:12], body[12:]], joined=True)[2] == [3, 1, 2, 3, 6, 12, 3]
