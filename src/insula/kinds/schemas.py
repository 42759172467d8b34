"""The methods of a schema, as a kind whose deployables have one publishes them."""

from __future__ import annotations

from insula.published import PublishedMethod
from insula.schema.model import Schema
from insula.schema.policy import is_read_only, is_stream, policy_of


def methods_of(schema: Schema) -> tuple[PublishedMethod, ...]:
    """In the order of the schema. PackageError for a directive that is not understood."""
    return tuple(
        PublishedMethod(
            name=method.name,
            input=method.input_type,
            output=method.output_type,
            read_only=is_read_only(method),
            stream=is_stream(method),
            policy=policy_of(method),
            doc=method.doc,
        )
        for method in schema.service.methods
    )
