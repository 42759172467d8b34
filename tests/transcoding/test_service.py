"""The codecs of a service: bounded in what they make, the same here and in a process, made once."""

from __future__ import annotations

import asyncio
import inspect
import json
from asyncio import Future

import pytest

from insula.errors import DeadlineError, InsulaError, LimitError, PackageError, UnavailableError
from insula.plans import Codec
from insula.schema.binary_codec import read_registry
from insula.schema.bounds import Bounds
from insula.schema.idl import parse_idl
from insula.schema.json_codec import MAX_IN_RINGS
from insula.schema.model import Schema
from insula.transcoding.frames import Work
from insula.transcoding.process import Subject
from insula.transcoding.processes import CodecProcesses
from insula.transcoding.service import INLINE, MAX_FIELDS, Codecs
from insula.transcoding.store import MessageStore
from tests.scarce import refuse_threads
from tests.transcoding.conftest import SCHEMA, Turns, method, of_service, soon

MB = 1 << 20


def lists(item: bytes, count: int, name: bytes = b"rows") -> bytes:
    return b'{"%b":[%b]}' % (name, b",".join([item] * count))


async def done(answer: bytes | Future[bytes]) -> bytes:
    return answer if isinstance(answer, bytes) else await answer


ZEROS = [
    lists(b"{}", 20_000),
    lists(b'{"field_7":"x"}', 20_000),
    lists(b'{"unknown":[{}]}', 9_000),
    lists(b"{}", 5_000),
]
VALUES = [
    lists(b'""', 65_535, b"names"),
    lists(b"{}", 65_536, b"unknown"),
    b"[" + b"0," * 65_535 + b"0]",
    b'{"a":1,' + b'"b":[],' * 65_535 + b'"c":{}}',
]


@pytest.mark.parametrize("text", ZEROS, ids=len)
async def test_what_required_fields_add_is_bounded_both_ways(processes: CodecProcesses, text: bytes) -> None:
    codec = of_service(processes).json(method("echo"))
    turns = Turns()
    with pytest.raises(LimitError) as refused:
        await turns.over(done(codec.read_input(text, soon())))
    assert (refused.value.reason, refused.value.http_status) == ("body_bytes", 413)
    assert str(4 * MB) in refused.value.message
    with pytest.raises(LimitError) as answered:
        await turns.over(done(codec.write_output(text, soon())))
    assert (answered.value.reason, "limits.output_mb" in answered.value.message) == ("output_limit", True)
    assert turns.longest < 1.0


@pytest.mark.parametrize("text", VALUES, ids=["strings", "unknown", "bare", "members"])
async def test_values_are_counted_before_anything_is_decoded(processes: CodecProcesses, text: bytes) -> None:
    codec = of_service(processes).json(method("echo"))
    for way, status in ((codec.read_input, 413), (codec.write_output, 429)):
        with pytest.raises(LimitError) as refused:
            await done(way(text, soon()))
        assert (refused.value.reason, refused.value.http_status) == ("body_values", status)
        assert "limits.body_values" in refused.value.message
        assert "65536" in refused.value.message


@pytest.mark.parametrize("values", [20, 200, 70_000])
async def test_the_last_value_that_is_allowed_and_the_first_that_is_not(processes: CodecProcesses, values: int) -> None:
    service = of_service(processes, bounds=Bounds(values=values))
    codec, binary = service.json(method("echo")), service.binary(method("echo"))
    # the object, its list of rows, its list of names and what is in it; commas and brackets in strings are none
    for item in (b'"a"', b'"[,],[,]"', b'"\\",\\\\"'):
        text = b'{"rows":[],"names":[%b]}' % b",".join([item] * (values - 3))
        assert await done(codec.read_input(text, soon())) == text
        with pytest.raises(LimitError, match="body_values"):
            await done(codec.read_input(text.replace(b"[]", b'[],\n"a":{ }'), soon()))
    # the message and its fields: every item has a tag of its own here
    body = b"\x12\x00" * (values - 2)
    assert len(json.loads(await done(binary.read_input(body, soon())))["names"]) == values - 2
    with pytest.raises(LimitError, match="protobuf fields and items"):
        await done(binary.read_input(body + b"\xf8\x06\x00" * 2, soon()))
    # items of a packed list, which have no tags
    packed = b"\x1a" + varint(values - 2) + b"\x01" * (values - 2)
    assert len(json.loads(await done(binary.read_input(packed, soon())))["numbers"]) == values - 2
    with pytest.raises(LimitError, match="body_values"):
        await done(binary.read_input(packed + b"\xf8\x06\x00", soon()))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize(
    "body",
    [
        b"\xf8\x06\x00" * 1_000_000,  # unknown varints
        b"\xfa\x06\x00" * 1_000_000,  # unknown bytes
        b"\xfb\x06\xfc\x06" * 1_000_000,  # unknown groups
        b"\x0a\x00" * 1_000_000,
        b"\x0a" + varint(2_000_000) + b"\x0a\x00" * 1_000_000,
        b"\x22\x04\x08\x01\x10\x01" * 400_000,  # timestamps
        b"\x1a" + varint(3_000_000) + b"\x01" * 3_000_000,
    ],
    ids=["varints", "bytes", "groups", "rows", "fields", "times", "packed"],
)
async def test_fields_are_counted_before_anything_is_decoded(processes: CodecProcesses, body: bytes) -> None:
    codec = of_service(processes).binary(method("echo"))
    turns = Turns()
    with pytest.raises(LimitError) as refused:
        await turns.over(done(codec.read_input(body, soon())))
    assert (refused.value.reason, refused.value.http_status) == ("body_values", 413)
    assert turns.longest < 1.0


@pytest.mark.parametrize("size", [INLINE - 20, INLINE + 20, 300_000])
async def test_what_is_done_here_and_in_a_process_is_the_same(processes: CodecProcesses, size: int) -> None:
    service = of_service(processes)
    text = b'{"rows":[],"note":"%b"}' % (b"x" * size)
    codec, binary = service.json(method("echo")), service.binary(method("echo"))
    assert await done(codec.read_input(text, soon())) == text
    body = await done(binary.write_output(text, soon()))
    assert body == b"\x32" + varint(size) + b"x" * size
    assert await done(binary.read_input(body, soon())) == text
    for way in (codec.read_input, binary.write_output):
        with pytest.raises(InsulaError, match=r"\$\.names\[1\]"):
            await done(way(text[:-1] + b',"names":["",1]}', soon()))


async def test_an_answer_is_bounded_in_binary_too(processes: CodecProcesses) -> None:
    codec = of_service(processes, bounds=Bounds(output_bytes=10_000)).binary(method("echo"))
    numbers = lists(b"-1", 1_500, b"numbers")  # ten bytes each
    with pytest.raises(LimitError) as refused:
        await done(codec.write_output(numbers, soon()))
    assert refused.value.reason == "output_limit"


async def test_a_small_answer_that_grows_is_queued_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its JSON would be written in a process too: there is no job for that, which would hold its service's share."""
    processes = CodecProcesses(at_once=1, queue=14_000)
    works: list[Work] = []
    submit = processes.submit

    def noted(subject: Subject, method: str, work: Work, body: bytes, deadline: float) -> Future[bytes]:
        works.append(work)
        return submit(subject, method, work, body, deadline)

    monkeypatch.setattr(processes, "submit", noted)
    try:
        service = of_service(processes)
        binary = service.binary(method("echo"))
        small = b'{"rows":[],"note":"x"}'
        assert await done(binary.write_output(small, soon())) == b"\x32\x01x"  # its messages are made
        answer = b'{"rows":[' + b",".join([b"{}"] * 200) + b"]}"
        assert len(answer) < INLINE
        for _ in range(3):
            assert await done(binary.write_output(answer, soon())) == b"\x0a\x00" * 200
        assert works == [Work.WRITE_BINARY] * 3
        assert await done(service.json(method("echo")).write_output(answer, soon()))
        assert works[3:] == [Work.WRITE_JSON]
    finally:
        await processes.close()


async def test_the_messages_of_a_schema_are_made_once_while_all_callers_wait(
    processes: CodecProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    real = read_registry

    def counted(descriptor: bytes) -> object:
        made.append(descriptor)
        return real(descriptor)

    monkeypatch.setattr("insula.transcoding.store.read_registry", counted)
    codecs = Codecs(processes, MessageStore())
    services = [codecs.of(f"a.{name}.v1", f"digest {name}", SCHEMA, Bounds()) for name in "AB"]
    calls = [
        service.binary(method(name)).read_input(b"", soon())
        for service in services
        for name in ("echo", "rows", "ping")
        for _ in range(3)
    ]
    assert inspect.isawaitable(calls[0])
    assert set(await asyncio.gather(*map(done, calls))) == {b'{"rows":[]}', b"{}"}
    assert len(made) == 1
    assert services[0].binary(method("echo")).read_input(b"", soon()) == b'{"rows":[]}'


async def test_who_waits_for_the_messages_of_a_schema_waits_until_the_deadline(
    processes: CodecProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    go_on = threading.Event()
    real = read_registry

    def slow(descriptor: bytes) -> object:
        go_on.wait(30)
        return real(descriptor)

    monkeypatch.setattr("insula.transcoding.store.read_registry", slow)
    codec = of_service(processes).binary(method("echo"))
    with pytest.raises(DeadlineError):
        await done(codec.read_input(b"", soon(0.05)))
    waiting = codec.read_input(b"", soon())
    go_on.set()
    assert await done(waiting) == b'{"rows":[]}'


async def test_the_store_has_room_for_so_many_schemas(processes: CodecProcesses) -> None:
    codecs = Codecs(processes, MessageStore(most_schemas=1))
    for name in "aba":
        schema = parse_idl(f'@okra(namespace: "a") service S {{ f(input: T): T }} type T {{ {name}: Int }}')
        codec = codecs.of("a.S.v1", name, schema, Bounds()).binary(method("f", schema))
        if name == "b":
            with pytest.raises(LimitError, match="no room"):
                await done(codec.read_input(b"", soon()))
        else:
            assert await done(codec.read_input(b"", soon())) == b"{}"


def wide(types: int, fields: int, ring: bool = False) -> Schema:
    kinds = " ".join(
        f"type T{number} {{ "
        + " ".join(f"f{field}: Int" for field in range(fields))
        + (f" next: T{(number + 1) % types}" if ring or number + 1 < types else "")
        + " }"
        for number in range(types)
    )
    return parse_idl(f'@okra(namespace: "a") service S {{ f(input: T0): T0 g(input: T0): T0 }} {kinds}')


async def test_messages_for_which_the_system_gives_no_thread_are_made_later(
    processes: CodecProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = of_service(processes).binary(method("echo"))
    with refuse_threads(monkeypatch), pytest.raises(UnavailableError, match="starts no more threads"):
        await done(codec.read_input(b"", soon()))
    assert await done(codec.read_input(b"", soon())) == b'{"rows":[]}'


@pytest.mark.parametrize("ring", [False, True])
async def test_a_schema_that_is_too_large_to_be_loaded_here_works_all_the_same(
    processes: CodecProcesses, ring: bool
) -> None:
    schema = wide(12, 100, ring)
    assert sum(len(kind.fields) for kind in schema.types) > max(MAX_IN_RINGS, MAX_FIELDS)
    service = of_service(processes, schema)
    await service.prepare()
    codec, binary = service.json(method("f", schema)), service.binary(method("f", schema))
    text = b'{"f1":1,"next":{"f2":2,"next":{}}}'
    assert inspect.isawaitable(codec.read_input(text, soon())) == ring
    assert await done(codec.read_input(text, soon())) == text
    body = binary.write_output(text, soon())
    assert inspect.isawaitable(body)
    assert await done(binary.read_input(await done(body), soon())) == text


async def test_a_deploy_refuses_types_that_cannot_be_read(processes: CodecProcesses) -> None:
    with pytest.raises(PackageError, match="nest too deeply"):
        await of_service(processes, wide(1_500, 0, ring=True)).prepare()
    row = parse_idl(
        '@okra(namespace: "a") service S { f: Row } type Row { '
        + " ".join(f"{'x' * 100}{number}: String!" for number in range(900))
        + " }"
    )
    with pytest.raises(PackageError, match=r"an empty Row takes \d+ bytes.*limits.output_mb"):
        await of_service(processes, row, Bounds(output_bytes=50_000)).prepare()


async def test_a_large_schema_is_compiled_beside_a_loop_that_turns(processes: CodecProcesses) -> None:
    turns = Turns()
    await turns.over(of_service(processes, wide(40, 400)).prepare())
    assert turns.longest < 1.0


@pytest.mark.parametrize("codec", ["json", "binary"])
async def test_nobody_works_on_what_nobody_waits_for(processes: CodecProcesses, codec: str) -> None:
    service = of_service(processes)
    chosen: Codec = service.json(method("echo")) if codec == "json" else service.binary(method("echo"))
    jobs = [chosen.read_input(b" " * 300_000, soon()) for _ in range(5)]
    for job in jobs:
        assert isinstance(job, asyncio.Future)
        job.cancel()
    await asyncio.sleep(0)
    assert processes.waiting == 0
