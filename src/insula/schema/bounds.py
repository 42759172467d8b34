"""The bounds of bodies and answers, and the refusals that name them.

The hints here name the limit alone. Which line sets it for a service, its plan knows (`plans.Plan.hints`).

The number of values is bounded before anything is decoded, and the size of what a text becomes before it is made: a list of
`{}` of a type with many required fields grows a thousandfold.
"""

from __future__ import annotations

from typing import NamedTuple

from insula.errors import LimitError

#: JSON values, or protobuf fields and items, in one body, unless the operator sets another number.
BODY_VALUES = 65_536


class Bounds(NamedTuple):
    """`input_bytes` bounds a client's input once its required fields are filled in, `output_bytes` a guest's answer as the
    client gets it, `values` the values in either."""

    input_bytes: int = 4 << 20
    output_bytes: int = 4 << 20
    values: int = BODY_VALUES


DEFAULT_BOUNDS = Bounds()


def too_many_values(bounds: Bounds, what: str) -> LimitError:
    """The refusal of a client's body. `what` it has too many of: "JSON values", or "protobuf fields and items"."""
    return LimitError(
        f"the body has more {what} than limits.body_values allows, {bounds.values}",
        reason="body_values",
        hint="send less at once, or raise limits.body_values",
        status=413,
    )


def input_too_large(bounds: Bounds) -> LimitError:
    """The refusal of a client's body that would grow too much."""
    return LimitError(
        "the body, with the required fields that it leaves out, is larger than limits.body_bytes allows, "
        f"{bounds.input_bytes} bytes",
        reason="body_bytes",
        hint="send less at once, or raise limits.body_bytes",
        status=413,
    )


def answer_has_too_many_values(bounds: Bounds) -> LimitError:
    """The refusal of a guest's answer."""
    return LimitError(
        f"the service's answer has more JSON values than limits.body_values allows, {bounds.values}",
        reason="body_values",
        hint="let the service answer in parts, or raise limits.body_values",
    )


def answer_too_large(bounds: Bounds) -> LimitError:
    """The refusal of a guest's answer that would grow too much."""
    return LimitError(
        "the service's answer, with the required fields that it leaves out, is larger than the "
        f"{bounds.output_bytes} bytes that limits.output_mb allows",
        reason="output_limit",
        hint="answer in parts, or raise limits.output_mb",
    )
