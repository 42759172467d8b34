"""The memo keeps what is asked for again, within its bounds."""

from __future__ import annotations

from insula.edge import header_memo
from insula.edge.exchange import Head, Route
from insula.edge.header_memo import MAX_BLOCK, MAX_BLOCKS, MAX_BYTES, HeaderMemo, Known
from insula.edge.metrics import RouteStats
from tests.edge.conftest import Probe


def known() -> Known:
    probe = Probe()
    return Known(Head("POST", b"/a", b"", []), 0, "", Route(probe, "/a"), (), probe.answer, RouteStats(), ())


def test_what_is_put_in_is_found_by_the_same_bytes_alone() -> None:
    memo, one = HeaderMemo(), known()
    memo.put(b"POST /a", one)
    assert memo.get(b"POST /a") is one
    assert memo.get(b"POST /A") is None
    memo.forget()
    assert memo.get(b"POST /a") is None
    assert len(memo) == 0


def test_blocks_are_bounded_and_the_ones_in_use_stay() -> None:
    memo, used, one = HeaderMemo(), b"in use", known()
    memo.put(used, one)
    for n in range(10 * MAX_BLOCKS):
        memo.put(b"%d" % n, one)
        if n % 500 == 0:
            assert memo.get(used) is one
    assert len(memo) <= 2 * MAX_BLOCKS


def test_of_what_is_older_nothing_is_kept_either() -> None:
    """It may lead to a service that is gone."""
    memo, one = HeaderMemo(), known()
    for n in range(MAX_BLOCKS + 10):
        memo.put(b"%d" % n, one)
    assert len(memo) == MAX_BLOCKS + 10
    assert b"0" not in memo.young
    memo.forget()
    assert len(memo) == 0
    assert memo.get(b"0") is None
    for n in range(MAX_BYTES // MAX_BLOCK):  # all of the room is there again
        memo.put(b"%04d" % n + b"x" * (MAX_BLOCK - 4), one)
    assert len(memo.young) == MAX_BYTES // MAX_BLOCK


def test_bytes_are_bounded() -> None:
    memo, one = HeaderMemo(), known()
    memo.put(b"x" * (MAX_BLOCK + 1), one)
    assert len(memo) == 0
    for n in range(2000):
        memo.put(b"%04d" % n + b"x" * (MAX_BLOCK - 4), one)
    assert len(memo) * MAX_BLOCK <= 2 * MAX_BYTES
    assert header_memo.MAX_BYTES // MAX_BLOCK < MAX_BLOCKS
