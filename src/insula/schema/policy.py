"""Who may call a method and whether it changes anything, read from its directives and its name once at deploy."""

from __future__ import annotations

from insula.errors import PackageError
from insula.plans import Policy
from insula.schema.model import Method

#: A method whose name starts so is a query: Connect serves it over GET, GraphQL below `query`. It is the plain prefix,
#: as the okra tool has it: `listen` is read-only by its name, so a method that changes something is not called that.
READ_PREFIXES = ("get", "list", "find", "search", "query")


def policy_of(method: Method) -> Policy:
    """`@auth` -> an identity is needed; `@auth(roles: ["admin"])` -> and one of these roles; neither -> anyone.

    PackageError where the directive says what is not understood: it is never read as less than it says.
    """
    directive = method.directive("auth")
    if directive is None:
        return Policy()
    roles = directive.args.get("roles", ())
    if directive.args.keys() - {"roles"} or ("roles" in directive.args and not roles):
        raise PackageError(f"@auth of method {method.name} is not understood", hint='write @auth(roles: ["admin"])')
    if not isinstance(roles, list | tuple) or not all(isinstance(role, str) for role in roles):
        raise PackageError(f"the roles of @auth at {method.name} are not names", hint='write @auth(roles: ["admin"])')
    return Policy(authenticated=True, roles=tuple(roles))


def is_read_only(method: Method) -> bool:
    """Whether a call may be repeated, cached and sent by GET: by `@readonly` or by the name's first word."""
    name = method.name[:1].lower() + method.name[1:]
    return name.startswith(READ_PREFIXES) or method.directive("readonly") is not None


def is_stream(method: Method) -> bool:
    """Whether the method answers with a stream of items (`@stream`)."""
    return method.directive("stream") is not None
