"""The edge alone: a Connect method whose service answers a constant at once, behind the real listener.

`python -m bench.inline PORT lane|ordinary codec|constant`: by which road the requests come in, and whether the method has
its real codec or a handler that answers the same response each time.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop

from bench.constant import BODY
from insula.calls import Reply, ServiceId
from insula.edge.admission import Identified
from insula.edge.app import Application
from insula.edge.exchange import Answerer, Head, Response, Route
from insula.edge.lane import Lane
from insula.edge.limits import ConnectionLimits
from insula.edge.listener import Listener, bind
from insula.edge.rest import JSON, refusal
from insula.edge.routes import RouteTable
from insula.errors import InsulaError
from insula.gateways.connect import ConnectGateway
from insula.gateways.contract import Offer
from insula.gateways.missing import missing_route
from insula.offload import Offload
from insula.plans import Plan, Policy
from insula.published import Published
from insula.schema.bounds import DEFAULT_BOUNDS
from insula.schema.idl import parse_idl
from insula.transcoding.processes import CodecProcesses
from insula.transcoding.service import Codecs
from insula.transcoding.store import MessageStore

IDL = """
@okra(namespace: "examples", version: "v1")
service Greeter { greet(input: Name!): Greeting! }
type Name { name: String! }
type Greeting { message: String! }
"""


class Constant:
    """A handler that knows its answer."""

    _response = Response(200, (JSON,), BODY)

    def prepare(self, head: Head) -> Answerer:
        """The constant, whatever comes."""
        return lambda head, body: self._response

    def refuse(self, head: Head, error: InsulaError) -> Response:
        """The error in the REST shape."""
        return refusal(head, error)


def table(handler: str) -> RouteTable:
    """The greeter's path."""
    if handler == "constant":
        route = Route(Constant(), "/examples.Greeter/greet", frozenset(("POST",)), max_body=1 << 20)
        return RouteTable([(b"/examples.Greeter/greet", route)])
    reply = Reply(BODY)
    schema = parse_idl(IDL)
    service = ServiceId("examples", "Greeter", "v1")
    codecs = Codecs(CodecProcesses(), MessageStore()).of(str(service), "digest", schema, DEFAULT_BOUNDS)
    codec = codecs.json(schema.service.methods[0])

    def binary() -> Any:
        raise NotImplementedError

    plan = Plan(service, "greet", False, Policy(), 30.0, 1 << 20, lambda: codec, binary, lambda: lambda _: reply)
    offer = Offer(Published(service, schema=schema), (plan,), latest=True)
    return RouteTable(pair for group in ConnectGateway(Offload()).routes((offer,)) for pair in group.make())


async def main(port: int, road: str, handler: str) -> None:
    """Serves until it is killed."""
    app = Application(table(handler), missing=missing_route(), rules=(Identified(),))
    lane = Lane(app) if road == "lane" else None
    listener = Listener(app, bind("127.0.0.1", port), ConnectionLimits(), dropped=app.metrics.dropped, lane=lane)
    await listener.start()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
