"""Bodies and answers that cost the codecs more than they look, beside `/health`."""

from __future__ import annotations

import base64
import gzip
from functools import partial
from urllib.parse import quote

from bench.turns.bench import HEALTH, HEALTHY, Bench, load
from bench.turns.client import Request
from bench.turns.guests import HOST, SCRATCH, ask, call, case, data, module, package, packed

MB = 1 << 20
#: As large as a body may be.
LARGE = 4 * MB - 1024

#: A type with as many required fields as may be, under long names, and one of every sort of field.
WIDE = "type Wide { " + " ".join(f"{'field' * 20}{n}: Int!" for n in range(990)) + " }"
TYPES = f"""type Text {{ text: String! }}
{WIDE}
type Wides {{ items: [Wide!] }}
type Small {{ x: Int }}
type Shapes {{
  smalls: [Small!] text: String ints: [Int!] doubles: [Double!] longs: [Long!] times: [DateTime!] texts: [String!]
  inner: Shapes inners: [Shapes!]
}}
type Names {{ names: [String!]! language: Language }}
enum Language {{ ENGLISH FRENCH }}"""
METHODS = """shapes(input: Shapes): Text wides(input: Wides): Text names(input: Names): Text
  @readonly look(input: Wides): Text
  back(): Wides empties(): Shapes digits(): Shapes text(): Shapes umlauts(): Shapes most(): Shapes"""

#: Answers by the first letter of a method: head, an item, how many of them, tail. Of the first, `{}` is all that the guest
#: writes of an object with 990 required fields.
ANSWERS = {
    "b": ('{"items":[', "{},", 4_999, "{}]}"),
    "e": ('{"smalls":[', "{},", 1_300_000, "{}]}"),
    "d": ('{"longs":[', "123456789012,", 300_000, "1]}"),
    "m": ('{"smalls":[', "{},", 59_999, "{}]}"),
    "t": ('{"text":"', "xxxxxxxxxxxxxxxx", 240_000, '"}'),
    "u": ('{"texts":[', '"ä€",', 450_000, '"x"]}'),
}


def size(text: str) -> int:
    """In bytes."""
    return len(text.encode())


def guest() -> bytes:
    """Answers `{"text":"x"}`, or one of ANSWERS to a method of that letter."""
    body, more, at = "", "", 2048
    for letter, (head, item, times, tail) in ANSWERS.items():
        more += data(at, head) + data(at + 64, item) + data(at + 128, tail)
        start, end = SCRATCH + size(head), size(head) + size(item) * times
        body += case(
            letter,
            f"""(drop (memory.grow (i32.const 128)))
            (memory.copy (i32.const {SCRATCH}) (i32.const {at}) (i32.const {size(head)}))
            (call $repeat (i32.const {start}) (i32.const {at + 64}) (i32.const {size(item)}) (i32.const {times}))
            (memory.copy (i32.const {SCRATCH + end}) (i32.const {at + 128}) (i32.const {size(tail)}))
            (return (i64.const {packed(SCRATCH, end + size(tail))}))""",
        )
        at += 256
    return module(body, more=more, pages="160")


def many(item: bytes, head: bytes, tail: bytes = b"]}", size: int = LARGE) -> bytes:
    """As many items as fit between head and tail."""
    return head + b",".join([item] * (size // (len(item) + 1))) + tail


def nested(depth: int) -> bytes:
    """One object so many levels deep."""
    return b'{"inner":' * depth + b"{}" + b"}" * depth


def times(unit: bytes, size: int = LARGE) -> bytes:
    return unit * (size // len(unit))


def packed_field(number: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


PROTO = {"content_type": "application/proto"}
JSON_BODIES = {
    "objects": many(b"{}", b'{"smalls":['),
    "text": b'{"text":"' + b"x" * LARGE + b'"}',
    "text-escapes": b'{"text":"' + times(b"\\u00e4") + b'"}',
    "text-utf8": b'{"text":"' + times("ä€".encode()) + b'"}',
    "ints": many(b"1", b'{"ints":['),
    "doubles": many(b"1.5e-7", b'{"doubles":['),
    "longs": many(b"123456789012", b'{"longs":['),
    "longs-as-text": many(b'"123456789012"', b'{"longs":['),
    "times": many(b'"2026-01-02T03:04:05.678+01:00"', b'{"times":['),
    "texts": many(b'""', b'{"texts":['),
    "texts-utf8": many('"ä"'.encode(), b'{"texts":['),
    "deep": many(nested(60), b'{"inners":['),
    "deep-brackets": b"[" * LARGE,
    "unknown-keys": b"{" + b",".join(b'"k%d":1' % n for n in range(350_000)) + b"}",
    "spaces": b'{"text":"x"' + b" " * LARGE + b"}",
}
PROTO_BODIES = {
    "unknown-fields": times(b"\xa0\x06\x00"),
    "tiny-items": times(b"\x0a\x00"),
    "text": packed_field(2, b"x" * LARGE),
    "text-utf8": packed_field(2, times("ä€".encode())),
    "ints": packed_field(3, times(b"\x01")),
    "doubles": packed_field(4, times(b"\0\0\0\0\0\0\xf0\x3f")),
    "longs": packed_field(5, times(b"\xff\xff\xff\xff\xff\x1f")),
    "times": times(packed_field(6, b"\x08\xff\xff\xff\xff\x05\x10\x01")),
    "texts": times(b"\x3a\x01x"),
}
#: As many values as a body may have by default, or nearly.
MOST = 60_000
for _name, _item, _head in (
    ("objects", b"{}", b'{"smalls":['),
    ("ints", b"1", b'{"ints":['),
    ("longs-as-text", b'"123456789012"', b'{"longs":['),
    ("times", b'"2026-01-02T03:04:05.678+01:00"', b'{"times":['),
    ("texts-utf8", '"ä"'.encode(), b'{"texts":['),
):
    JSON_BODIES[f"{_name}-60000"] = many(_item, _head, size=MOST * (len(_item) + 1))
JSON_BODIES["deep-60000"] = many(nested(59), b'{"inners":[', size=MOST // 60 * (len(nested(59)) + 1))
for _name, _item in (("tiny-items", b"\x0a\x00"), ("times", packed_field(6, b"\x08\x01")), ("texts", b"\x3a\x01x")):
    PROTO_BODIES[f"{_name}-60000"] = _item * MOST
PROTO_BODIES["ints-60000"] = packed_field(3, b"\x01" * MOST)
CASES: dict[str, tuple[str, Request]] = {
    "codec-gzip-names": (
        "4 KB of gzip that are a list of empty names",
        call(
            "Codecs",
            "names",
            gzip.compress(many(b'""', b'{"language":1,"names":[')),
            headers={"content-encoding": "gzip"},
        ),
    ),
    "codec-gzip-wide": (
        "113 bytes of gzip: 20,000 {} of a type with 990 required fields",
        call(
            "Codecs",
            "wides",
            gzip.compress(many(b"{}", b'{"items":[', size=60_000)),
            headers={"content-encoding": "gzip"},
        ),
    ),
    "codec-answer-wide": ("an answer of 15 KB that its required fields make 594 MB", call("Codecs", "back")),
    "codec-answer-objects": ("an answer of 3.9 MB of {}", call("Codecs", "empties")),
    "codec-answer-wide-proto": ("an answer of 15 KB, asked for in protobuf", call("Codecs", "back", b"", **PROTO)),
    "codec-answer-objects-proto": (
        "an answer of 3.9 MB of {}, asked for in protobuf",
        call("Codecs", "empties", b"", **PROTO),
    ),
}
for _method, _what in (
    ("digits", "300,000 numbers of 64 bits"),
    ("most", "60,000 objects"),
    ("text", "one text"),
    ("umlauts", "texts, not ASCII"),
):
    for _kind, _empty in (("json", b"{}"), ("proto", b"")):
        _request = call("Codecs", _method, _empty, content_type=f"application/{_kind}")
        CASES[f"codec-answer-{_method}-{_kind}"] = (f"an answer in {_kind}: {_what}", _request)
for _name, _body in JSON_BODIES.items():
    CASES[f"codec-json-{_name}"] = (
        f"a body of {len(_body) >> 10:,} KiB of JSON: {_name}",
        call("Codecs", "shapes", _body),
    )
for _name, _body in PROTO_BODIES.items():
    CASES[f"codec-proto-{_name}"] = (
        f"a body of {len(_body) >> 10:,} KiB of protobuf: {_name}",
        call("Codecs", "shapes", _body, **PROTO),
    )


def codec(request: Request, bench: Bench) -> None:
    """Two callers with the body, and `/health` beside them."""
    limits = {"timeout_ms": 10_000}
    server = bench.server(package(bench.folder, "Codecs", guest(), METHODS, types=TYPES, limits=limits))
    for path in ("shapes", "names", "wides"):  # first calls are another load's
        for kind in ("json", "proto"):
            small = call("Codecs", path, b"{}" if kind == "json" else b"", content_type=f"application/{kind}")
            bench.start(server, small, count=1).result()
    with bench.watching(server):
        load = bench.start(server, request, connections=2, timeout=12)
        health = bench.probe(server, HEALTHY, rate=100).result()
        bench.made(load.result())
    bench.neighbour(health, HEALTH, name="/health", by="most")


#: The query of a GET: a bomb of gzip in base64, as large as it may be.
BOMB = quote(base64.b64encode(gzip.compress(many(b"{}", b'{"items":[', size=260_000))).decode())
CASES["codec-get-wide"] = (
    "the same by GET: what a URL may hold",
    Request(f"/bench.Codecs/look?connect=v1&encoding=json&base64=1&compression=gzip&message={BOMB}", method="GET"),
)


@load("codec-call", "okra.call with 4 KB of {} of a type with 990 required fields")
def okra_call(bench: Bench) -> None:
    head = '{"api":"okra.call","method":"invoke","parameters":{"service":"bench.Codecs","method":"wides","input":{"items":['
    tail, count = "{}]}}}", 1300
    start, end = SCRATCH + len(head), len(head) + 3 * count
    body = f"""(memory.copy (i32.const {SCRATCH}) (i32.const 4096) (i32.const {len(head)}))
      (call $repeat (i32.const {start}) (i32.const 4352) (i32.const 3) (i32.const {count}))
      (memory.copy (i32.const {SCRATCH + end}) (i32.const 4608) (i32.const {len(tail)}))"""
    more = data(4096, head) + data(4352, "{},") + data(4608, tail)
    wasm = module(body + ask(end + len(tail)), imports=HOST, more=more)
    caller = package(bench.folder, "Caller", wasm, apis=("okra.call",), limits={"timeout_ms": 10_000})
    callee = package(bench.folder, "Codecs", guest(), METHODS, types=TYPES, limits={"timeout_ms": 10_000})
    server = bench.server(callee, caller)
    with bench.watching(server):
        load = bench.start(server, call("Caller"), connections=2, timeout=12)
        health = bench.probe(server, HEALTHY, rate=100).result()
        bench.made(load.result())
    bench.neighbour(health, HEALTH, name="/health", by="most")


for _name, (_what, _request) in CASES.items():
    load(_name, _what)(partial(codec, _request))
