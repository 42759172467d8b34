"""The kinds of this server: okra packages, those that it was given, and those that were installed beside it.

An entry point in the group `insula.kinds` of any installed distribution names a callable `() -> Kind`. A name may be taken
once: a stranger cannot put itself in the place of a kind that is there. The order is that in which they are asked whether a
file is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata

from insula.errors import ConfigurationError, PackageError
from insula.kinds.contract import Kind
from insula.kinds.okra import OkraKind
from insula.packages.deployable import Deployable

GROUP = "insula.kinds"


class Kinds:
    """The kinds by name, in order."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds: dict[str, Kind] = {}
        for kind in kinds:
            if kind.name in self._kinds:
                raise ConfigurationError(
                    f"two kinds are named {kind.name}",
                    hint=f"one was given to the server, or comes from an entry point in {GROUP}: leave it out",
                )
            self._kinds[kind.name] = kind

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def of(self, deployable: Deployable) -> Kind:
        """The kind that runs a deployable; PackageError where this server does not have it."""
        kind = self._kinds.get(deployable.kind)
        if kind is None:
            raise PackageError(
                f"{deployable.service_id} is of the kind {deployable.kind}, which this server does not have"
            )
        return kind


def load(more: Sequence[Kind] = ()) -> Kinds:
    """The built-in kind, `more`, and those of installed distributions; ConfigurationError naming the entry point that does
    not load. Reads the metadata of installed distributions: files, so not on a running event loop."""
    kinds: list[Kind] = [OkraKind(), *more]
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        try:
            kinds.append(point.load()())
        except Exception as error:
            raise ConfigurationError(
                f"the kind {point.name!r} ({point.value}) does not load: {type(error).__name__}: {error}",
                hint="mend or uninstall the distribution that brings it",
            ) from error
    return Kinds(kinds)
