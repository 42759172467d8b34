"""From the sources to one frozen tree: merge the layers, refuse what is unknown, convert, resolve paths.

Every problem that is found is reported, each with its full key and source, and never with a value: it may be a secret.
Reading settings opens nothing but the files that hold them and starts nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from insula.errors import ConfigurationError
from insula.settings.layers import (
    KeyPath,
    Layer,
    SecretFile,
    credentials_layer,
    dotenv_layer,
    environment_layer,
    expand,
    file_layer,
    flag_layer,
    unnested,
)
from insula.settings.secret import Secret
from insula.settings.sections import SERVICE_NAME, LimitSettings, ServerSettings, ServiceLimitSettings
from insula.settings.tree import RESERVED_SECTIONS, SECTIONS, SERVICE_SECTIONS, Settings
from insula.settings.words import accepts, bare, nearest

DEFAULT_FILE = "insula.toml"
MAX_SECRET = 65_536

#: What a profile has in place of the defaults, as lowest layer.
PROFILES: dict[str, dict[KeyPath, Any]] = {
    "insula": {},
    "rune": {("server", "port"): 3000, ("server", "apps_dir"): "apps"},
    "tinywasm": {("server", "port"): 6060, ("modules", "dir"): "modules/dist"},
}


def load(
    config: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """The settings of this machine: flags (`{"server.port": 9090}`) over environment over `.env` over the TOML file
    (`config`, else `insula.toml` of the working directory if there) over defaults. ConfigurationError names each wrong
    key. Blocking: files are read."""
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    layers = [
        flag_layer(flags or {}),
        environment_layer(environ),
        credentials_layer(credentials),
        dotenv_layer(cwd / ".env"),
        file_layer(cwd / (config or DEFAULT_FILE), str(config or DEFAULT_FILE), required=config is not None),
    ]
    return _build([layer for layer in layers if layer is not None], cwd, credentials)


def _build(layers: list[Layer], cwd: Path, credentials: str | None) -> Settings:
    for layer in layers:
        expand(layer, credentials)
    problems = [problem for layer in layers for problem in _unknown(layer)]
    if problems:
        raise _refusal(problems)
    profile = _first(layers, ("server", "profile"))
    if isinstance(profile, str) and profile in PROFILES:
        layers.append(Layer(f"profile {profile}", values=dict(PROFILES[profile])))
    winners: dict[KeyPath, Layer] = {}
    for layer in layers:
        for path in layer.values:
            winners.setdefault(path, layer)
    values: dict[str, dict[str, Any]] = {}
    for path, layer in winners.items():
        if path[0] in RESERVED_SECTIONS or path[-1] == "":
            continue
        try:
            _place(values, path, _convert(path, layer, cwd))
        except ConfigurationError as error:
            problems.append(error)
    if problems:
        raise _refusal(problems)
    values.setdefault("server", {}).setdefault("data_dir", cwd / ServerSettings().data_dir)
    tree: dict[str, Any] = {
        section: SECTIONS[section](**found) if section in SECTIONS else found for section, found in values.items()
    }
    return Settings(**tree, origins={".".join(filter(None, path)): layer.name for path, layer in winners.items()})


def _first(layers: list[Layer], path: KeyPath) -> Any:
    return next((layer.values[path] for layer in layers if path in layer.values), None)


def _place(values: dict[str, dict[str, Any]], path: KeyPath, value: Any) -> None:
    section = values.setdefault(path[0], {})
    if len(path) == 3:
        section.setdefault(path[1], {})[path[2]] = value
    else:
        section[path[1]] = value


def _refusal(problems: list[ConfigurationError]) -> ConfigurationError:
    if len(problems) == 1:
        return problems[0]
    return ConfigurationError(
        f"{len(problems)} settings cannot be used:\n" + "\n".join(f"  {each}" for each in problems)
    )


@cache
def keys_of(section: str) -> dict[str, Any]:
    """The keys of a section with their annotated types."""
    return {
        name: annotation
        for name, annotation in get_type_hints(SECTIONS[section], include_extras=True).items()
        if name in SECTIONS[section].__struct_fields__
    }


def real_keys() -> list[str]:
    """Every key there is, in full; aliases too."""
    keys = []
    for section in SECTIONS:
        for name, annotation in keys_of(section).items():
            keys.append(f"{section}.{name}")
            if bare(annotation) is Secret:
                keys.append(f"{section}.{name}_file")
    return [*keys, "server.bind_address"]


def _unknown(layer: Layer) -> Iterator[ConfigurationError]:
    for path in layer.values:
        if path[0] in RESERVED_SECTIONS:
            continue
        name = layer.names[path]
        if path[0] in SERVICE_SECTIONS:
            if len(path) != 3:
                yield ConfigurationError(
                    f"`{name}` in {layer.place} must be a table",
                    hint=f'write [{path[0]}."shop.Orders"] NAME = "value"',
                )
            elif not SERVICE_NAME.fullmatch(path[1]):
                yield ConfigurationError(
                    f"`{name}` in {layer.place} does not name a service",
                    hint=f'a service is namespace.Name: [{path[0]}."shop.Orders"]',
                )
        elif path[0] not in SECTIONS or (path[-1] != "" and path[-1] not in SECTIONS[path[0]].__struct_fields__):
            key = ".".join(filter(None, path))
            near = nearest(key, real_keys()) if path[-1] else nearest(path[0], [*SECTIONS, *SERVICE_SECTIONS])
            yield ConfigurationError(
                f"`{name}` in {layer.place} is not a setting",
                hint=f"did you mean `{_spelt(near, layer)}`?",
            )


def _spelt(key: str, layer: Layer) -> str:
    return "INSULA_" + key.replace(".", "__").upper() if layer.texts else key


def _convert(path: KeyPath, layer: Layer, cwd: Path) -> Any:
    """The raw value of one key as its type; ConfigurationError names the key and what it takes."""
    annotation = SERVICE_SECTIONS[path[0]] if path[0] in SERVICE_SECTIONS else keys_of(path[0])[path[1]]
    raw, name = layer.values[path], layer.names.get(path, ".".join(path))
    if isinstance(raw, SecretFile):
        return _read_secret(cwd / raw.path, name)
    if layer.texts and isinstance(raw, str):
        raw = _parsed(raw, bare(annotation))
    if get_origin(bare(annotation)) is dict and isinstance(raw, dict):
        raw = unnested(raw, tables=path == ("limits", "services"))

    def custom(kind: type, value: Any) -> Any:
        if kind is Secret and isinstance(value, Secret):
            return value
        if kind is Secret and isinstance(value, str) and len(value) <= MAX_SECRET:
            return Secret(value)
        if kind is Path and isinstance(value, str | Path) and str(value) and "\0" not in str(value):
            return cwd / Path(value).expanduser()
        raise TypeError

    try:
        value = msgspec.convert(raw, annotation, strict=not layer.texts, dec_hook=custom)
    except (msgspec.ValidationError, RuntimeError):
        if path == ("limits", "services"):
            _check_service_limits(raw, name, layer)
        raise ConfigurationError(f"`{name}` in {layer.place} must be {accepts(annotation)}") from None
    _check_names(path, value, name, layer.place)
    return value


def _parsed(text: str, kind: Any) -> Any:
    """A text of the environment as list or table: JSON, or for a list texts between commas."""
    if get_origin(kind) in (tuple, dict) and text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None
    if get_origin(kind) is tuple and get_args(kind):
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _check_names(path: KeyPath, value: Any, name: str, source: str) -> None:
    if path[0] == "grants" and isinstance(value, dict):
        for service in value:
            if service != "*" and not SERVICE_NAME.fullmatch(service):
                raise ConfigurationError(
                    f"`{name}` in {source} has a key that does not name a service",
                    hint='a service is namespace.Name: allow = {"shop.Orders" = ["okra.env"]}',
                )
    if path == ("limits", "services"):
        for service, own in value.items():
            if not SERVICE_NAME.fullmatch(service):
                raise ConfigurationError(
                    f"`{name}` in {source} has a key that does not name a service",
                    hint='a service is namespace.Name: [limits.services."shop.Orders"]',
                )
            _check_instances(own, f'{name}."{service}"', source)
    if path in (("storage", "url"), ("database", "url")) and value:
        scheme = value.reveal().partition(":")[0].lower().partition("+")[0]
        if scheme not in ("sqlite", "postgres", "postgresql"):
            raise ConfigurationError(f"`{name}` in {source} must begin with sqlite: or postgres:")


def _check_instances(own: ServiceLimitSettings, name: str, source: str) -> None:
    highest = 1 if own.singleton else own.max_instances
    if own.min_instances is not None and highest is not None and own.min_instances > highest:
        most = "a singleton has one instance" if own.singleton else f"max_instances there is {highest}"
        raise ConfigurationError(
            f"`{name}.min_instances` in {source} is {own.min_instances}, but {most}",
            hint=f"write min_instances = {highest}, or raise the other"
            if not own.singleton
            else "write min_instances = 1",
        )


def _check_service_limits(tables: Any, name: str, layer: Layer) -> None:
    """ConfigurationError naming the key of [limits.services] that is wrong, and the nearest real one or what it takes."""
    known = get_type_hints(ServiceLimitSettings, include_extras=True)
    for service, table in tables.items() if isinstance(tables, dict) else ():
        for key, value in table.items() if isinstance(table, dict) else ():
            full = f'{name}."{service}".{key}'
            if key not in ServiceLimitSettings.__struct_fields__:
                near = nearest(key, ServiceLimitSettings.__struct_fields__)
                hint = f"did you mean `{near}`?"
                if key in LimitSettings.__struct_fields__:
                    hint = f"it is a limit of the whole server: write {key} under [limits]"
                raise ConfigurationError(f"`{full}` in {layer.place} is not a setting", hint=hint)
            annotation = get_args(known[key])[0]  # without None, which no file can say
            try:
                msgspec.convert(value, annotation)
            except msgspec.ValidationError:
                raise ConfigurationError(f"`{full}` in {layer.place} must be {accepts(annotation)}") from None


def _read_secret(path: Path, name: str) -> Secret:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET + 1)
        text = data.decode()
    except OSError as error:
        raise ConfigurationError(f"the file of `{name}` cannot be read: {error.strerror}", hint=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the file of `{name}` is not UTF-8 text") from None
    if len(data) > MAX_SECRET:
        raise ConfigurationError(f"the file of `{name}` is larger than {MAX_SECRET} bytes")
    return Secret(text.rstrip("\r\n"))
