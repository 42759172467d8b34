"""The one shape of the admin port's errors, whichever file refuses."""

from __future__ import annotations

import json

from insula.api.errors import error_body, error_headers
from insula.errors import CallerError, Code


def test_the_message_stands_under_both_names() -> None:
    error = CallerError("there is no such path", code=Code.NOT_FOUND, hint="GET / lists them")
    assert json.loads(error_body(error)) == {
        "error": "there is no such path",
        "code": "not_found",
        "message": "there is no such path",
        "hint": "GET / lists them",
    }
    assert error_headers(error) == ((b"cache-control", b"no-store"),)


def test_a_reason_and_what_to_do_about_it() -> None:
    error = CallerError("not you", code=Code.UNAUTHENTICATED, reason="token_expired", retry_after=0.2)
    assert json.loads(error_body(error))["reason"] == "token_expired"
    assert dict(error_headers(error))[b"www-authenticate"] == b'Bearer realm="insula admin"'
    assert dict(error_headers(error))[b"retry-after"] == b"1"  # never 0, which would be at once
