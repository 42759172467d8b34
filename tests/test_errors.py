"""One table of codes: complete, and what the protocols say."""

from __future__ import annotations

import pytest
from connectrpc.code import Code as ConnectCode

from insula.errors import WIRE, CallerError, Code, InsulaError, LimitError, code_named, forget_frames


def test_the_codes_are_those_of_connect() -> None:
    assert {code.value for code in Code} == {code.value for code in ConnectCode}
    assert set(WIRE) == set(Code)


def test_each_has_a_number_of_its_own_on_every_wire() -> None:
    assert sorted(wire.grpc for wire in WIRE.values()) == list(range(1, 17))
    assert {code: wire.jsonrpc for code, wire in WIRE.items()} == {
        code: -32000 - wire.grpc for code, wire in WIRE.items()
    }
    assert WIRE[Code.UNAUTHENTICATED].jsonrpc == -32016
    assert WIRE[Code.RESOURCE_EXHAUSTED].jsonrpc == -32008


@pytest.mark.parametrize("name", ["", "nothing", None, 5, ["internal"]])
def test_a_code_that_nobody_knows_is_unknown(name: object) -> None:
    assert code_named(name) is Code.UNKNOWN


def test_an_error_has_the_code_of_its_class_unless_told_otherwise() -> None:
    assert CallerError("no").code is Code.INVALID_ARGUMENT
    assert CallerError("no", code=Code.NOT_FOUND).http_status == 404
    assert CallerError("no", status=413).http_status == 413
    assert str(InsulaError("what", hint="do this")) == "what (do this)"
    assert str(InsulaError("what")) == "what"


def test_an_error_that_was_told_has_no_frames_and_neither_have_its_causes() -> None:
    def fail() -> None:
        try:
            raise ValueError("inner")
        except ValueError as inner:
            raise LimitError("outer") from inner

    with pytest.raises(LimitError) as caught:
        fail()
    error = caught.value
    forget_frames(error)
    assert error.__traceback__ is None
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None
    circle = LimitError("a cause of its own cause")
    circle.__cause__ = circle
    forget_frames(circle)
