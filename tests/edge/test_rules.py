"""Rules that wait, that add fields, and what they cost a route that they do not concern: the same bytes over both roads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from insula.calls import Principal
from insula.edge.admission import Draining, Identified, Verdict
from insula.edge.exchange import Head, Route
from insula.edge.limits import ConnectionLimits
from insula.edge.local import Token, from_this_machine
from insula.edge.routes import RouteTable
from insula.errors import Code, InsulaError, LimitError
from insula.plans import Policy
from tests.edge.conftest import answers, statuses, until
from tests.edge.roads import CLOSE, Roads, post, roads

LIMITS = ConnectionLimits(keep_alive_timeout=5.0, linger=0.3)
ADDED = b"\r\nratelimit: 9\r\n"


class Adds:
    """Adds a field to every answer of `/do`."""

    def concerns(self, route: Route) -> bool:
        return route.label == "/do"

    def __call__(self, head: Head, _: Route) -> Verdict:
        head.fields += ((b"ratelimit", b"9"),)
        return None


class Refuses(Adds):
    """Adds a field and refuses."""

    def __call__(self, head: Head, route: Route) -> Verdict:
        super().__call__(head, route)
        return LimitError("too many", retry_after=3)


class Waits:
    """A rule that has to ask somebody: what `then` gives is waited for."""

    def __init__(self, then: Callable[[Head], Awaitable[InsulaError | None]]) -> None:
        self.then = then

    def concerns(self, route: Route) -> bool:
        return route.label == "/do"

    def __call__(self, head: Head, _: Route) -> Verdict:
        return self.then(head)


async def lets_in(head: Head) -> InsulaError | None:
    await asyncio.sleep(0)
    head.principal = Principal("ann", ("admin",))
    head.fields += ((b"x-session", b"s"),)
    return None


async def refuses(head: Head) -> InsulaError | None:
    await asyncio.sleep(0)
    head.fields += ((b"x-session", b"none"),)
    return InsulaError("no session", code=Code.UNAUTHENTICATED)


async def breaks(_: Head) -> InsulaError | None:
    await asyncio.sleep(0)
    raise RuntimeError("a secret")


async def for_ever(_: Head) -> InsulaError | None:
    await asyncio.Event().wait()
    return None


@pytest.fixture
async def here() -> AsyncIterator[Roads]:
    async with roads(LIMITS) as both:
        yield both


def rules(here: Roads, *each: object) -> None:
    for road in here.both:
        road.app.rules = each  # type: ignore[assignment]


BODIES = [
    b"hello",
    b"later 1",
    b"trap",
    b"raise",
    b"refuse",
    b"bad",
    b"status 404",
    b"long 2000",
    b"long 200000",
    b"none",
]


@pytest.mark.parametrize("body", BODIES)
async def test_added_fields_are_on_every_answer(here: Roads, body: bytes) -> None:
    rules(here, Adds())
    said = await here.same(post(body), post(body), CLOSE)
    assert said.count(ADDED) == 3
    rules(here)
    assert ADDED not in await here.same(post(body), post(body), CLOSE)


async def test_refusals_have_them_too(here: Roads) -> None:
    rules(here, Refuses())
    said = await here.same(post(), post(b"x" * 70_000), CLOSE)
    assert statuses(said) == [429, 429, 429]
    assert said.count(ADDED) == 3
    rules(here, Adds(), Draining())
    said = await here.same(post(), CLOSE)
    assert statuses(said) == [503, 503]
    assert said.count(ADDED) == 2
    rules(here, Adds())
    said = await here.same(
        b"PUT /do HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS /do HTTP/1.1\r\nHost: a\r\n\r\n",
        post(fields=b"Content-Encoding: x\r\n"),
        CLOSE,
    )
    assert statuses(said) == [405, 204, 415, 200]
    assert said.count(ADDED) == 4


async def test_an_added_field_is_not_on_the_next_answer(here: Roads) -> None:
    class Second(Adds):
        asked = 0

        def __call__(self, head: Head, route: Route) -> Verdict:
            self.asked += 1
            return super().__call__(head, route) if self.asked == 2 else None

    for road in here.both:
        road.app.rules = (Second(),)
    said = await here.same(post(b"1"), post(b"2"), post(b"3"), CLOSE)
    assert [b"ratelimit" in headers for _, headers, _ in answers(said)] == [False, True, False, False]


@pytest.mark.parametrize("body", BODIES)
async def test_a_rule_that_waits_and_lets_in(here: Roads, body: bytes) -> None:
    rules(here, Waits(lets_in), Identified())
    for road, told in zip(here.both, here.told, strict=True):
        road.app.table = RouteTable(
            [(b"/do", Route(told, "/do", frozenset(("POST",)), Policy(True, ("admin",)), max_body=100_000))]
        )
    said = await here.same(post(body), post(body), CLOSE)
    assert said.count(b"\r\nx-session: s\r\n") == 3
    assert statuses(said)[-1] == 200


async def test_a_rule_that_waits_and_refuses(here: Roads) -> None:
    rules(here, Waits(refuses), Adds())
    said = await here.same(post(), post(b"x" * 70_000), CLOSE)
    assert statuses(said) == [401, 401, 401]
    assert said.count(b"\r\nx-session: none\r\n") == 3
    assert ADDED not in said  # the rules after one that refuses are not asked
    assert all(not told.asked for told in here.told)


async def test_the_rules_after_one_that_waits_may_wait_and_refuse(here: Roads) -> None:
    rules(here, Waits(lets_in), Waits(lets_in), Refuses())
    said = await here.same(post(), CLOSE)
    assert statuses(said) == [429, 429]
    assert said.count(b"\r\nx-session: s\r\nx-session: s" + ADDED) == 2


async def test_a_rule_that_breaks_is_a_whole_500(here: Roads, caplog: pytest.LogCaptureFixture) -> None:
    rules(here, Waits(breaks))
    said = await here.same(post(), CLOSE)
    assert statuses(said) == [500, 500]
    assert b"secret" not in said
    assert "a secret" in caplog.text


async def test_waiting_ends_with_the_time_of_the_route(here: Roads) -> None:
    rules(here, Waits(for_ever))
    for road, told in zip(here.both, here.told, strict=True):
        road.app.table = RouteTable([(b"/do", Route(told, "/do", frozenset(("POST",)), max_body=100, timeout=0.05))])
    said = await here.same(post(), CLOSE)
    assert statuses(said) == [504, 504]
    assert all(not told.asked for told in here.told)


async def test_a_client_that_leaves_while_its_request_of_the_lane_waits_is_given_up(here: Roads) -> None:
    given_up = asyncio.Event()

    async def waits(_: Head) -> InsulaError | None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return None

    here.lane.app.rules = (Waits(waits),)
    _, writer = await here.lane.connect()
    writer.write(post())
    await until(lambda: here.lane.app.metrics.in_flight == 1)
    writer.close()
    async with asyncio.timeout(5):
        await given_up.wait()
    await until(lambda: here.lane.app.metrics.routes["/do"].by_status() == {499: 1})


async def test_the_rules_of_a_port_with_a_token(here: Roads) -> None:
    rules(here, Token("secret", frozenset((b"/read",))))
    said = await here.same(
        post(),
        post(fields=b"Authorization: Bearer other\r\n"),
        post(fields=b"Authorization: bearer secret\r\n"),
        b"PUT /do HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /read HTTP/1.1\r\nHost: a\r\n\r\n",
        CLOSE,
    )
    assert statuses(said) == [401, 401, 200, 401, 401, 200, 401]
    assert said.count(b"\r\nwww-authenticate: Bearer\r\n") == 5
    assert b"secret" not in said


async def test_the_rule_of_a_port_of_this_machine(here: Roads) -> None:
    rules(here, from_this_machine)
    local = post().replace(b"Host: a", b"Host: localhost:8081")
    said = await here.same(
        local,
        local.replace(b"\r\n\r\n", b"\r\nOrigin: http://evil.example\r\n\r\n"),
        local.replace(b"\r\n\r\n", b"\r\nOrigin: http://localhost:8081\r\n\r\n"),
        CLOSE,
    )
    assert [(status, b"bad_" in body) for status, _, body in answers(said)] == [
        (200, False),
        (403, True),
        (200, False),
        (403, True),
    ]


async def test_identity_is_asked_of_calls_alone(here: Roads) -> None:
    rules(here, Identified())
    for road, told in zip(here.both, here.told, strict=True):
        road.app.table = RouteTable([(b"/do", Route(told, "/do", frozenset(("POST",)), Policy(True), max_body=100))])
    said = await here.same(
        post(), b"PUT /do HTTP/1.1\r\nHost: a\r\n\r\n", b"OPTIONS /do HTTP/1.1\r\nHost: a\r\n\r\n", CLOSE
    )
    assert statuses(said) == [401, 405, 204, 401]


async def test_a_rule_is_not_asked_where_it_concerns_nothing(here: Roads) -> None:
    class Never:
        def concerns(self, route: Route) -> bool:
            return route.label != "/do"

        def __call__(self, _: Head, __: Route) -> Verdict:
            raise AssertionError

    rules(here, Never())
    assert statuses(await here.same(post(), CLOSE)) == [200, 200]
    assert statuses(await here.same(post(path=b"/none").replace(b"Host", b"Connection: close\r\nHost"))) == [500]
    lane = here.lane.lane
    assert lane is not None
    assert [known.rules for known in lane.memo.young.values()] == [()]
