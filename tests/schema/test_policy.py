from __future__ import annotations

from typing import Any

import pytest

from insula.errors import PackageError
from insula.plans import Policy
from insula.schema.model import Directive, Method
from insula.schema.policy import is_read_only, is_stream, policy_of


def method(*directives: Directive, name: str = "shutdown") -> Method:
    return Method(name, directives=directives)


def test_who_may_call() -> None:
    assert policy_of(method()) == Policy()
    assert policy_of(method(Directive("other"), Directive("auth"))) == Policy(authenticated=True)
    assert policy_of(method(Directive("auth", {"roles": ["admin", "ops"]}))) == Policy(True, ("admin", "ops"))


@pytest.mark.parametrize(
    "args", [{"role": "admin"}, {"cel": "true"}, {"roles": []}, {"roles": "admin"}, {"roles": [1]}, {"roles": None}]
)
def test_what_is_not_understood_never_opens_a_method(args: dict[str, Any]) -> None:
    with pytest.raises(PackageError):
        policy_of(method(Directive("auth", args)))


@pytest.mark.parametrize("name", ["get", "getUser", "GetUser", "listAll", "find_it", "search", "queryOrders"])
def test_queries_by_name(name: str) -> None:
    assert is_read_only(method(name=name))


@pytest.mark.parametrize("name", ["shutdown", "forget", "budget", "fetch", "create_list"])
def test_mutations_by_name(name: str) -> None:
    assert not is_read_only(method(name=name))


def test_directives() -> None:
    assert is_read_only(method(Directive("readonly")))
    assert is_stream(method(Directive("stream")))
    assert not is_stream(method())
