"""docs/configuration.md, written from the settings themselves: one cannot drift from the other."""

from __future__ import annotations

from inspect import getdoc

from insula.settings.load import PROFILES, keys_of
from insula.settings.secret import Secret
from insula.settings.startable import NOT_BUILT
from insula.settings.tree import RESERVED_SECTIONS, SECTIONS
from insula.settings.words import accepts, bare, meta, shown

_INTRO = """# Configuration

<!-- Written from src/insula/settings/ by `make docs`. -->

Insula runs without any configuration. What is set comes from the first of these that says something:

1. a flag of `insula serve`;
2. the environment: `INSULA_SECTION__KEY`, for example `INSULA_SERVER__PORT=9090`, with two underscores between section
   and key; an empty value says nothing. Lists are written `a,b` or as JSON, tables as JSON. `DATABASE_URL` stands for
   `storage.url`;
3. for a secret, a systemd credential that is named as its key: `LoadCredential=admin.token:/etc/insula/token`;
4. `.env` in the working directory, with the same names as the environment;
5. the TOML file of `--config`, else `insula.toml` in the working directory if there is one;
6. the default.

A key that does not exist is refused, and so is a value of the wrong type or out of bounds: the server says which key it
is and which real one is nearest, and never prints a value. `insula config show` prints what is in force and where each
value comes from.

Times end in `_ms` (milliseconds), sizes in `_bytes` or `_mb`. Relative paths start at the working directory. Every secret
can be given as a file instead: for `token`, `token_file = "/path"`; a relative path is first looked up in
`$CREDENTIALS_DIRECTORY`.

`[server] bind_address = "0.0.0.0:8080"` is another way to write `host` and `port`.
"""

_SERVICES = """
## [env."ns.Service"]

What one service reads by `okra.env`, if its package asks for it and `[grants]` lets it. A guest never sees the environment
of the server.

```toml
[env."shop.Orders"]
REGION = "eu-west-1"
```

`[env."shop.Orders.v1"]` is for that version alone, and stronger, key by key. The quotes may be left out.

[services.md](services.md#okraenv-from-end-to-end) has an example, from the package to the call.

In the environment: `INSULA_ENV='{"shop.Orders": {"REGION": "eu-west-1"}}'`.
"""


def reference() -> str:
    """The whole document."""
    parts = [_INTRO, *(_section(name) for name in SECTIONS if name not in NOT_BUILT), _SERVICES, _profiles()]
    later = [name for name in SECTIONS if name in NOT_BUILT]
    parts.append(
        "\n## Read, but not in this version\n\nFiles that use these sections and keys are read and checked; a server does "
        "not start on them, since nothing that an operator wrote is ignored.\n\n"
    )
    keys = "".join(f"- `{name}`: {what}\n" for name, what in NOT_BUILT.items() if "." in name)
    reserved = ", ".join(f"`[{name}]`" for name in RESERVED_SECTIONS)
    parts.append(f'{keys}- `[secrets."ns.Service"]`: {NOT_BUILT["secrets"]}\n- {reserved}: whatever they hold\n')
    parts += [_section(name, heading="###") for name in later]
    return "".join(parts)


def _section(name: str, heading: str = "##") -> str:
    doc = " ".join((getdoc(SECTIONS[name]) or "").split())
    lines = [f"\n{heading} [{name}]\n\n{doc}\n\n| key | what it does | takes | default |\n|---|---|---|---|\n"]
    defaults = SECTIONS[name]()
    for key, annotation in keys_of(name).items():
        default = shown(getattr(defaults, key)).replace("|", "\\|")
        takes = accepts(annotation).replace("|", "\\|")
        names = f"`{key}`" + (f", `{key}_file`" if bare(annotation) is Secret else "")
        what = f"{meta(annotation).description}{' Not in this version.' if f'{name}.{key}' in NOT_BUILT else ''}"
        lines.append(f"| {names} | {what} | {takes} | `{default}` |\n")
    return "".join(lines)


def _profiles() -> str:
    lines = ["\n## Profiles\n\n`insula serve --profile NAME` changes these defaults and nothing else:\n\n"]
    for name, values in PROFILES.items():
        if values:
            changes = ", ".join(f"`{'.'.join(path)} = {shown(value)}`" for path, value in values.items())
            lines.append(f"- `{name}`: {changes}\n")
    return "".join(lines)
