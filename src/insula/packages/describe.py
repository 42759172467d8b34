"""What a package is and asks for, in plain words: what somebody wants to know before trusting it with their server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from insula.errors import CallerError, Code
from insula.packages.files import open_plain
from insula.packages.gzipped import ArchiveLimits, size
from insula.packages.okra import digest_of, load_package, unpack
from insula.packages.package import Package
from insula.schema.model import Method
from insula.schema.policy import is_read_only, is_stream, policy_of

#: What a service may do once it is granted each host API.
_APIS: Mapping[str, str] = {
    "okra.log": "write to the server's log",
    "okra.time": "read the clock and wait",
    "okra.env": "read settings that the operator gives it",
    "okra.secrets": "read secrets that the operator gives it",
    "okra.state": "keep durable state of its own",
    "okra.cache": "keep values in a cache of its own",
    "okra.call": "call other services of this server",
    "okra.fetch": "send HTTP requests to the outside",
    "okra.sql": "use a SQL database of its own",
    "okra.queue": "put messages into queues and handle them",
    "okra.schedule": "run its methods later, or at set times",
    "okra.metrics": "count and measure",
    "okra.context": "see who calls, and set headers of the answer",
    "okra.bus": "publish to topics that others of the server listen to",
    "okra.blob": "keep files of its own",
    "okra.stream": "send the items of a stream",
}
_LANGUAGES: Mapping[str, str] = {"c": "C", "go": "Go"}
_GRANTS: Mapping[tuple[str, str], str] = {
    ("okra.fetch", "hosts"): "the hosts",
    ("okra.env", "keys"): "the keys",
    ("okra.secrets", "keys"): "the keys",
}


#: Memory of one instance (MiB) above which its calls never run on the event loop (`wasm/engine.py`).
INLINE_MB = 64


def large_memory(memory_mb: int) -> list[str]:
    """What there is to know of a service with so much memory: a sentence, or nothing."""
    if memory_mb <= INLINE_MB:
        return []
    return [
        f"With more than {INLINE_MB} MiB of memory ({memory_mb}) its calls run in worker threads alone, where a short call "
        "takes about three times as long, unless its module itself stays below."
    ]


@contextmanager
def open_package(file: Path) -> Iterator[Package]:
    """Reads a package of this machine outside any depot; its files are gone when the block ends. Blocking.

    CallerError where there is no such file, PackageError where it is no package.
    """
    open_plain(file).close()
    if file.stat().st_size > ArchiveLimits().packed:
        raise CallerError(
            f"{file} is larger than {size(ArchiveLimits().packed)}", code=Code.RESOURCE_EXHAUSTED, status=413
        )
    with tempfile.TemporaryDirectory(prefix="insula-") as folder:
        unpack(file, Path(folder))
        yield load_package(Path(folder), digest_of(file))


def describe(package: Package) -> list[str]:
    """The package in sentences, the most important first. What the package says of itself is a stranger's text: what
    could steer a terminal is taken out of it."""
    return ["".join(letter if letter.isprintable() else "�" for letter in line) for line in _sentences(package)]


def _sentences(package: Package) -> list[str]:
    config, service = package.config, package.schema.service
    named = "" if config.name == service.name else f" (okra.json calls it {config.name})"
    language = f", written in {_LANGUAGES.get(config.language, config.language)}" if config.language else ""
    sentences = [
        f"{package.service_id}{named} is version {config.version}{language}.",
        f"Its digest is sha256:{package.digest}; its module has {size(package.wasm.stat().st_size)}.",
    ]
    if service.doc:
        sentences.append(f"It says of itself: {' '.join(service.doc.split())}")
    sentences += _host_apis(package)
    sentences += _limits(package)
    if package.migrations:
        sentences.append(f"It brings {_count(len(package.migrations), 'migration')} for its SQL database.")
    return sentences + _methods(service.methods)


def _host_apis(package: Package) -> list[str]:
    config = package.config
    if not config.host_apis and not config.grants:
        return ["It asks for nothing of the host: no state, no network, no other service."]
    names = dict.fromkeys((*config.host_apis, *config.grants))
    return [_host_api(name, config.grants.get(name, {})) for name in names]


def _host_api(name: str, grants: Mapping[str, Any]) -> str:
    does = _APIS.get(name, "use what the operator has added to this server")
    limits = ", ".join(f"{_GRANTS.get((name, key), key)} {_listed(value)}" for key, value in sorted(grants.items()))
    if limits:
        return f"It asks to {does} ({name}): {limits}."
    anything = {
        "okra.fetch": ", and names no host",
        "okra.env": ", and names no key",
        "okra.secrets": ", and names no key",
    }
    return f"It asks to {does} ({name}){anything.get(name, '')}."


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _limits(package: Package) -> list[str]:
    limits = package.config.limits
    if limits.singleton:
        instances = "one instance, never two"
    else:
        instances = f"{limits.min_instances} to {_count(limits.max_instances, 'instance')}"
    return [
        f"It runs as {instances}, each with at most {limits.memory_mb} MiB of memory.",
        f"A call may take {limits.timeout_ms / 1000:g} s and answer {limits.output_mb} MiB; "
        f"{_count(limits.mailbox, 'call')} may wait.",
        *large_memory(limits.memory_mb),
    ]


def _methods(methods: tuple[Method, ...]) -> list[str]:
    sentences = [f"It has {_count(len(methods), 'method')}:"]
    open_to_all = [method.name for method in methods if not policy_of(method).authenticated]
    for method in methods:
        policy = policy_of(method)
        marks = [
            *(("only reads",) if is_read_only(method) else ()),
            *(("streams",) if is_stream(method) else ()),
            *(("needs an identity",) if policy.authenticated and not policy.roles else ()),
            *((f"needs one of the roles {', '.join(policy.roles)}",) if policy.roles else ()),
        ]
        said = f": {'; '.join(marks)}" if marks else ""
        sentences.append(f"  {method.name}({method.input_type}) -> {method.output_type or 'nothing'}{said}")
    if open_to_all:
        everyone = "every method" if len(open_to_all) == len(methods) else ", ".join(open_to_all)
        sentences.append(f"Anyone who reaches the server may call {everyone}.")
    return sentences


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
