from __future__ import annotations

import tomllib

import pytest

from insula.calls import ServiceId
from insula.errors import CallerError, Code, PackageError
from insula.host.grants import Grants

ID = ServiceId("shop", "Orders", "v1")
KNOWN = frozenset({"okra.log", "okra.env", "okra.sql", "okra.context"})


def test_what_is_asked_and_granted() -> None:
    grants = Grants(["okra.log"], {"shop.Orders": ["okra.env"], "*": ["okra.sql"]})
    assert grants.decide(
        ID, ["okra.log", "okra.env", "okra.sql"], {"okra.env": {"keys": ["A"]}}, KNOWN, "okra.json"
    ) == {
        "okra.context": {},
        "okra.env": {"keys": ["A"]},
        "okra.log": {},
        "okra.sql": {},
    }


def test_the_context_comes_without_asking_and_nothing_else() -> None:
    assert Grants(["okra.log"]).decide(ID, [], {}, KNOWN, "okra.json") == {"okra.context": {}}
    assert Grants([], deny={"*": ["okra.context"]}).decide(ID, [], {}, KNOWN, "okra.json") == {"okra.context": {}}


def test_more_than_granted_names_the_line_to_add() -> None:
    grants = Grants(["okra.log"], {"shop.Orders": ["okra.env"], "shop.Other": ["okra.sql"]})
    with pytest.raises(CallerError, match=r"shop\.Orders\.v1 asks for okra\.sql") as caught:
        grants.decide(ID, ["okra.log", "okra.env", "okra.sql"], {}, KNOWN, "okra.json")
    assert caught.value.code is Code.PERMISSION_DENIED
    assert caught.value.http_status == 403
    line = str(caught.value.hint).partition("[grants]: ")[2]
    added = tomllib.loads(f"[grants]\n{line}")["grants"]["allow"]
    assert added == {"shop.Orders": ["okra.env", "okra.sql"]}, "it keeps what was allowed before"
    assert Grants(["okra.log"], added).decide(ID, ["okra.sql"], {}, KNOWN, "okra.json")


def test_one_version_may_be_given_more_and_no_other_is() -> None:
    grants = Grants(["okra.log"], {"shop.Orders.v1": ["okra.env"], "shop.Orders": ["okra.sql"]})
    assert grants.decide(ID, ["okra.env", "okra.sql"], {}, KNOWN, "okra.json")
    with pytest.raises(CallerError, match=r"asks for okra\.env"):
        grants.decide(ServiceId("shop", "Orders", "v2"), ["okra.env", "okra.sql"], {}, KNOWN, "okra.json")


@pytest.mark.parametrize("whom", ["shop.Orders", "shop.Orders.v1", "*"])
def test_deny_is_stronger(whom: str) -> None:
    grants = Grants(["okra.log", "okra.env"], {"shop.Orders": ["okra.env"]}, {whom: ["okra.env"]})
    with pytest.raises(CallerError) as caught:
        grants.decide(ID, ["okra.env"], {}, KNOWN, "okra.json")
    assert "deny" in str(caught.value.hint)


def test_an_unknown_name() -> None:
    with pytest.raises(PackageError, match=r"'okra\.logs'") as caught:
        Grants(["okra.log"]).decide(ID, ["okra.logs"], {}, KNOWN, "okra.json")
    assert caught.value.hint == "did you mean okra.log?"
    with pytest.raises(PackageError) as caught:
        Grants(["okra.log"]).decide(ID, ["zzz"], {}, KNOWN, "okra.json")
    assert "it has okra.context, okra.env" in str(caught.value.hint)


def test_options_without_asking() -> None:
    with pytest.raises(PackageError, match="not among its host_apis"):
        Grants(["okra.env"]).decide(ID, [], {"okra.env": {"keys": ["A"]}}, KNOWN, "okra.json")
