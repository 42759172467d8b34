"""The greeter as any OKRA host knows it: without the one-call entry, so that a call of it is six calls of exports."""

from __future__ import annotations

import tarfile
from pathlib import Path

from insula import examples
from insula.packages.config import read_config
from insula.packages.writer import write_package
from insula.schema.idl import parse_idl

PATH = "/plain.Greeter/greet"


def package(target: Path) -> Path:
    """Writes it in a namespace of its own."""
    greeter = examples.find("greeter")
    assert greeter is not None
    with tarfile.open(greeter) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        idl, wasm, config = (
            opened.read()
            for opened in (files[name] for name in ("service.okra.gql", "service.wasm", "okra.json"))
            if opened
        )
    text = idl.decode().replace('namespace: "examples"', 'namespace: "plain"')
    assert wasm.count(b"insula_call") == 1, "the greeter has the one-call entry, by name in its exports"
    six = wasm.replace(b"insula_call", b"another_cal")
    write_package(target, config=read_config(config), schema=parse_idl(text), wasm=six, idl=text)
    return target
