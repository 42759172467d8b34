"""`okra.state` as a guest sees it: parameters in, data out, over a real database."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from insula.calls import Call, ServiceId
from insula.errors import PackageError
from insula.host import parameters as module
from insula.host.contract import HostError
from insula.host.scope import Scope
from insula.host.state import StateCapability
from insula.storage.database import Database
from insula.storage.guest_state import StateRepository

SERVICE = ServiceId("shop", "Counter", "v1")


class Guest:
    """A service that calls the host."""

    def __init__(self, capability: StateCapability, service: ServiceId = SERVICE) -> None:
        self._operations = capability.configure(service, {}).okra
        self._service = service

    async def raw(self, method: str, parameters: bytes, seconds: float = 30) -> bytes:
        call = Call(self._service, "m", b"{}", time.monotonic() + seconds)
        answer = self._operations[method](Scope(self._service, call), parameters)
        return answer if isinstance(answer, bytes) else await answer

    async def call(self, method: str, **parameters: Any) -> Any:
        return json.loads(await self.raw(method, json.dumps(parameters).encode()))

    async def refused(self, method: str, **parameters: Any) -> HostError:
        with pytest.raises(HostError) as caught:
            await self.call(method, **parameters)
        return caught.value


@pytest.fixture
async def capability(tmp_path: Path) -> AsyncIterator[StateCapability]:
    database = await Database.open(f"sqlite:///{tmp_path}/state.db")
    yield StateCapability(StateRepository(database))
    await database.close()


@pytest.fixture
def guest(capability: StateCapability) -> Guest:
    return Guest(capability)


async def test_a_value_comes_back_with_version_and_time(guest: Guest) -> None:
    value = {"name": "Ünï", "list": [1, 2.5, None, True], "big": 9007199254740993}
    written = await guest.call("set", key="a/b:c-d_e", value=value)
    assert written["data"] == value
    assert written["version"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", written["lastModified"])

    assert await guest.call("get", key="a/b:c-d_e") == written
    assert (await guest.call("set", key="a/b:c-d_e", value=None))["version"] == 2
    assert (await guest.call("get", key="a/b:c-d_e"))["data"] is None


async def test_what_is_absent_is_null(guest: Guest) -> None:
    assert await guest.raw("get", b'{"key":"nothing"}') == b"null"
    assert await guest.raw("delete", b'{"key":"nothing"}') == b"null"


async def test_the_text_of_a_value_is_kept(guest: Guest) -> None:
    text = b'{"a":1.0,"a":12345678901234567890123,"b":"\\u0000\\u00e9"}'
    await guest.raw("set", b'{"key":"k","value":' + text + b"}")

    assert (await guest.raw("get", b'{"key":"k"}')).startswith(b'{"data":' + text + b',"version":1,')


async def test_conditions_are_conflicts(guest: Guest) -> None:
    await guest.call("set", key="k", value=1, options={"ifAbsent": True})
    assert (await guest.refused("set", key="k", value=2, options={"ifAbsent": True})).code == "CONFLICT"
    assert (await guest.refused("set", key="k", value=2, options={"ifVersion": 7})).code == "CONFLICT"
    assert (await guest.refused("delete", key="k", options={"ifVersion": 7})).code == "CONFLICT"
    assert (await guest.call("set", key="k", value=2, options={"ifVersion": 1, "ttl": 60.5}))["version"] == 2
    assert await guest.call("delete", key="k", options={"ifVersion": 2}) is None
    assert await guest.call("get", key="k") is None


async def test_lists_in_pages(guest: Guest) -> None:
    for key in ("b/2", "a", "b/1", "b/3", "c"):
        await guest.call("set", key=key, value=0)

    assert await guest.call("list", prefix="") == {"keys": ["a", "b/1", "b/2", "b/3", "c"]}
    first = await guest.call("list", prefix="b/", options={"limit": 2})
    assert first["keys"] == ["b/1", "b/2"]
    rest = await guest.call("list", prefix="b/", options={"limit": 2, "cursor": first["cursor"]})
    assert rest == {"keys": ["b/3"]}


async def test_increments(guest: Guest) -> None:
    assert await guest.raw("increment", b'{"key":"n"}') == b"1"
    assert await guest.raw("increment", b'{"key":"n","delta":9007199254740992}') == b"9007199254740993"
    assert await guest.raw("increment", b'{"key":"n","delta":-9007199254740990}') == b"3"
    assert await guest.raw("increment", b'{"key":"n","delta":0.5}') == b"3.5"
    await guest.call("set", key="text", value="1")
    assert (await guest.refused("increment", key="text")).code == "CONFLICT"
    assert (await guest.refused("increment", key="top", delta=1 << 63)).code == "INVALID_PARAMETERS"


@pytest.mark.parametrize(
    ("method", "parameters", "place"),
    [
        ("get", {}, "key"),
        ("get", {"key": 1}, "$.key"),
        ("get", {"key": "a", "keys": 1}, "keys"),
        ("get", {"key": "no spaces"}, "key"),
        ("get", {"key": ""}, "key"),
        ("get", {"key": "a\n"}, "key"),
        ("set", {"key": "k" * 513, "value": 1}, "key"),
        ("set", {"key": "k"}, "value"),
        ("set", {"key": "k", "value": 1, "options": {"ttl": 0}}, "$.options.ttl"),
        ("set", {"key": "k", "value": 1, "options": {"ttl": "1"}}, "$.options.ttl"),
        ("set", {"key": "k", "value": 1, "options": {"ifversion": 1}}, "$.options"),
        ("set", {"key": "k", "value": 1, "options": {"ifVersion": 1, "ifAbsent": True}}, "ifVersion"),
        ("list", {"prefix": "%"}, "prefix"),
        ("list", {"prefix": "", "options": {"limit": 0}}, "$.options.limit"),
        ("list", {"prefix": "", "options": {"limit": 1001}}, "$.options.limit"),
        ("list", {"prefix": "", "options": {"cursor": "' or 1"}}, "cursor"),
        ("increment", {"key": "k", "delta": True}, "$.delta"),
    ],
)
async def test_wrong_parameters_name_the_place(
    guest: Guest, method: str, parameters: dict[str, Any], place: str
) -> None:
    error = await guest.refused(method, **parameters)
    assert error.code == "INVALID_PARAMETERS"
    assert place in error.message


@pytest.mark.parametrize(
    "parameters",
    [
        b'{"key":"k","value":"\xff"}',
        b'{"key":"k","value":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"key":"k","value":01}',
        b"[]",
        b"",
    ],
)
async def test_what_is_not_json_is_refused(guest: Guest, parameters: bytes) -> None:
    with pytest.raises(HostError) as caught:
        await guest.raw("set", parameters)
    assert caught.value.code == "INVALID_PARAMETERS"


@pytest.mark.parametrize(
    "value",
    [
        b"1e999",
        b"-1E+999",
        b"1e309",
        b'{"a":[0,"x",{"b":1e00999}]}',
        b"1" * 310,
        b"[-" + b"9" * 400 + b".5]",
        b"1" * 215 + b"e99",
        b'["e100",' + b"1e300," * 20_000 + b"2e308]",
    ],
)
async def test_a_number_that_no_reader_can_take_is_refused(guest: Guest, value: bytes) -> None:
    with pytest.raises(HostError, match="out of range") as caught:
        await guest.raw("set", b'{"key":"k","value":' + value + b"}")
    assert caught.value.code == "INVALID_PARAMETERS"
    assert await guest.call("get", key="k") is None


@pytest.mark.parametrize(
    "value",
    [
        b"1.7976931348623157e308",
        b"-1.7976931348623157E+308",
        b"1e-999",
        b"0e999",
        b'"1e999"',
        b'["\\"1e999\\\\",{"1e999":"\\\\\\"1e999"}]',
        b"1" * 308,
        b"[" + b"1e300," * 20_000 + b'"1e999"]',
    ],
)
async def test_every_number_that_a_double_holds_is_kept(guest: Guest, value: bytes) -> None:
    await guest.raw("set", b'{"key":"k","value":' + value + b"}")
    assert (await guest.raw("get", b'{"key":"k"}')).startswith(b'{"data":' + value + b',"version":1,')


async def test_who_sets_many_large_values_with_large_numbers_holds_no_thread_of_others(
    capability: StateCapability, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's own threads, where modules are loaded, are left alone."""
    go = threading.Event()
    check = module._check_each

    def slow(value: bytes) -> None:
        assert b"other" in value or go.wait(30)
        check(value)

    monkeypatch.setattr(module, "_check_each", slow)
    text = b'{"key":"k","value":["%b",' + b"1e300," * 5_000 + b"0]}"
    greedy, other = Guest(capability), Guest(capability, ServiceId("shop", "Other", "v1"))
    asking = [asyncio.ensure_future(greedy.raw("set", text % b"greedy")) for _ in range(40)]
    async with asyncio.timeout(10):
        assert b'"version":1' in await other.raw("set", text % b"other")
        assert await asyncio.to_thread(str, 1) == "1"
    refused = [each.exception() for each in asking if each.done()]
    assert {error.code for error in refused if isinstance(error, HostError)} == {"UNAVAILABLE"}
    assert len(refused) == 8
    asking[5].cancel()  # its call has ended
    go.set()
    done = await asyncio.gather(*asking, return_exceptions=True)
    assert sum(isinstance(each, bytes) for each in done) == 31
    assert b'"version":32' in await greedy.raw("set", text % b"greedy")


@pytest.mark.parametrize("delta", [b"1e999", b"1e309", b"9223372036854775808", b"1" * 400, b'"1"', b"null1"])
async def test_a_delta_out_of_range_is_refused(guest: Guest, delta: bytes) -> None:
    with pytest.raises(HostError) as caught:
        await guest.raw("increment", b'{"key":"k","delta":' + delta + b"}")
    assert caught.value.code == "INVALID_PARAMETERS"


async def test_a_sum_out_of_range_is_refused(guest: Guest) -> None:
    await guest.raw("set", b'{"key":"k","value":1.7e308}')
    assert (await guest.refused("increment", key="k", delta=1.7e308)).code == "INVALID_PARAMETERS"
    assert (await guest.call("get", key="k"))["data"] == 1.7e308


@pytest.mark.parametrize(
    "value", [rb'"\ud800"', rb'"\udc00"', rb'"\ud800\u0041"', rb'["\udc00\ud800"]', rb'{"\ud83dx":1}']
)
async def test_half_of_a_pair_of_surrogates_is_refused(guest: Guest, value: bytes) -> None:
    """Also in keys of the value, and in a key of the state."""
    for parameters in (b'{"key":"k","value":' + value + b"}", b'{"key":' + value + b',"value":1}'):
        with pytest.raises(HostError) as caught:
            await guest.raw("set", parameters)
        assert caught.value.code == "INVALID_PARAMETERS"
    await guest.raw("set", rb'{"key":"k","value":"\ud83d\ude00\\ud800"}')


async def test_a_value_over_a_mebibyte_is_refused(guest: Guest) -> None:
    await guest.call("set", key="k", value="x" * ((1 << 20) - 2))
    assert (await guest.refused("set", key="k", value="x" * ((1 << 20) - 1))).code == "LIMIT_EXCEEDED"


async def test_a_call_without_time_left_is_a_timeout(guest: Guest) -> None:
    with pytest.raises(HostError) as caught:
        await guest.raw("increment", b'{"key":"k"}', seconds=-1)
    assert caught.value.code == "TIMEOUT"
    assert await guest.call("get", key="k") is None


async def test_services_and_versions_do_not_see_each_other(capability: StateCapability) -> None:
    await Guest(capability).call("set", key="k", value=1)

    for other in (ServiceId("shop", "Counter", "v2"), ServiceId("shop", "Orders", "v1")):
        assert await Guest(capability, other).call("get", key="k") is None


def test_a_package_may_write_no_options(capability: StateCapability) -> None:
    with pytest.raises(PackageError, match="quota"):
        capability.configure(SERVICE, {"quota": 1})
