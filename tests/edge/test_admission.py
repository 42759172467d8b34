"""The rules of admission and their order."""

from __future__ import annotations

from insula.calls import Principal
from insula.edge.admission import Draining, Identified, admit, concerning
from insula.edge.exchange import Head, Route
from insula.errors import Code, InsulaError
from insula.plans import Policy
from tests.edge.conftest import Probe


def _head(principal: Principal | None = None) -> Head:
    head = Head("POST", b"/", b"", [])
    head.principal = principal
    return head


def _route(policy: Policy, label: str = "/x") -> Route:
    return Route(Probe(), label, frozenset(("POST",)), policy)


def _code(refusal: object) -> Code | None:
    assert refusal is None or isinstance(refusal, InsulaError)
    return None if refusal is None else refusal.code


class Proving:
    """Proves that everybody is ann."""

    def concerns(self, route: Route) -> bool:
        return True

    def __call__(self, head: Head, route: Route) -> InsulaError | None:
        head.principal = Principal("ann")
        return None


def test_identity_and_roles() -> None:
    identified = Identified()
    somebody, admin = Principal("ann"), Principal("bob", ("admin",))
    open_, signed_in, admins = _route(Policy()), _route(Policy(True)), _route(Policy(True, ("admin",)))
    role_alone = _route(Policy(False, ("admin",)))
    assert _code(identified(_head(), open_)) is None
    assert _code(identified(_head(), signed_in)) is Code.UNAUTHENTICATED
    assert _code(identified(_head(somebody), signed_in)) is None
    assert _code(identified(_head(), admins)) is Code.UNAUTHENTICATED
    assert _code(identified(_head(somebody), admins)) is Code.PERMISSION_DENIED
    assert _code(identified(_head(admin), admins)) is None
    assert _code(identified(_head(), role_alone)) is Code.UNAUTHENTICATED
    assert [identified.concerns(route) for route in (open_, signed_in, admins, role_alone)] == [False, True, True, True]


def test_a_drain_lets_in_what_always_answers() -> None:
    draining = Draining(frozenset(("/health",)))
    assert _code(draining(_head(), _route(Policy()))) is Code.UNAVAILABLE
    health = _route(Policy(), "/health")
    assert admit(concerning((draining,), health), _head(), health) is None
    assert draining.concerns(_route(Policy()))
    assert not draining.concerns(_route(Policy(), "/health"))


def test_the_first_refusal_is_the_answer_and_a_rule_may_prove_who_calls() -> None:
    rules = (Proving(), Identified())
    assert admit(rules, _head(), _route(Policy(True))) is None
    assert _code(admit((Draining(), *rules), _head(), _route(Policy(True)))) is Code.UNAVAILABLE
