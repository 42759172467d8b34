"""Connect unary by plain HTTP: paths, types, headers, deadlines, metadata, errors."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.calls import Principal, Reply
from insula.edge.exchange import Head, Route
from insula.errors import WIRE, CallerError, Code, Detail, InsulaError
from insula.gateways.connect import Kind, kind_of
from insula.gateways.heads import timeout_ms
from tests.gateways.conftest import MAX_BODY, Shop

THING = {"name": "x"}


@pytest.mark.parametrize("prefix", ["", "/connect"])
@pytest.mark.parametrize(("service", "version"), [("shop.Echo", "v1"), ("shop.Echo.v1", "v1"), ("shop.Echo.v0", "v0")])
async def test_paths(shop: Shop, prefix: str, service: str, version: str) -> None:
    answer = await shop.post(THING, path=f"{prefix}/{service}/")
    assert (answer.status_code, answer.json()) == (200, THING)
    assert shop.echo.calls[0].service.version == version
    assert shop.echo.calls[0].method == "echo"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/shop.Echo/nothing", "unimplemented"),
        ("/shop.Other/echo", "unimplemented"),
        ("/shop.Echo.v9/echo", "unimplemented"),
        ("/connect/shop.Other/echo", "unimplemented"),
        ("/connect/anything", "unimplemented"),
        ("/shop.Echo/echo/", None),
        ("/shop/echo", None),
        ("/shop.Echo", None),
        ("/shop.Echo/ec%68o", None),
        ("//shop.Echo/echo", None),
        ("/a.b/c.d", None),
    ],
)
async def test_an_unknown_path(shop: Shop, path: str, code: str | None) -> None:
    answer = await shop.post(THING, method="", path=path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    if code:
        assert answer.json()["code"] == code
    else:
        assert answer.json()["error"]["code"] == "not_found"
    assert (await shop.http.get(path)).status_code == 404


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "Application/JSON",
        "application/json ; a=b",
    ],
)
async def test_a_content_type_may_have_parameters_and_any_case(shop: Shop, kind: str) -> None:
    answer = await shop.post(THING, headers={"content-type": kind})
    assert (answer.status_code, answer.json()) == (200, THING)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "",
        "application/jsonx",
        "application/xml",
        "application/json; charset=latin-1",
        "application/connect+json",
        "application/connect+proto",
        "application/grpc",
        "application/grpc-web+proto",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ],
)
async def test_another_content_type_is_a_415_with_the_right_ones(shop: Shop, kind: str) -> None:
    answer = await shop.post(THING, headers={"content-type": kind})
    assert answer.status_code == 415
    assert answer.headers["accept-post"] == "application/json, application/proto"
    assert answer.json()["code"] == "unimplemented"
    assert shop.echo.calls == []


@given(st.binary(max_size=60))
def test_any_content_type_is_of_some_kind(header: bytes) -> None:
    assert isinstance(kind_of(header), Kind)


async def test_methods(shop: Shop) -> None:
    for verb in ("GET", "PUT", "DELETE", "PATCH", "HEAD"):
        answer = await shop.http.request(verb, "/shop.Echo/echo")
        assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert answer.content == b""
    answer = await shop.http.put("/shop.Echo/getThing")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert answer.json()["code"] == "unimplemented"


async def test_the_version_of_the_protocol(shop: Shop) -> None:
    assert (await shop.post(THING, headers={"connect-protocol-version": "1"})).status_code == 200
    for version in ("2", "", "1.0", "v1"):
        answer = await shop.post(THING, headers={"connect-protocol-version": version})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def test_a_method_that_needs_an_identity(shop: Shop) -> None:
    answer = await shop.post(b"not even json", method="secret", headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Bearer" in answer.json()["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b'{"name":1}', b'{"name":"x"} {}', b"[" * 9000]
)
async def test_a_wrong_body_is_the_callers_mistake(shop: Shop, body: bytes) -> None:
    answer = await shop.post(body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert shop.echo.calls == []


async def test_a_method_without_input_and_output(shop: Shop) -> None:
    answer = await shop.post({}, method="ping")
    assert (answer.status_code, answer.json()) == (200, {})
    assert shop.echo.calls[0].payload == b"{}"
    assert (await shop.post({}, method="listAll")).json() == {"response": ["a", "b"]}


async def test_a_body_that_is_too_large(shop: Shop) -> None:
    packed = gzip.compress(b" " * (MAX_BODY + 1))
    for body, headers in ((b" " * (MAX_BODY + 1), {}), (packed, {"content-encoding": "gzip"})):
        answer = await shop.post(body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted")
        assert f"limits.body_bytes allows, {MAX_BODY} bytes" in answer.json()["message"]
        assert answer.json()["details"][0]["debug"]["reason"] == "body_bytes"


async def test_an_unknown_compression_names_the_known(shop: Shop) -> None:
    answer = await shop.post(THING, headers={"content-encoding": "rot13"})
    assert (answer.status_code, answer.json()["code"]) == (501, "unimplemented")
    assert "gzip" in answer.json()["message"]


def _at_once(work: Callable[[], None]) -> None:
    """A turn of the loop that has time."""
    work()


class TestTimeout:
    async def test_the_clients_is_taken_where_it_is_less(self, shop: Shop) -> None:
        for header, most in (("2000", 2.0), ("9999999999", 5.0), ("0000000100", 0.1), (None, 5.0)):
            await shop.post(THING, headers={"connect-timeout-ms": header} if header else {})
            assert most - 0.09 < shop.echo.calls[-1].remaining() <= most

    async def test_none_left_is_an_answer_and_no_call(self, shop: Shop) -> None:
        answer = await shop.post(THING, headers={"connect-timeout-ms": "0"})
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert shop.echo.calls == []

    @given(st.binary(max_size=14))
    def test_any_header_is_a_time_or_refused(self, header: bytes) -> None:
        try:
            assert 0 <= timeout_ms(header, 5.0, "Connect-Timeout-Ms") <= 5.0
        except CallerError:
            assert not (header.isdigit() and len(header) <= 10)

    @pytest.mark.parametrize("header", [b"", b"-1", b"+1", b"1.5", b"1e3", b" 1", b"1_0", b"12345678901", "१".encode()])
    def test_what_is_no_number_of_ten_digits_is_refused(self, header: bytes) -> None:
        with pytest.raises(CallerError):
            timeout_ms(header, 5.0, "Connect-Timeout-Ms")


class TestMetadata:
    async def test_a_guest_sees_the_clients_own_headers_alone(self, shop: Shop) -> None:
        seen = {"x-tenant": "one", "user-agent": "test", "accept-language": "de", "x-data-bin": "AAE"}
        unseen = {
            "authorization": "Bearer secret",
            "cookie": "session=secret",
            "proxy-authorization": "secret",
            "connect-protocol-version": "1",
            "connect-timeout-ms": "1000",
            "te": "trailers",
            "x-forwarded-for": "1.2.3.4",
            "forwarded": "for=1.2.3.4",
            "x-real-ip": "1.2.3.4",
            "sec-fetch-mode": "cors",
            "trailer-x": "1",
        }
        await shop.post(THING, headers={**unseen, **seen})
        assert dict(shop.echo.calls[0].metadata) == seen

    async def test_a_header_may_come_twice_and_keeps_its_order(self, shop: Shop) -> None:
        pairs = [("content-type", "application/json"), ("x-a", "1"), ("x-b", "2"), ("x-a", "3")]
        await shop.http.post("/shop.Echo/echo", json=THING, headers=pairs)
        metadata = [pair for pair in shop.echo.calls[0].metadata if pair[0].startswith("x-")]
        assert metadata == [("x-a", "1"), ("x-b", "2"), ("x-a", "3")]

    async def test_trace_key_and_request_id_have_their_own_places(self, shop: Shop) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await shop.post(THING, headers={"traceparent": trace, "idempotency-key": "k1", "x-request-id": "r1"})
        call = shop.echo.calls[0]
        assert (call.traceparent, call.idempotency_key, call.request_id) == (trace, "k1", "r1")
        await shop.post(THING, headers={"traceparent": "nonsense"})
        assert shop.echo.calls[1].traceparent == ""
        assert (await shop.post(THING, headers={"idempotency-key": "k" * 256})).status_code == 400

    async def test_what_a_guest_sets_goes_before_and_after(self, shop: Shop) -> None:
        shop.echo.headers = (("X-One", "1"), ("x-one", "2"), ("x-empty", ""))
        shop.echo.trailers = (("x-cost", "7"),)
        answer = await shop.post(THING)
        assert answer.headers.get_list("x-one") == ["1", "2"]
        assert answer.headers["x-empty"] == ""
        assert answer.headers["trailer-x-cost"] == "7"
        assert "x-cost" not in answer.headers

    async def test_what_a_guest_had_set_goes_with_its_error(self, shop: Shop) -> None:
        shop.echo.error = InsulaError("no", code=Code.ABORTED)
        shop.echo.error.headers = (("x-one", "1"),)
        shop.echo.error.trailers = (("x-cost", "7"),)
        answer = await shop.post(THING)
        assert (answer.status_code, answer.headers["x-one"], answer.headers["trailer-x-cost"]) == (409, "1", "7")

    @pytest.mark.parametrize("place", ["headers", "trailers", "error"])
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("content-length", "abc"),
            ("content-type", "text/html"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("set-cookie", "session=stolen"),
            ("access-control-allow-origin", "*"),
            ("strict-transport-security", "max-age=1"),
            ("connect-timeout-ms", "1"),
            ("trailer-x", "1"),
            ("x-a", "one\r\nset-cookie: session=stolen"),
            ("x-a", "one\nset-cookie: session=stolen"),
            ("x-a\r\nset-cookie", "session=stolen"),
            ("x a", "1"),
            ("", "1"),
            ("x-ä", "1"),
            ("x-a", "\u20ac"),
            ("x-a", "\x00"),
        ],
    )
    async def test_a_bad_header_is_a_whole_500_and_nothing_of_it_is_sent(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, name: str, value: str, place: str
    ) -> None:
        bad = (("x-good", "1"), (name, value))
        if place == "error":
            shop.echo.error = InsulaError("no", code=Code.ABORTED)
            shop.echo.error.headers = bad
        else:
            setattr(shop.echo, place, bad)
        answer = await shop.post(THING)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert set(answer.headers) == {"date", "content-type", "content-length", "x-request-id"}
        assert "shop.Echo.v1" in caplog.text
        assert repr(name) in caplog.text
        assert "stolen" not in caplog.text.replace(repr(name), "")
        shop.echo.headers = shop.echo.trailers = ()
        shop.echo.error = None
        assert (await shop.post(THING)).status_code == 200

    async def test_too_much_of_it_is_a_whole_500(self, shop: Shop) -> None:
        shop.echo.headers = tuple((f"x-{n}", "v" * 1000) for n in range(70))
        assert (await shop.post(THING)).status_code == 500


class TestErrors:
    @pytest.mark.parametrize("code", list(Code))
    async def test_every_code_has_its_status(self, shop: Shop, code: Code) -> None:
        shop.echo.error = InsulaError("no", code=code, status=418)
        answer = await shop.post(THING)
        assert (answer.status_code, answer.json()) == (WIRE[code].http, {"code": code.value, "message": "no"})
        assert answer.headers["content-type"] == "application/json"

    async def test_details_hint_and_reason(self, shop: Shop) -> None:
        shop.echo.error = InsulaError(
            "no", code=Code.ABORTED, hint="again", reason="stale_version", details=(Detail("a.B", b"\xff\xfe"),)
        )
        body = (await shop.post(THING)).json()
        assert body["message"] == "no (again)"
        own, info = body["details"]
        assert own == {"type": "a.B", "value": "//4"}
        assert (info["type"], info["debug"]["reason"]) == ("google.rpc.ErrorInfo", "stale_version")
        assert base64.b64decode(info["value"] + "==").startswith(b"\n\rstale_version")

    async def test_retry_after(self, shop: Shop) -> None:
        shop.echo.error = InsulaError("full", code=Code.RESOURCE_EXHAUSTED, retry_after=2)
        assert (await shop.post(THING)).headers["retry-after"] == "2"

    async def test_a_panic_tells_nothing(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        shop.echo.error = RuntimeError("secret")  # type: ignore[assignment]
        answer = await shop.post(THING)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "secret" not in answer.text
        assert "/shop.Echo.v1/echo" in caplog.text

    @pytest.mark.parametrize("answer", [b"nonsense", b'{"name":5}', b"\xff", b"[]"])
    async def test_an_answer_of_the_wrong_shape_is_the_guests_mistake(self, shop: Shop, answer: bytes) -> None:
        shop.echo.answer = answer
        refused = await shop.post(THING)
        assert (refused.status_code, refused.json()["code"]) == (500, "internal")


class TestLater:
    async def test_a_reply_that_comes_later(self, shop: Shop) -> None:
        shop.echo.later = True
        asking = asyncio.create_task(shop.post(THING))
        await shop.echo.asked.wait()
        shop.echo.pending[0].set_result(Reply(b'{"name":"late"}', (("x-one", "1"),)))
        answer = await asking
        assert (answer.status_code, answer.json(), answer.headers["x-one"]) == (200, {"name": "late"}, "1")

    async def test_an_error_that_comes_later(self, shop: Shop) -> None:
        shop.echo.later = True
        asking = asyncio.create_task(shop.post(THING))
        await shop.echo.asked.wait()
        shop.echo.pending[0].set_exception(InsulaError("no", code=Code.DATA_LOSS))
        assert (await asking).json() == {"code": "data_loss", "message": "no"}

    async def test_a_bad_header_that_comes_later(self, shop: Shop) -> None:
        shop.echo.later = True
        asking = asyncio.create_task(shop.post(THING))
        await shop.echo.asked.wait()
        shop.echo.pending[0].set_result(Reply(b'{"name":"late"}', (("content-length", "abc"),)))
        assert (await asking).status_code == 500

    async def test_a_call_that_is_cancelled_inside(self, shop: Shop) -> None:
        shop.echo.later = True
        asking = asyncio.create_task(shop.post(THING))
        await shop.echo.asked.wait()
        shop.echo.pending[0].cancel()
        answer = await asking
        assert (answer.status_code, answer.json()["code"]) == (499, "canceled")

    async def test_a_client_that_leaves_cancels_its_call(self, shop: Shop) -> None:
        shop.echo.later = True
        asking = asyncio.create_task(shop.post(THING))
        await shop.echo.asked.wait()
        asking.cancel()
        async with asyncio.timeout(2):
            await shop.echo.cancelled.wait()


async def test_who_calls_is_told_to_the_service(shop: Shop) -> None:
    class Proves:
        def concerns(self, _: Route) -> bool:
            return True

        def __call__(self, head: Head, _: Route) -> None:
            head.principal = Principal("ada", ("clerk",))

    shop.app.rules = (Proves(),)
    await shop.post(THING)
    assert shop.echo.calls[0].principal == Principal("ada", ("clerk",))


async def test_an_error_to_a_get_is_no_page_either(shop: Shop) -> None:
    answer = await shop.http.get("/shop.Echo/getThing", params={"connect": "v1", "encoding": "json", "message": "[]"})
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (400, "nosniff")
    assert "x-content-type-options" not in (await shop.post(b"[]")).headers
