"""The sources of settings, each read into one flat layer: key path -> raw value. The first layer that has a key wins.

Flag, environment (`INSULA_SECTION__KEY`), systemd credentials, `.env` of the working directory, TOML file. Nothing is
converted here; aliases are: `server.bind_address` becomes host and port, and `…_file` of a secret becomes a `SecretFile`
under the secret's own key, so that of the two the higher layer wins. No message ever holds a value.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from insula.errors import ConfigurationError
from insula.settings.secret import Secret
from insula.settings.tree import RESERVED_SECTIONS, SECTIONS, SERVICE_SECTIONS
from insula.settings.words import bare

#: `("server", "port")`, or for a section with a table for each service `("env", "shop.Orders", "REGION")`.
KeyPath: TypeAlias = tuple[str, ...]

PREFIX = "INSULA_"
MAX_FILE = 1 << 20
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\[\]:\s]+))(?::(?P<port>\d{1,5}))?")
_DOTENV = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(?P<value>.*?)\s*")


@dataclass(frozen=True, slots=True)
class SecretFile:
    """The file that holds a secret; read only if nothing above it has a say."""

    path: Path


@dataclass(slots=True)
class Layer:
    """One source: its name for people, its raw values, and whether these are texts that have to be parsed."""

    name: str
    texts: bool = False
    values: dict[KeyPath, Any] = field(default_factory=dict)
    names: dict[KeyPath, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The name in a sentence: `in the environment`, `in insula.toml`."""
        return f"the {self.name}" if self.name in ("environment", "flags", "systemd credential") else self.name

    def put(self, path: KeyPath, value: Any, name: str = "") -> None:
        """Sets a key once; `name` is how this source spells it."""
        self.values[path] = value
        self.names[path] = name or ".".join(path)


def secret_keys() -> frozenset[KeyPath]:
    """Every key of the plain sections whose value is a secret."""
    return frozenset(
        (section, name)
        for section, struct in SECTIONS.items()
        for name, annotation in _annotations(struct).items()
        if bare(annotation) is Secret
    )


def _annotations(struct: type) -> dict[str, Any]:
    return get_type_hints(struct, include_extras=True)


def flag_layer(flags: Mapping[str, Any]) -> Layer:
    """`{"server.port": 8080}` of the command line or an embedder; None means that the flag was not given."""
    layer = Layer("flags")
    for key, value in flags.items():
        if value is not None:
            layer.put(tuple(key.split(".", 1)), value)
    return layer


def environment_layer(environ: Mapping[str, str], name: str = "environment") -> Layer:
    """`INSULA_SECTION__KEY` and DATABASE_URL. An empty value is none. One underscore where two belong is refused, as a
    token that is silently not read leaves a door open; `tcp://…` ports that Kubernetes sets are passed over."""
    layer = Layer(name, texts=True)
    if environ.get("DATABASE_URL"):
        layer.put(("storage", "url"), environ["DATABASE_URL"], "DATABASE_URL")
    single: dict[str, str] = {
        f"{PREFIX}{section}_{key}".upper(): f"{PREFIX}{section}__{key}".upper()
        for section, struct in SECTIONS.items()
        for key in struct.__struct_fields__
    }
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or not value:
            continue
        section, *rest = variable.removeprefix(PREFIX).split("__")
        section = section.lower()
        if rest and section in SERVICE_SECTIONS:
            layer.put((section, *rest), value, variable)
        elif rest:
            layer.put((section, "__".join(rest).lower()), value, variable)
        elif section in SERVICE_SECTIONS:
            for path, item in _service_tables(section, _json_table(variable, value)):
                layer.put(path, item, variable)
        elif variable in single and not value.startswith(("tcp://", "udp://")):
            raise ConfigurationError(
                f"{variable} in {layer.place} is not a setting",
                hint=f"did you mean {single[variable]}, with two underscores?",
            )
    return layer


def _json_table(variable: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"{variable} must be a JSON object", hint=f'{variable}=\'{{"shop.Orders": {{"NAME": "value"}}}}\''
        )
    return value


def dotenv_layer(path: Path) -> Layer | None:
    """`.env` of the working directory, where there is one: NAME=value lines, `#` comments, quotes taken off."""
    text = _read_text(path, ".env")
    if text is None:
        return None
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _DOTENV.fullmatch(line)
        if match is None:
            raise ConfigurationError(f".env, line {number}: not NAME=value", hint="a comment starts with #")
        found[match["name"]] = _unquoted(match["value"])
    return environment_layer(found, ".env")


def _unquoted(value: str) -> str:
    if value[:1] in ('"', "'"):
        end = value.find(value[0], 1)
        if end > 0 and (not value[end + 1 :].strip() or value[end + 1 :].lstrip().startswith("#")):
            return value[1:end]
    return re.split(r"\s#", value, maxsplit=1)[0].rstrip() if not value.startswith("#") else ""


def file_layer(path: Path, label: str, *, required: bool) -> Layer | None:
    """A TOML file; None where it is not there and need not be."""
    text = _read_text(path, label)
    if text is None:
        if required:
            raise ConfigurationError(f"there is no configuration file {label}", hint="give --config another path")
        return None
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        where = re.search(r"at line \d+, column \d+", str(error))
        raise ConfigurationError(
            f"{label} is not valid TOML{' ' + where[0] if where else ''}", hint="toml.io shows how TOML is written"
        ) from None
    layer = Layer(label)
    for section, table in document.items():
        if not isinstance(table, dict):
            if section in SECTIONS or section in SERVICE_SECTIONS or section in RESERVED_SECTIONS:
                raise ConfigurationError(f"`{section}` in {label} must be a table", hint=f"write [{section}]")
            layer.put((section,), table)
        elif section in SERVICE_SECTIONS:
            for key, value in _service_tables(section, table):
                layer.put(key, value)
        elif not table:
            layer.put((section, ""), None)
        else:
            for key, value in table.items():
                layer.put((section, key), value)
    return layer


def _service_tables(section: str, table: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    for service, values in unnested(table, tables=True).items():
        if isinstance(values, dict):
            for name, value in values.items():
                yield (section, service, name), value
        else:
            yield (section, service), values


def unnested(table: Mapping[str, Any], *, tables: bool) -> dict[str, Any]:
    """A table whose keys have dots, `"shop.Orders" = …`, also where they are written without quotes: TOML reads those as
    tables in one another. `tables` says that its values are tables themselves, of anything but tables."""
    found: dict[str, Any] = {}

    def put(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            found[name] = value
            return
        own = {key: each for key, each in value.items() if tables and not isinstance(each, dict)}
        if own or not value:
            found[name] = {**(found.get(name) or {}), **own} if isinstance(found.get(name, {}), dict) else own
        for key, each in value.items():
            if key not in own:
                put(f"{name}.{key}", each)

    for name, value in table.items():
        put(name, value)
    return found


def _read_text(path: Path, label: str) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"{label} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise ConfigurationError(f"{label} is larger than {MAX_FILE} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{label} is not UTF-8 text") from None


def credentials_layer(folder: str | None) -> Layer | None:
    """Credentials of systemd that are named as a secret's full key: `LoadCredential=admin.token:/etc/…`."""
    if not folder:
        return None
    layer = Layer("systemd credential")
    for path in secret_keys():
        file = Path(folder) / ".".join(path)
        if file.is_file():
            layer.put(path, SecretFile(file))
    return layer


def expand(layer: Layer, credentials: str | None) -> None:
    """Puts aliases in their place: `bind_address`, and `…_file` of every secret."""
    address = layer.values.pop(("server", "bind_address"), None)
    if address is not None:
        _expand_address(layer, address, layer.names.pop(("server", "bind_address")))
    for path in [path for path in layer.values if path[-1].endswith("_file") and len(path) > 1]:
        target = (*path[:-1], path[-1].removesuffix("_file"))
        if target not in secret_keys() and not (path[0] == "secrets" and len(path) == 3):
            continue
        value, name = layer.values.pop(path), layer.names.pop(path)
        if target in layer.values:
            raise ConfigurationError(f"`{name}` and `{layer.names[target]}` in {layer.place} say the same thing twice")
        if not isinstance(value, str | Path) or not str(value):
            raise ConfigurationError(f"`{name}` in {layer.place} must be a path")
        file = Path(value)
        if credentials and not file.is_absolute() and (Path(credentials) / file).is_file():
            file = Path(credentials) / file
        layer.put(target, SecretFile(file), name)


def _expand_address(layer: Layer, address: Any, name: str) -> None:
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or (match["port"] and int(match["port"]) > 65535):
        raise ConfigurationError(
            f"`{name}` in {layer.place} must be an address with a port", hint='bind_address = "0.0.0.0:8080"'
        )
    host, port = match["six"] or match["host"], match["port"]
    for key, value in (("host", host), ("port", port)):
        if value is None:
            continue
        if ("server", key) in layer.values:
            raise ConfigurationError(
                f"`{name}` and `{layer.names['server', key]}` in {layer.place} say the same thing twice",
                hint="keep one of them",
            )
        layer.put(("server", key), int(value) if key == "port" and not layer.texts else value, name)
