"""Large requests: read in steps, taken apart without a look at what is large, and never to another meaning."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insula.calls import ServiceId
from insula.host import broker, large
from insula.host.broker import MAX_INLINE, MAX_MESSAGE, Broker
from insula.host.contract import Configured, HostError, LargeOperation, Operation
from insula.host.guest_log import GuestLogs
from insula.host.large import MAX_WHOLE, check_utf8, read_large
from insula.host.log import LogCapability
from insula.host.parameters import read
from insula.host.scope import Scope
from insula.shares import Shares
from tests.host.conftest import Host

LARGEST = MAX_MESSAGE - 1000


class Object(msgspec.Struct):
    name: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    other: msgspec.Raw = msgspec.Raw(b"null")
    number: float | None = None
    flat: dict[str, str] | None = None


DECODER = msgspec.json.Decoder(Object)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
NAMES = ["name", "data", "other", "number", "flat", "unknown"]
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=20),
        "data": JSON,
        "other": JSON,
        "number": st.floats(allow_nan=False, allow_infinity=False),
        "flat": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4),
        "unknown": JSON,
    },
)


def outcome(reader: Any, text: bytes) -> Any:
    """What was read; None where it was refused, or a large member is no JSON, as its reader will find."""
    try:
        found = reader(DECODER, text)
        for member in (found.data, found.other):
            msgspec.json.decode(bytes(member), type=msgspec.Raw)
    except (HostError, msgspec.DecodeError):
        return None
    return [found.name, bytes(found.data), bytes(found.other), found.number, found.flat]


@settings(max_examples=400, deadline=None)
@given(
    MEMBERS,
    st.permutations(["name", "data", "other", "number", "flat", "unknown"]),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_what_is_read_is_what_would_be_read_whole(
    members: dict[str, Any], order: list[str], indent: int | None, ascii_alone: bool
) -> None:
    whole = {name: members[name] for name in order if name in members}
    text = json.dumps(whole, indent=indent, ensure_ascii=ascii_alone).encode(errors="replace")
    right = outcome(read, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "MAX_WHOLE", 10)
        found = outcome(read_large, text)
    assert found is None or found == right or right is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_of_no_json_no_other_value_is_taken_for_small(data: st.DataObject) -> None:
    """What is broken is refused, or its large member is the broken one: what is read of the rest is what is there."""
    text = bytearray(b'{"name":"n","number":5,"data":{"a":[1,"},{\\"","x"],"number":6},"flat":{"a":"b"},"number":7}')
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.sampled_from(b'{}[]",:\\ 1a'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "MAX_WHOLE", 10)
        found = outcome(read_large, bytes(text))
    assert found is None or found == outcome(read, bytes(text))


def test_what_is_behind_is_a_few_small_values() -> None:
    large_one = b'{"name":"n","data":[%b]' % (b"{}," * (MAX_WHOLE // 3) + b"1")
    for end in (b"}", b',"number":1}', b' , "flat" : { "a" : "b" , "c":"" } \n } \n'):
        assert bytes(read_large(DECODER, large_one + end).data).endswith(b"{},1]") or end[:1] != b"}"
    for end in (
        b"",
        b',"flat":{"a":{}}}',
        b',"number":1' * 20 + b"}",
        b"}}",
        b"]",
        b'"',
        b',"unknown":1}x',
        b"}" + b" " * 1000,
    ):
        try:
            found = read_large(DECODER, large_one + end)
        except HostError:
            continue
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(bytes(found.data))


def test_hostile_ends_and_beginnings_take_no_long() -> None:
    """Each of them was made to have a pattern try again and again."""
    for text in (
        b'{"name":"' + b'","name":"' * 400_000,
        b'{"data":' + b',"name":1' * 400_000,
        b'{"data":' + b',"name":{"a":1,"a":1' * 200_000,
        b'{"data":' + b" " * 4_000_000,
        b'{"data":' + b",\t\n\r " * 800_000 + b"}",
        b'{"data":"' + b"\\" * 4_000_001,
        b"{" + b'"a":{"a":1,"a":1},' * 200_000,
        b'{"data":' + b',"name":"' + b"x" * 4_000_000,
        b"{" * 4_000_000,
    ):
        began = time.process_time()
        with pytest.raises(HostError):
            read_large(DECODER, text)
        assert time.process_time() - began < 1.0


async def test_utf8_is_checked_whole_and_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "SLICE", 5)
    for good in (b"", b"x" * 100, "é€😀".encode() * 20):
        await check_utf8(good)
    for bad in (b"\xff" + b"x" * 30, b"x" * 30 + b"\xc3", "€".encode() * 10 + b"\x82", b"\xed\xa0\x80" * 5):
        with pytest.raises(UnicodeDecodeError):
            await check_utf8(bad)


# The broker


class Whole(Configured):
    """`small` is an ordinary operation, `large` takes parameters of any size."""

    name = "test.whole"

    def configure(self, _service: Any, _options: Any, /) -> Configured:
        return self

    @property
    def okra(self) -> Mapping[str, Operation]:
        return {"small": self.size, "large": LargeOperation(self.size), "later": LargeOperation(self.later)}

    def size(self, scope: Scope, parameters: bytes) -> bytes:
        return b"%d" % len(parameters)

    async def later(self, scope: Scope, parameters: bytes) -> bytes:
        return b"%d" % len(parameters)


def request(method: str, size: int, *, filler: bytes = b"{},", behind: bytes = b',"metadata":{}') -> bytes:
    head = b'{"api":"test.whole","method":"%b","parameters":{"a":[' % method.encode()
    times = (size - len(head) - len(behind) - 4) // len(filler)
    return b"%b%b1]}%b}" % (head, filler * times, behind)


async def turns(answer: Any) -> tuple[Any, int]:
    """The answer, and how many turns others had meanwhile."""
    if isinstance(answer, bytes):
        return json.loads(answer), 0
    assert isinstance(answer, Awaitable)
    task = asyncio.ensure_future(answer)
    count = 0
    while not task.done():
        await asyncio.sleep(0)
        count += 1
    return json.loads(task.result()), count


async def test_a_small_request_is_answered_at_once_and_a_large_one_in_steps() -> None:
    host = Host(Whole())
    text = request("small", MAX_INLINE)
    assert isinstance(host.broker.run_host_api(host.scope, text), bytes)
    for size in (MAX_INLINE + 10, MAX_WHOLE):
        answer, _ = await turns(host.broker.run_host_api(host.scope, request("small", size)))
        assert answer["success"]
    for method in ("large", "later"):
        text = request(method, LARGEST, filler='"€",'.encode())
        answer, count = await turns(host.broker.run_host_api(host.scope, text))
        assert answer == {"success": True, "data": len(text) - text.index(b'{"a"') - len(b',"metadata":{}}')}
        assert count >= LARGEST // large.SLICE


async def test_what_an_ordinary_operation_is_given_is_bounded_and_is_json() -> None:
    host = Host(Whole())
    answer, _ = await turns(host.broker.run_host_api(host.scope, request("small", LARGEST)))
    assert (answer["error"]["code"], "at most" in answer["error"]["message"]) == ("LIMIT_EXCEEDED", True)
    broken = request("small", MAX_INLINE + 100).replace(b"{},{},", b"{},{}}", 1)
    answer, _ = await turns(host.broker.run_host_api(host.scope, broken))
    assert answer["error"]["code"] == "INVALID_PARAMETERS"
    bad = request("small", MAX_INLINE + 100, filler=b'"\xff",')
    answer, _ = await turns(host.broker.run_host_api(host.scope, bad))
    assert answer["error"]["code"] == "INVALID_PARAMETERS"
    for text in (request("none", LARGEST), request("large", LARGEST).replace(b"test.whole", b"test.other")):
        answer, _ = await turns(host.broker.run_host_api(host.scope, text))
        assert answer["error"]["code"] in ("METHOD_NOT_FOUND", "API_NOT_FOUND")
    answer = json.loads(host.broker.run_host_api(host.scope, b" " * (MAX_MESSAGE + 1)))  # type: ignore[arg-type]
    assert answer["error"]["code"] == "LIMIT_EXCEEDED"
    answer = json.loads(host.broker.next(host.scope, b'{"iteratorId":"%b"}' % (b"x" * MAX_INLINE)))  # type: ignore[arg-type]
    assert answer["error"]["code"] == "INVALID_PARAMETERS"


async def test_large_requests_of_one_service_are_its_share_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    text = request("later", MAX_INLINE + 1000)
    shares: Shares[ServiceId] = Shares(4 * len(text))
    monkeypatch.setattr(broker, "_in_hand", shares)
    mine, other = Host(Whole()), Broker(ServiceId("shop", "Other", "v1"), {}, frozenset())
    asked = [mine.broker.run_host_api(mine.scope, text) for _ in range(4)]
    asked.append(other.run_host_api(mine.scope, text))
    answers = [json.loads(answer) for answer in await asyncio.gather(*asked)]  # type: ignore[arg-type]
    told = [answer.get("error", {}).get("code") for answer in answers]
    assert told == [None, None, "LIMIT_EXCEEDED", "LIMIT_EXCEEDED", "API_NOT_FOUND"]
    assert shares.free == shares.most
    cancelled = asyncio.ensure_future(mine.broker.run_host_api(mine.scope, text))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert shares.free < shares.most
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert shares.free == shares.most


@pytest.mark.parametrize(
    ("filler", "line"),
    [("x", "x"), ("\\n", "\\n"), ("\\u00e9", "é"), ("€", "€"), ('\\"', '"'), ("\\ud83d\\ude00", "😀")],
)
async def test_the_longest_line_of_a_log(filler: str, line: str, caplog: pytest.LogCaptureFixture) -> None:
    host = Host(LogCapability(GuestLogs()))
    size = LARGEST // len(filler.encode())
    text = '{"api":"okra.log","method":"write","parameters":{"level":"info","message":"%s","context":{"a":"b"}}}' % (
        filler * size
    )
    with caplog.at_level(logging.INFO, "insula.guest"):
        answer, _ = await turns(host.broker.run_host_api(host.scope, text.encode()))
    assert answer == {"success": True, "data": None}
    (record,) = caplog.records
    assert record.getMessage().startswith(line * 500)
    assert "more characters)" in record.getMessage()
    assert len(record.getMessage()) < 20_000


async def test_a_large_context_of_a_log_is_cut_behind_its_message(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(LogCapability(GuestLogs()))
    text = b'{"api":"okra.log","method":"write","parameters":{"context":[%b1],"level":"warn","message":"small"}}'
    with caplog.at_level(logging.INFO, "insula.guest"):
        answer, _ = await turns(host.broker.run_host_api(host.scope, text % (b"{}," * (LARGEST // 3))))
    assert answer == {"success": True, "data": None}
    assert caplog.records[0].getMessage().startswith("small [{},{},")


async def test_a_large_message_that_is_no_string_is_refused() -> None:
    host = Host(LogCapability(GuestLogs()))
    for message in (b"[%b1]" % (b"{}," * (LARGEST // 3)), b'"' + b"\n" * LARGEST + b'"'):
        text = b'{"api":"okra.log","method":"write","parameters":{"level":"info","message":%b}}' % message
        answer, _ = await turns(host.broker.run_host_api(host.scope, text[:MAX_MESSAGE]))
        assert answer["error"]["code"] in ("INVALID_PARAMETERS", "LIMIT_EXCEEDED")
