"""A codec process: `python -I -m insula.transcoding.child MEMORY`, started by processes.py alone.

It reads and writes the bodies that would take the server's event loop too long, by the same codecs. Bodies and schemas come
from strangers, so the process has no secrets, no sockets and no files of the server's, and a limit on memory (bytes of
address space). Jobs come on stdin, answers leave on stdout, one after the other. The process ends when stdin closes or when
its memory is used up. The server kills it at the deadline of a job; if the server is dead, the process ends by itself some
seconds later.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import traceback

import msgspec

from insula.errors import InsulaError
from insula.schema.binary_codec import compile_binary, read_registry
from insula.schema.binary_count import FieldCount
from insula.schema.bounds import Bounds
from insula.schema.descriptors import to_descriptor_set
from insula.schema.json_codec import WholeCodec, compile_all
from insula.schema.model import Schema
from insula.transcoding.frames import Answer, Job, Work, fingerprint, receive, refusal_of, send

#: Seconds after a job's deadline at which the process ends by itself.
_GRACE = 5.0
#: Jobs between two garbage collections: what is decoded has no cycles, errors may have.
_COLLECT_AFTER = 256


class _Loaded:
    """The codecs of one schema, each made when it is first needed."""

    def __init__(self, schema: bytes, bounds: Bounds) -> None:
        self._schema = msgspec.msgpack.decode(schema, type=Schema)
        self._bounds = bounds
        self._json = compile_all(self._schema, bounds)
        self._binary: dict[str, WholeCodec] = {}

    def codec(self, method: str, binary: bool) -> WholeCodec:
        if not binary:
            return self._json[method]
        if not self._binary:
            registry = read_registry(to_descriptor_set(self._schema))
            count = FieldCount(self._schema)
            for one in self._schema.service.methods:
                self._binary[one.name] = compile_binary(
                    registry, self._schema, one, self._json[one.name], self._bounds, count
                )
        return self._binary[method]


def main() -> None:
    _limit(int(sys.argv[1]))
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(fingerprint())
    answers.flush()
    decoder = msgspec.msgpack.Decoder(Job)
    loaded: dict[str, _Loaded] = {}
    gc.collect()
    gc.freeze()
    gc.disable()
    done = 0
    while True:
        try:
            came = receive(jobs, decoder)
        except MemoryError:
            send(answers, Answer(out_of_memory=True), b"")
            break
        if came is None:
            break
        job, body = came
        signal.setitimer(signal.ITIMER_REAL, job.seconds + _GRACE)
        answer, out = _work(loaded, job, body)
        del body, came
        send(answers, answer, out)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        del out
        if answer.out_of_memory:
            break
        done += 1
        if done % _COLLECT_AFTER == 0:
            gc.collect()


def _work(loaded: dict[str, _Loaded], job: Job, body: bytes) -> tuple[Answer, bytes]:
    try:
        if job.schema:
            loaded[job.key] = _Loaded(job.schema, job.bounds)
        codec = loaded[job.key].codec(job.method, job.work >= Work.READ_BINARY)
        way = codec.read_input if job.work in (Work.READ_JSON, Work.READ_BINARY) else codec.write_output
        return Answer(), way(body)
    except InsulaError as error:
        return Answer(refusal=refusal_of(error)), b""
    except MemoryError:
        return Answer(out_of_memory=True), b""
    except Exception:
        return Answer(broken=traceback.format_exc()[-4000:]), b""


def _limit(memory: int) -> None:
    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64)):
        _, hard = resource.getrlimit(kind)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError):
            # macOS refuses a limit on address space; there the bounds of a body and the deadline hold
            if sys.platform == "linux":
                raise


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the server's whole group
    main()
    os._exit(0)
