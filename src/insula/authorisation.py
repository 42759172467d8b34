"""Who may call what: one function of a method's policy and the principal that calls.

The edge asks it before the body is read (`edge/admission.py`), `okra.call` for calls between services (`host/call.py`), and
a protocol that learns the method from the body asks it once it has read that.
"""

from __future__ import annotations

from insula.calls import Principal
from insula.errors import Code, InsulaError
from insula.plans import Policy


def is_open(policy: Policy) -> bool:
    """Whether anybody may call, identity or not."""
    return not policy.authenticated and not policy.roles


def authorise(policy: Policy, principal: Principal | None) -> InsulaError | None:
    """None where the principal may call a method with this policy. Else `unauthenticated` where an identity is needed and
    there is none, `permission_denied` where it has none of the roles."""
    if is_open(policy):
        return None
    if principal is None:
        return InsulaError(
            "this method needs an identity",
            code=Code.UNAUTHENTICATED,
            hint="send a token as Authorization: Bearer; this server has no way yet to prove one",
        )
    if policy.roles and not set(policy.roles) & set(principal.roles):
        return InsulaError("this identity has none of the roles that the method needs", code=Code.PERMISSION_DENIED)
    return None
