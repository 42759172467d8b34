"""A package as it lies in the depot: its files in one settled form, and a record of what each must be.

An installed folder is read at every start, so reading it parses no IDL, makes no descriptors and inflates nothing: the
parts are in the form that the server wants, and `installed.json` holds the sha256 of each. A bit that has changed on
the disk is found when the package is loaded, never first in an answer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from insula.durable import flush, write_file
from insula.errors import Code, InsulaError
from insula.packages.config import write_config
from insula.packages.okra import CONFIG, DESCRIPTION, DESCRIPTOR, IDL, MIGRATIONS, WASM, digest_of
from insula.packages.package import Package, PackageConfig
from insula.schema.model import Schema, write_description

RECORD = "installed.json"

#: Raised when the settled form changes; a package of another form is installed again from its source.
FORM = 1


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """installed.json: the package's digest, and the sha256 of each of its files by path."""

    form: int
    digest: str
    files: dict[str, str]


_record = msgspec.json.Decoder(Record)
_config = msgspec.json.Decoder(PackageConfig)
_schema = msgspec.json.Decoder(Schema)


def settle(package: Package) -> None:
    """Brings the folder of a package just read into the settled form and flushes it to the disk. Blocking; OSError."""
    folder = package.folder
    write_file(folder / CONFIG, write_config(package.config))
    write_file(folder / DESCRIPTION, write_description(package.schema))
    write_file(folder / DESCRIPTOR, package.descriptor)
    paths = [CONFIG, DESCRIPTION, DESCRIPTOR, *(f"{MIGRATIONS}/{name}" for name in package.migrations)]
    if (folder / IDL).exists():
        paths.append(IDL)
    files = {path: digest_of(folder / path) for path in paths} | {WASM: package.wasm_digest}
    write_file(folder / RECORD, msgspec.json.encode(Record(FORM, package.digest, files)))
    for path in files:
        flush(folder / path)
    if package.migrations:
        flush(folder / MIGRATIONS)
    flush(folder)


def read_installed(folder: Path, digest: str) -> Package:
    """The package in an installed folder. Blocking; `data_loss` where a file is not what was installed."""
    try:
        record = _record.decode((folder / RECORD).read_bytes())
        if record.form != FORM:
            raise InsulaError(
                f"the package {digest[:12]} was installed by another version of this server",
                code=Code.FAILED_PRECONDITION,
                hint="deploy it again from its source",
            )
        if record.digest != digest:
            raise _damaged(digest, RECORD)
        texts = {path: _checked(folder, path, record, digest) for path in (CONFIG, DESCRIPTION, DESCRIPTOR)}
        migrations = sorted(path for path in record.files if path.startswith(f"{MIGRATIONS}/"))
        for path in (WASM, *migrations):
            if digest_of(folder / path) != record.files[path]:
                raise _damaged(digest, path)
        return Package(
            digest=digest,
            folder=folder,
            config=_config.decode(texts[CONFIG]),
            schema=_schema.decode(texts[DESCRIPTION]),
            wasm=folder / WASM,
            wasm_digest=record.files[WASM],
            descriptor=texts[DESCRIPTOR],
            migrations=tuple(path.rpartition("/")[2] for path in migrations),
        )
    except FileNotFoundError as error:
        raise _damaged(digest, Path(str(error.filename)).name) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError) as error:
        raise _damaged(digest, RECORD) from error


def _checked(folder: Path, path: str, record: Record, digest: str) -> bytes:
    data = (folder / path).read_bytes()
    if hashlib.sha256(data).hexdigest() != record.files[path]:
        raise _damaged(digest, path)
    return data


def _damaged(digest: str, path: str) -> InsulaError:
    return InsulaError(
        f"the installed package {digest[:12]} is damaged: {path} is not what was installed",
        code=Code.DATA_LOSS,
        reason="damaged_package",
        hint="deploy the package again from its source, and look after the disk",
    )
