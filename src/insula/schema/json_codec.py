"""The JSON of one method, compiled once a schema: the client's JSON -> the guest's, and the guest's -> the client's.

A text is measured before anything is decoded: it is refused where it has more values than `Bounds` allow, nests deeper than
MAX_DEPTH, or is not UTF-8 throughout. The plain case is then one msgspec decode and one encode (`json_types`), which runs
only where the text's size and counts bound what it becomes. Anything else is read step by step (`json_walk`), which has the
full rules, names the field that is wrong, and counts what it makes.

A codec of `compile_all` does all of it, however long that takes. One of `JsonCodecs` runs on the event loop: what may take
more than `INLINE_NS` it gives to `elsewhere`, which answers later.

A method without input gives the guest `{}` whatever object came, or none; a body that is no JSON object is refused there
too. A bare return value (scalar, enum, list) is written bare by the guest and leaves as `{"response": …}`; null or an
empty answer is the zero value. A method without output answers `{}`.
"""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from insula.errors import PackageError
from insula.plans import Codec
from insula.schema.bounds import DEFAULT_BOUNDS, Bounds
from insula.schema.json_types import JsonTypes, fields_in_rings
from insula.schema.json_walk import Direction, JsonRules
from insula.schema.json_ways import Elsewhere, Side, Way, WriterTo, input_reader, nothing, output_writer
from insula.schema.model import Method, Schema
from insula.schema.names import split_list
from insula.schema.policy import is_stream

#: Fields of a schema whose codecs are compiled at its first call, in a few milliseconds; a larger one's at its deploy.
SMALL = 100
#: Fields of types in rings, which are compiled in one step that holds the interpreter; more of them are never compiled
#: here, and all calls of such a schema are read and written elsewhere.
MAX_IN_RINGS = 1_000


def _no_pause() -> None:
    pass


class WholeCodec(NamedTuple):
    """A codec that does all of its work before it returns. Both raise InsulaError."""

    read_input: Callable[[bytes], bytes]
    write_output: Callable[[bytes], bytes]


class InlineCodec(NamedTuple):
    """A codec for the event loop: both answer at once, or give a future."""

    read_input: Callable[[bytes, float], bytes | Future[bytes]]
    write_output: Callable[[bytes, float], bytes | Future[bytes]]


def compile_json(schema: Schema, method: Method, bounds: Bounds = DEFAULT_BOUNDS) -> WholeCodec:
    """The codec of one method of a checked schema. For all of a schema's methods use `compile_all`: it shares types."""
    return _whole(schema, method, _types(JsonRules(schema), (method,)), bounds)


def compile_all(schema: Schema, bounds: Bounds = DEFAULT_BOUNDS) -> dict[str, WholeCodec]:
    """The codec of every method of a checked schema, by method name. PackageError where the types nest too deeply."""
    types = _types(JsonRules(schema), schema.service.methods)
    return {method.name: _whole(schema, method, types, bounds) for method in schema.service.methods}


def _whole(schema: Schema, method: Method, types: JsonTypes, bounds: Bounds) -> WholeCodec:
    reader, writer = _compile(schema, method, types, bounds, None)
    return WholeCodec(reader, writer(None))


class JsonCodecs:
    """The codecs of a schema's methods for the event loop, all made when the first is asked for: of many services that are
    deployed few are called. A schema of more than `SMALL` fields is compiled by `prepare`, at its deploy.

    `elsewhere` gives by a method's name where its inputs are read and its outputs written when they are large."""

    __slots__ = ("_bounds", "_codecs", "_elsewhere", "_schema", "_writers", "away")

    def __init__(self, schema: Schema, bounds: Bounds, elsewhere: Callable[[str], tuple[Elsewhere, Elsewhere]]) -> None:
        self._schema = schema
        self._bounds = bounds
        self._elsewhere = elsewhere
        self._codecs: dict[str, Codec] | None = None
        self._writers: dict[str, WriterTo] = {}
        self.away = False

    def prepare(self) -> None:
        """Compiles a large schema, in a thread that often yields the interpreter to the event loop. PackageError if its
        types nest too deeply. A schema with too many fields in rings is not compiled here: it is `away` from then on, and
        its types are still unchecked."""
        if sum(len(kind.fields) for kind in self._schema.types) <= SMALL:
            return
        rules = JsonRules(self._schema)
        if fields_in_rings(rules) > MAX_IN_RINGS:
            self.away = True
            self._codecs = {method.name: self._away(method.name) for method in self._schema.service.methods}
        else:
            self._codecs = self._compiled(rules, lambda: time.sleep(0))

    def of(self, method: str) -> Codec:
        """The codec of one method."""
        if self._codecs is None:
            self._codecs = self._compiled(JsonRules(self._schema))
        return self._codecs[method]

    def writer(self, method: str, elsewhere: Elsewhere) -> Callable[[bytes, float], bytes | Future[bytes]]:
        """The `write_output` of a method that gives what is large to this `elsewhere`, and compiles nothing anew."""
        self.of(method)
        return elsewhere if self.away else self._writers[method](elsewhere)

    def _compiled(self, rules: JsonRules, pause: Callable[[], None] = _no_pause) -> dict[str, Codec]:
        methods = self._schema.service.methods
        types = _types(rules, methods, pause)
        codecs: dict[str, Codec] = {}
        for method in methods:
            read_away, write_away = self._elsewhere(method.name)
            reader, writer = _compile(self._schema, method, types, self._bounds, read_away)
            codecs[method.name] = InlineCodec(reader, writer(write_away))
            self._writers[method.name] = writer
            pause()
        return codecs

    def _away(self, method: str) -> Codec:
        return InlineCodec(*self._elsewhere(method))


def check_zeros(schema: Schema, bounds: Bounds) -> None:
    """PackageError where an empty object is larger, with its required fields, than what a method may take or answer."""
    rules = JsonRules(schema)
    for method in schema.service.methods:
        for name, direction, most, setting in (
            (method.input_type, Direction.IN, bounds.input_bytes, "limits.body_bytes"),
            (method.output_type, Direction.OUT, bounds.output_bytes, "limits.output_mb"),
        ):
            item, many = split_list(name)
            if item and (size := rules.weights(direction).zero_bytes(item, many)) > most:
                raise PackageError(
                    f"method {method.name}: an empty {item} takes {size} bytes, as its required fields are always there; "
                    f"{setting} allows {most}",
                    hint="make some of the fields optional (no !), or raise the limit",
                )


def _types(rules: JsonRules, methods: Iterable[Method], pause: Callable[[], None] = _no_pause) -> JsonTypes:
    """The types of these methods, each made on its own: so no step is long, and none is deep."""
    types = JsonTypes(rules)
    items = (split_list(name)[0] for method in methods for name in (method.input_type, method.output_type))
    try:
        types.prepare(items, pause)
    except RecursionError:
        raise _too_nested("the types of the schema") from None
    return types


def _too_nested(what: str) -> PackageError:
    return PackageError(f"{what} nest too deeply", hint="at most some hundred types inside each other")


def _compile(
    schema: Schema,
    method: Method,
    types: JsonTypes,
    bounds: Bounds,
    read_away: Elsewhere | None,
) -> tuple[Way, WriterTo]:
    item, many = split_list(method.output_type)
    if is_stream(method):
        many = False
    try:
        if method.input_type:
            reader = input_reader(types, method.input_type, bounds, read_away)
        else:
            reader = nothing(Side(bounds, Direction.IN), read_away, (b"", b"{}"))
        if item:
            wrapped = schema.wrapped(method) is not None
            writer = output_writer(types, item, many, wrapped, bounds)
        else:
            side = Side(bounds, Direction.OUT)
            writer = partial(nothing, side, plain=(b"", b"{}", b"null"))
    except RecursionError:
        raise _too_nested(f"the types of method {method.name}") from None
    return reader, writer
