"""Every shape that two readers may understand in two ways is refused, the same way on both roads, and nothing behind it is
taken for a request."""

from __future__ import annotations

import pytest

from insula.edge.framing import Framing, framing_of
from insula.edge.last_words import Last
from insula.edge.limits import ConnectionLimits
from tests.edge.conftest import answers, statuses
from tests.edge.roads import CLOSE, post, roads

QUICK = ConnectionLimits(keep_alive_timeout=0.3, linger=0.3)

#: A body that is whole both as five bytes and as chunks, and what an attacker hides behind it.
HIDDEN = b"5\r\nhello\r\n0\r\n\r\n" + post(b"stolen")

#: Fields of a head, and how it is refused.
FIELDS: dict[str, tuple[bytes, int]] = {
    # two codings, or one in two places
    "transfer-encoding twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
    "transfer-encoding twice, apart": (b"Transfer-Encoding: chunked\r\nX-A: 1\r\ntransfer-encoding: chunked", 400),
    "identity, then chunked": (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", 501),
    "chunked, then identity": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
    "gzip, then chunked": (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
    "gzip, then chunked, apart": (b"transfer-encoding: gzip\r\nX-A: 1\r\nTransfer-Encoding: chunked", 501),
    "gzip, then chunked twice": (b"Transfer-Encoding: gzip, chunked\r\nTransfer-Encoding: chunked", 400),
    "gzip between": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 400),
    "empty, then chunked": (b"Transfer-Encoding:\r\nTransfer-Encoding: chunked", 400),
    "chunked, then empty": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding:", 400),
    "chunked twice in one": (b"Transfer-Encoding: chunked, chunked", 400),
    "chunked is not the last": (b"Transfer-Encoding: chunked, gzip", 400),
    "chunked is the last of two": (b"Transfer-Encoding: gzip, chunked", 501),
    "chunked behind nothing": (b"Transfer-Encoding: ,chunked", 501),
    "chunked before nothing": (b"Transfer-Encoding: chunked,", 400),
    "identity": (b"Transfer-Encoding: identity", 501),
    "no coding": (b"Transfer-Encoding: ", 400),
    "an unknown coding": (b"Transfer-Encoding: xchunked", 501),
    "a quoted coding": (b'Transfer-Encoding: "chunked"', 501),
    "a coding with a parameter": (b"Transfer-Encoding: chunked;q=1", 501),
    "a coding behind a vertical tab": (b"Transfer-Encoding: \x0bchunked", 400),
    "a coding before a NUL": (b"Transfer-Encoding: chunked\0", 400),
    "a coding in a continued line": (b"Transfer-Encoding:\r\n chunked", 400),
    # a length and a coding, or two lengths
    "length and coding": (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
    "coding and length": (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
    "two lengths": (b"Content-Length: 5\r\nContent-Length: 6", 400),
    "the same length twice": (b"Content-Length: 5\r\nContent-Length: 5", 400),
    "a list of lengths": (b"Content-Length: 5, 5", 400),
    "a length with a sign": (b"Content-Length: +5", 400),
    "a negative length": (b"Content-Length: -5", 400),
    "a hexadecimal length": (b"Content-Length: 0x5", 400),
    "a length with an underscore": (b"Content-Length: 0_5", 400),
    "a length in two parts": (b"Content-Length: 5 5", 400),
    "an empty length": (b"Content-Length: ", 400),
    "a length over 64 bits": (b"Content-Length: 18446744073709551621", 400),
    "a length in other digits": ("Content-Length: ٥".encode(), 400),
    "a length in a continued line": (b"Content-Length: 5\r\n 0", 400),
    # lines and names
    "a continued line": (b"X-A: a\r\n b", 400),
    "a blank before the colon": (b"Transfer-Encoding : chunked", 400),
    "a tab before the colon": (b"Content-Length\t: 5", 400),
    "a blank before the name": (b" Content-Length: 5", 400),
    "a line feed alone": (b"X-A: a\nTransfer-Encoding: chunked", 400),
    "a carriage return alone": (b"X-A: a\rTransfer-Encoding: chunked", 400),
    "a carriage return before a field": (b"\rContent-Length: 5", 400),
    "a NUL in a value": (b"X-A: a\0b", 400),
    "a NUL in a name": (b"X\0A: a", 400),
    "a control character in a value": (b"X-A: a\x01b", 400),
    "a line without a colon": (b"X-A", 400),
    "a line without a name": (b": 5", 400),
    "two hosts": (b"Host: b\r\nContent-Length: 5", 400),
    "the same host twice": (b"Host: a\r\nContent-Length: 5", 400),
}


@pytest.mark.parametrize("shape", FIELDS)
async def test_a_head_that_may_be_read_in_two_ways_is_refused(shape: str) -> None:
    fields, status = FIELDS[shape]
    head = b"POST /do HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n%b\r\n\r\n" % fields
    async with roads(QUICK) as both:
        for pieces in ((head + HIDDEN,), (head, HIDDEN), (post(b"first") + head + HIDDEN,)):
            said = await both.same(*pieces)
            first = [200] if pieces[0].startswith(post(b"first")) else []
            assert statuses(said) == [*first, status], shape
            assert [body for _, _, body in both.told[0].asked] == [b"first"] * len(first)
            assert answers(said)[-1][1][b"connection"] == b"close"


@pytest.mark.parametrize(
    "codings",
    [
        *(b"x,chunked", b"identity,chunked", b"x,y", b"chunked,chunked", b"chunked,x", b"chunked,"),
        *(b"x,chunked,chunked", b"chunked,x,chunked", b"x,CHUNKED"),
    ],
)
async def test_codings_in_several_lines_are_refused_as_in_one(codings: bytes) -> None:
    async with roads(QUICK) as both:
        for version in (b"1.1", b"1.0"):
            heads = [
                b"POST /do HTTP/%b\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n"
                % (version, codings.replace(b",", between))
                for between in (b", ", b"\r\nTransfer-Encoding: ", b"\r\nX-A: 1\r\ntransfer-encoding:")
            ]
            said = {await both.same(head + HIDDEN) for head in heads}
            assert [statuses(each) for each in said] == [[400 if b"chunked," in codings else 501]]
            assert both.told[0].asked == []


#: Chunked bodies, from the first size on.
CHUNKS: dict[str, bytes] = {
    "a size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a size with a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "a size over 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "a blank behind the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "a blank before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "a line feed alone behind the size": b"5\nhello\r\n0\r\n\r\n",
    "a carriage return alone behind the size": b"5\rhello\r\n0\r\n\r\n",
    "no line end behind the chunk": b"5\r\nhello0\r\n\r\n",
    "a line feed alone behind the chunk": b"5\r\nhello\n0\r\n\r\n",
    "a chunk that is longer than it says": b"4\r\nhello\r\n0\r\n\r\n",
    "a line feed alone behind the last chunk": b"5\r\nhello\r\n0\n\n",
    "a NUL in an extension": b"5;a=\0\r\nhello\r\n0\r\n\r\n",
    "a line feed in an extension": b"5;a=\nb\r\nhello\r\n0\r\n\r\n",
    "a coding in the trailer": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a length in the trailer": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "a host in the trailer": b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n",
    "a continued line in the trailer": b"5\r\nhello\r\n0\r\nX-A: a\r\n b\r\n\r\n",
    "a blank before the colon in the trailer": b"5\r\nhello\r\n0\r\nX-A : a\r\n\r\n",
    "a NUL in the trailer": b"5\r\nhello\r\n0\r\nX-A: a\0b\r\n\r\n",
    "a line feed alone in the trailer": b"5\r\nhello\r\n0\r\nX-A: a\n\r\n",
}


@pytest.mark.parametrize("shape", CHUNKS)
async def test_a_body_that_may_be_read_in_two_ways_is_refused(shape: str) -> None:
    head = b"POST /do HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with roads(QUICK) as both:
        for pieces in ((head + CHUNKS[shape] + post(b"stolen"),), (head, CHUNKS[shape], post(b"stolen"))):
            said = await both.same(*pieces)
            assert statuses(said) == [400], shape
            assert both.told[0].asked == []


async def test_blanks_around_a_value_are_no_part_of_it() -> None:
    """A length, a coding, an expectation and whatever a handler reads."""
    async with roads(QUICK) as both:
        for fields in (b"Content-Length:5 \r\n", b"Content-Length: \t5\t \r\n", b"Content-Length: 05\r\n"):
            head = b"POST /do HTTP/1.1\r\nHost: a \r\nContent-Type:\ttext/plain \t\r\n%b\r\n" % fields
            said = await both.same(head + b"hello" + CLOSE)
            assert [body for _, _, body in answers(said)] == [b"hello", b"bye"]
            assert dict(both.told[0].asked[0][1])[b"content-type"] == b"text/plain"
        head = b"POST /do HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:  CHUNKED \r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"
        assert [body for _, _, body in answers(await both.same(head + CLOSE))] == [b"hello", b"bye"]


@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        ("1.1", [(b"host", b"a")], Framing(-1, None, True)),
        ("1.1", [(b"host", b"a"), (b"content-length", b"007")], Framing(7, None, False)),
        ("1.1", [(b"host", b"a"), (b"upgrade", b"H2C")], Framing(-1, b"h2c", True)),
        ("1.1", [(b"host", b"a"), (b"upgrade", b"h2c"), (b"content-length", b"00")], Framing(0, b"h2c", True)),
        ("1.1", [(b"host", b"a"), (b"upgrade", b"h2c"), (b"content-length", b"1")], Framing(1, b"h2c", False)),
        (
            "1.1",
            [(b"host", b"a"), (b"upgrade", b"h2c"), (b"transfer-encoding", b"chunked")],
            Framing(-1, b"h2c", False),
        ),
        ("1.1", [], Last.HOST),
        ("1.0", [], Framing(-1, None, True)),
        ("1.0", [(b"transfer-encoding", b"chunked")], Last.TRANSFER_CODING),
        ("1.1", [(b"host", b"a"), *[(b"transfer-encoding", each) for each in (b"chunked", b"x")]], Last.MALFORMED),
        (
            "1.1",
            [(b"host", b"a"), *[(b"transfer-encoding", each) for each in (b"x", b"Chunked")]],
            Last.TRANSFER_CODING,
        ),
        ("2.0", [(b"host", b"a")], Last.VERSION),
    ],
)
def test_what_follows_from_a_head(version: str, headers: list[tuple[bytes, bytes]], expected: Framing | Last) -> None:
    assert framing_of(version, b"/", headers) == expected
