"""Who may call what, by policy and principal alone."""

from __future__ import annotations

import pytest

from insula.authorisation import authorise, is_open
from insula.calls import Principal
from insula.errors import Code
from insula.plans import Policy


@pytest.mark.parametrize(
    ("policy", "principal", "code"),
    [
        (Policy(), None, None),
        (Policy(), Principal("ann"), None),
        (Policy(True), None, Code.UNAUTHENTICATED),
        (Policy(True), Principal("ann"), None),
        (Policy(True, ("admin", "clerk")), None, Code.UNAUTHENTICATED),
        (Policy(True, ("admin", "clerk")), Principal("ann", ("viewer",)), Code.PERMISSION_DENIED),
        (Policy(True, ("admin", "clerk")), Principal("ann", ("viewer", "clerk")), None),
        (Policy(False, ("admin",)), None, Code.UNAUTHENTICATED),
        (Policy(False, ("admin",)), Principal("ann"), Code.PERMISSION_DENIED),
    ],
)
def test_every_case(policy: Policy, principal: Principal | None, code: Code | None) -> None:
    refusal = authorise(policy, principal)
    assert (None if refusal is None else refusal.code) is code
    assert is_open(policy) == (policy == Policy())
