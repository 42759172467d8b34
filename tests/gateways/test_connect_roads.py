"""Both roads of the edge say the same to generated JSON and of generated answers, around the length MAX_DEPTH."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from insula.schema.json_text import MAX_DEPTH
from tests.gateways.conftest import SCHEMA, Shop, open_shop
from tests.schema.strategies import broken, values


@st.composite
def _things(draw: st.DrawFn) -> bytes:
    """A thing, or nearly one, as JSON whose length is about that from which a text is checked before it is read."""
    thing = draw(values(SCHEMA, "Thing"))
    if draw(st.integers(0, 3)) == 0:
        thing = draw(broken(thing))
    text = json.dumps(thing, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if isinstance(thing, dict) and draw(st.booleans()):
        levels = draw(st.sampled_from([1, 95, 96, 97, 98, 99, 199, 200]))
        text = b'{"deep":' + b"[" * levels + b"]" * levels + (b"," + text[1:] if thing else b"}")
    text += b" " * (draw(st.integers(MAX_DEPTH - 2, MAX_DEPTH + 2)) - len(text))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw(st.sampled_from([b"\xff", b"\xed\xa0\x80", b"[", b'"', b"\\ud800"])) + text[at + 1 :]
    return text


async def _said(shop: Shop, body: bytes, answer: bytes, later: bool) -> tuple[int, bytes, list[bytes]]:
    """Status and body, and what reached the service."""
    shop.echo.calls.clear()
    shop.echo.pending.clear()
    shop.echo.asked.clear()
    shop.echo.answer, shop.echo.later = answer, later
    asking = asyncio.ensure_future(shop.post(body, headers={"x-request-id": "one"}))
    if later:
        asked = asyncio.ensure_future(shop.echo.asked.wait())  # unless the body is refused before
        await asyncio.wait((asked, asking), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        for pending, call in zip(shop.echo.pending, shop.echo.calls, strict=True):
            pending.set_result(shop.echo.reply(call))
    told: httpx.Response = await asking
    return told.status_code, told.content, [call.payload for call in shop.echo.calls]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_both_roads_say_the_same_to_generated_json(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    statuses = set()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened = [open_shop(lane) for lane in (False, True)]
        ordinary, lane = [runner.run(each.__aenter__()) for each in opened]

        @settings(max_examples=60, deadline=None)
        @given(body=_things(), answer=_things(), later=st.booleans())
        @example(b"[" * (MAX_DEPTH + 1), b"{}", False)
        @example(b"{}", b"[" * (MAX_DEPTH + 1), False)
        @example(b'{"x":"\xff"}', b"{}", False)
        @example(b"{}", b'{"x":"\xff"}', False)
        @example(b'{"name":"a"}', b'{"name":"b"}', True)
        def same(body: bytes, answer: bytes, later: bool) -> None:
            said = runner.run(_said(ordinary, body, answer, later))
            assert runner.run(_said(lane, body, answer, later)) == said
            assert runner.run(_said(lane, body, answer, not later)) == said
            statuses.add(said[0])

        try:
            same()
        finally:
            for each in opened:
                runner.run(each.__aexit__(None, None, None))
    assert statuses == {200, 400, 500}
