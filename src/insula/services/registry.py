"""Which services are there: one immutable table, swapped whole.

Versions of a service stand side by side, each under its full id; the name without version leads to the one deployed last.
The order is that of deployment: an override keeps its place, removing the last exposes the one before.

A change has two steps. First a new table is made and checked, and each follower (the routes of a gateway, for one) makes
what it needs of it; where one of them refuses, nothing has happened. Then the table and all that was made of it take the
places of the old ones in one step that cannot fail. So whoever changes the table can write the change down in between, and
never writes down what cannot be. The code that replaced a generation gets the old one, to drain it: what it accepted it
finishes, and nothing new can find it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from insula.calls import Call, Pending, Reply, ServiceId
from insula.errors import CallerError, Code
from insula.plans import Plan

if TYPE_CHECKING:
    from insula.services.generation import Generation


log = logging.getLogger("insula.services")


class Table:
    """One state of the registry. `generations` in order of deployment; `by_name` has full ids and names without
    version, `by_full_id` full ids alone."""

    __slots__ = ("by_full_id", "by_id", "by_name", "generations")

    def __init__(self, generations: tuple[Generation, ...] = ()) -> None:
        self.generations = generations
        self.by_id: dict[ServiceId, Generation] = {}
        self.by_name: dict[str, Generation] = {}
        self.by_full_id: dict[str, Generation] = {}
        full = self.by_full_id
        for generation in generations:
            self.by_id[generation.id] = generation
            full[str(generation.id)] = generation
            self.by_name[generation.id.unversioned] = generation
        for name, generation in full.items():
            if (other := self.by_name.get(name)) is not None:
                raise CallerError(
                    f"{generation.id} and {other.id} would both answer at /{name}/",
                    code=Code.ALREADY_EXISTS,
                    hint="give one of them another namespace, name or version",
                )
        self.by_name.update(full)


#: Makes what it needs of a new table, or refuses it by an InsulaError; what it returns puts that in place, and cannot fail.
Follower: TypeAlias = "Callable[[Table], Callable[[], None]]"


class Registry:
    """The services of this node, and the dispatcher of calls to them. Everything here runs on the event loop."""

    def __init__(self) -> None:
        self.table = Table()
        self._followers: list[Follower] = []

    @property
    def generations(self) -> tuple[Generation, ...]:
        """What is installed, in order of deployment."""
        return self.table.generations

    def submit(self, call: Call) -> Reply | Pending:
        """See `calls.Dispatcher`."""
        generation = self.table.by_id.get(call.service)
        if generation is None:
            raise self._unknown(str(call.service))
        return generation.service.submit(call)

    def find(self, name: ServiceId | str) -> Generation | None:
        """The generation of a full id, or the latest of a name without version."""
        return self.table.by_name.get(str(name))

    def running(self, service_id: str) -> Generation | None:
        """The generation of a full id, and of nothing that is named so without its version."""
        return self.table.by_full_id.get(service_id)

    def plan(self, service: str, method: str) -> Plan:
        """The plan of a method; CallerError `unimplemented` where the service or the method is not there."""
        generation = self.table.by_name.get(service)
        if generation is None:
            raise self._unknown(service)
        plan = generation.by_method.get(method)
        if plan is None:
            raise CallerError(f"{generation.id} has no method {method[:80]!r}", code=Code.UNIMPLEMENTED)
        return plan

    def prepare_install(self, generation: Generation, *, place: int | None = None) -> Callable[[], Generation | None]:
        """The first step of putting a generation in: in the place of the one with the same id; else at this place in the
        order of deployment, by default as the latest. The result is the second step, which returns the generation that was
        replaced. CallerError `already_exists` where its name is taken; what a follower refuses by."""
        replaced = self.table.by_id.get(generation.id)
        commit = self._prepare(self._with(generation, place))

        def install() -> Generation | None:
            commit()
            if replaced is not None:
                replaced.service.successor = self
            return replaced

        return install

    def prepare_removal(self, service_id: ServiceId | str) -> Callable[[], Generation]:
        """The first step of taking a generation out by its full id; the result is the second step, which returns it.
        CallerError `not_found`."""
        generation = self.table.by_full_id.get(str(service_id))
        if generation is None:
            raise CallerError(f"{str(service_id)[:80]} is not deployed", code=Code.NOT_FOUND)
        commit = self._prepare(Table(tuple(each for each in self.table.generations if each is not generation)))

        def remove() -> Generation:
            commit()
            return generation

        return remove

    def install(self, generation: Generation, *, place: int | None = None) -> Generation | None:
        """Both steps of `prepare_install`."""
        return self.prepare_install(generation, place=place)()

    def fill(self, generations: Sequence[Generation], order: Callable[[Generation], int] | None = None) -> None:
        """Puts in several at once, where none of them is there yet: one table for all, in this order of deployment, by
        default after those that are there. Both steps; all or none."""
        together = (*self.table.generations, *generations)
        self._prepare(Table(together if order is None else tuple(sorted(together, key=order))))()

    def remove(self, service_id: ServiceId | str) -> Generation:
        """Both steps of `prepare_removal`."""
        return self.prepare_removal(service_id)()

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Has a follower follow every new table, and the present one at once. The result ends it."""
        follower(self.table)()
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)

    def _with(self, generation: Generation, place: int | None = None) -> Table:
        present = self.table.generations
        if generation.id in self.table.by_id:
            return Table(tuple(generation if each.id == generation.id else each for each in present))
        place = len(present) if place is None else place
        return Table((*present[:place], generation, *present[place:]))

    def _prepare(self, table: Table) -> Callable[[], None]:
        before = self.table
        settles = [follower(table) for follower in self._followers]

        def commit() -> None:
            if self.table is not before:
                raise RuntimeError("the table has changed since this change of it was prepared")
            self.table = table
            for settle in settles:
                try:
                    settle()
                except Exception:
                    log.exception("a follower of the registry failed; the others have the new table")

        return commit

    def _unknown(self, service: str) -> CallerError:
        return CallerError(
            f"no service {service[:80]!r} is deployed here",
            code=Code.UNIMPLEMENTED,
            hint="see what is: insula list",
        )
