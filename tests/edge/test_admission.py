"""The checks of admission and their order."""

from __future__ import annotations

from insula.calls import Principal
from insula.edge.admission import Draining, admit, identified
from insula.edge.exchange import Head, Route
from insula.errors import Code, InsulaError
from insula.plans import Policy
from tests.edge.conftest import Probe


def _head(principal: Principal | None = None) -> Head:
    head = Head("POST", b"/", b"", [])
    head.principal = principal
    return head


def _route(policy: Policy) -> Route:
    return Route(Probe(), "/x", policy=policy)


def _code(refusal: InsulaError | None) -> Code | None:
    return None if refusal is None else refusal.code


def test_identity_and_roles() -> None:
    somebody, admin = Principal("ann"), Principal("bob", ("admin",))
    open_, signed_in, admins = _route(Policy()), _route(Policy(True)), _route(Policy(True, ("admin",)))
    assert _code(identified(_head(), open_)) is None
    assert _code(identified(_head(), signed_in)) is Code.UNAUTHENTICATED
    assert _code(identified(_head(somebody), signed_in)) is None
    assert _code(identified(_head(), admins)) is Code.UNAUTHENTICATED
    assert _code(identified(_head(somebody), admins)) is Code.PERMISSION_DENIED
    assert _code(identified(_head(admin), admins)) is None
    assert _code(identified(_head(), _route(Policy(False, ("admin",))))) is Code.UNAUTHENTICATED


def test_the_first_refusal_is_the_answer_and_a_check_may_prove_who_calls() -> None:
    draining = Draining()

    def prove(head: Head, route: Route) -> InsulaError | None:
        head.principal = Principal("ann")
        return None

    checks = (draining, prove, identified)
    assert admit(checks, _head(), _route(Policy(True))) is None
    draining.on = True
    assert _code(admit(checks, _head(), _route(Policy(True)))) is Code.UNAVAILABLE
