"""Lists of header names, each written once: who may not say, see or pass on what. Names are lower case.

Most lists share their parts: what belongs to one hop, to the request as a message, to the client's credentials, and what a
call has a place of its own for.
"""

from __future__ import annotations

#: Of one hop: they end with the connection.
_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
#: Of the request as a message.
_REQUEST = {"accept", "accept-encoding", "expect", "host"}
#: What proves who the client is.
_CREDENTIALS = {"authorization", "cookie"}
#: What a call has a place of its own for.
_OF_A_CALL = {"idempotency-key", "traceparent", "x-request-id"}
#: Of a protocol, a body or a browser.
_PROTOCOLS = ("connect-", "content-", "grpc-", "proxy-", "sec-")

#: What a trailer's name begins with where trailers go as headers.
TRAILER = "trailer-"

#: What the edge alone says on an answer: how it is framed, how long the connection lives, when it was made.
EDGE_ONLY = _HOP | {"content-length", "date", "proxy-connection", "server", "x-request-id"}

#: What a trailer of a request may not say: how the message is framed, where it goes, what the connection becomes.
NOT_IN_TRAILERS = _HOP | {"content-encoding", "content-length", "expect", "host", "proxy-connection"}

#: What a guest does not see of the client's headers.
UNSEEN = _HOP | _REQUEST | _CREDENTIALS | _OF_A_CALL | {
    *("forwarded", "http2-settings", "max-forwards", "upgrade-insecure-requests", "x-real-ip"),
}  # fmt: skip
UNSEEN_PREFIXES = (*_PROTOCOLS, "x-forwarded-", TRAILER)

#: What does not go on with the calls that a call makes.
NOT_INHERITED = _HOP | _REQUEST | _CREDENTIALS | _OF_A_CALL | {
    *("date", "if-match", "if-none-match", "origin", "range", "referer", "set-cookie", "x-api-key"),
}  # fmt: skip
NOT_INHERITED_PREFIXES = (*_PROTOCOLS, "access-control-", "if-")

#: What a guest may not say on an answer.
RESERVED = EDGE_ONLY | _REQUEST | _CREDENTIALS | _OF_A_CALL | {
    # content, and what belongs to one hop or to the request
    *("accept-post", "accept-ranges", "age", "allow", "forwarded", "http2-settings", "max-forwards", "origin", "status"),
    *("user-agent", "vary", "via"),
    # the origin's, not one service's
    *("alt-svc", "clear-site-data", "link", "location", "nel", "public-key-pins", "refresh", "report-to"),
    *("reporting-endpoints", "set-cookie", "set-cookie2", "service-worker-allowed", "sourcemap", "www-authenticate"),
    *("strict-transport-security", "referrer-policy", "permissions-policy"),
    *("x-dns-prefetch-control", "x-sourcemap", "x-xss-protection"),
    # the server's
    *("retry-after", "tracestate", "x-real-ip"),
}  # fmt: skip
RESERVED_PREFIXES = (
    *_PROTOCOLS,
    *(
        "access-control-",
        "cross-origin-",
        "insula-",
        TRAILER,
        "x-accel-",
        "x-content-type-",
        "x-forwarded-",
        "x-frame-",
    ),
    "x-sendfile",
)
