"""Which services are there: one immutable table, swapped whole.

Versions of a service stand side by side, each under its full id; the name without version leads to the one deployed last.
The order is that of deployment: an override keeps its place, removing the last exposes the one before. A new table is
made and checked first, then it takes the place of the old one in one step, and its followers are told; where one of them
refuses, the old table comes back and the change did not happen. The code that replaced a generation gets the old one, to
drain it: what it accepted it finishes, and nothing new can find it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from insula.calls import Call, Pending, Reply, ServiceId
from insula.errors import CallerError, Code
from insula.plans import Plan

if TYPE_CHECKING:
    from insula.services.generation import Generation


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


class Registry:
    """The services of this node, and the dispatcher of calls to them. Everything here runs on the event loop."""

    def __init__(self) -> None:
        self.table = Table()
        self._listeners: list[Callable[[Table], None]] = []

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

    def check(self, generation: Generation) -> None:
        """CallerError `already_exists` where `install` would refuse this generation for its name."""
        self._with(generation)

    def install(self, generation: Generation, *, place: int | None = None) -> Generation | None:
        """Puts a generation in: in the place of the one with the same id, which is returned; else at this place in the
        order of deployment, by default as the latest."""
        replaced = self.table.by_id.get(generation.id)
        self._swap(self._with(generation, place))
        if replaced is not None:
            replaced.service.successor = self
        return replaced

    def fill(self, generations: Sequence[Generation], order: Callable[[Generation], int] | None = None) -> None:
        """Puts in several at once, where none of them is there yet: one table for all, in this order of deployment, by
        default after those that are there. As `install`, all or none."""
        together = (*self.table.generations, *generations)
        self._swap(Table(together if order is None else tuple(sorted(together, key=order))))

    def remove(self, name: ServiceId | str) -> Generation:
        """Takes a generation out by its full id and returns it; CallerError `not_found`."""
        generation = self.table.by_name.get(str(name))
        if generation is None or str(generation.id) != str(name):
            raise CallerError(f"{str(name)[:80]} is not deployed", code=Code.NOT_FOUND)
        self._swap(Table(tuple(each for each in self.table.generations if each is not generation)))
        return generation

    def on_change(self, listener: Callable[[Table], None]) -> Callable[[], None]:
        """Tells a listener of every new table, and of the present one at once. The result ends it."""
        listener(self.table)
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _with(self, generation: Generation, place: int | None = None) -> Table:
        present = self.table.generations
        if generation.id in self.table.by_id:
            return Table(tuple(generation if each.id == generation.id else each for each in present))
        place = len(present) if place is None else place
        return Table((*present[:place], generation, *present[place:]))

    def _swap(self, table: Table) -> None:
        before, self.table = self.table, table
        try:
            for listener in self._listeners:
                listener(table)
        except BaseException:
            self.table = before
            for listener in self._listeners:
                listener(before)
            raise

    def _unknown(self, service: str) -> CallerError:
        return CallerError(
            f"no service {service[:80]!r} is deployed here",
            code=Code.UNIMPLEMENTED,
            hint="see what is: insula list",
        )
