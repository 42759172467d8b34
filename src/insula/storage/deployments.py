"""What is to run on this node, in order of deployment, and what ran before it.

Deployments belong to a data folder, since the packages that they name lie in it: `depot_id` is the folder's own id, and
two servers on one database never see each other's. A service keeps its place in the order over overrides and rollbacks;
a new one goes to the end. Each service has a stack of what it ran before, the newest `HISTORY` of them, from which a
rollback takes. Every change is one transaction.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import BindParameter, bindparam, delete, func, insert, select, union, update
from sqlalchemy.engine import Connection

from insula.errors import CallerError, Code
from insula.storage.database import Database
from insula.storage.tables import deployment_history as history
from insula.storage.tables import deployments

HISTORY = 10


class DeploymentRow(NamedTuple):
    """A deployed service. `digest` is `sha256:…`, `version` okra.json's, `deployed_at` RFC 3339 in UTC."""

    service_id: str
    digest: str
    version: str
    source: str
    deployed_at: str


class HistoryRow(NamedTuple):
    """What a service ran before."""

    digest: str
    version: str
    source: str
    deployed_at: str


class _Anything:
    """No expectation of what is deployed."""


ANYTHING = _Anything()

_depot: BindParameter[str] = bindparam("b_depot")
_service: BindParameter[str] = bindparam("b_service")
_what = (deployments.c.digest, deployments.c.version, deployments.c.source, deployments.c.deployed_at)
_was = (history.c.digest, history.c.version, history.c.source, history.c.deployed_at)
_mine = (deployments.c.depot_id == _depot) & (deployments.c.service_id == _service)
_its = (history.c.depot_id == _depot) & (history.c.service_id == _service)

_ALL = select(deployments.c.service_id, *_what).where(deployments.c.depot_id == _depot).order_by(deployments.c.position)
_ONE = select(deployments.c.service_id, *_what).where(_mine).with_for_update()
_LAST_PLACE = select(func.coalesce(func.max(deployments.c.position), 0)).where(deployments.c.depot_id == _depot)
_INSERT = insert(deployments)
_UPDATE = update(deployments).where(_mine).values({column: bindparam(f"b_{column.name}") for column in _what})
_DELETE = delete(deployments).where(_mine)
_PREVIOUS = select(*_was).where(_its).order_by(history.c.number.desc())
_NEWEST = select(history.c.number, *_was).where(_its).order_by(history.c.number.desc()).limit(1)
_PUSH = insert(history)
_POP = delete(history).where(_its, history.c.number == bindparam("b_number"))
_FORGET = delete(history).where(_its, history.c.number <= bindparam("b_number"))
_DIGESTS = union(
    select(deployments.c.digest).where(deployments.c.depot_id == _depot),
    select(history.c.digest).where(history.c.depot_id == _depot),
)


class DeploymentRepository:
    """The deployments of one data folder."""

    def __init__(self, db: Database, depot_id: str) -> None:
        self._db = db
        self._depot = depot_id

    async def all(self) -> list[DeploymentRow]:
        """Every deployed service, in order of deployment."""
        depot = {"b_depot": self._depot}
        return await self._db.read(lambda c: [DeploymentRow(*row) for row in c.execute(_ALL, depot)])

    async def previous(self, service_id: str) -> list[HistoryRow]:
        """What the service ran before, newest first; empty where it is not deployed."""
        key = self._key(service_id)
        return await self._db.read(lambda c: [HistoryRow(*row) for row in c.execute(_PREVIOUS, key)])

    async def digests(self) -> set[str]:
        """Every digest that a deployment or a rollback may need."""
        return await self._db.read(lambda c: set(c.scalars(_DIGESTS, {"b_depot": self._depot})))

    async def put(
        self,
        service_id: str,
        digest: str,
        version: str,
        source: str,
        deployed_at: str,
        *,
        expected_digest: str | _Anything | None = ANYTHING,
    ) -> DeploymentRow:
        """Deploys at the end of the order, or in place of what is there, which goes on the stack (unless it is the same
        digest). `expected_digest` is what must be deployed at that moment, None for nothing: CallerError `aborted` where
        somebody changed it meanwhile."""
        row = DeploymentRow(service_id, digest, version, source, deployed_at)

        def unit(connection: Connection) -> DeploymentRow:
            present = self._present(connection, service_id)
            _expect(present, expected_digest, service_id)
            if present is None:
                place = connection.execute(_LAST_PLACE, {"b_depot": self._depot}).scalar_one() + 1
                connection.execute(_INSERT, {"depot_id": self._depot, "position": place, **row._asdict()})
            else:
                if present.digest != digest:
                    self._push(connection, present)
                connection.execute(_UPDATE, self._values(row))
            return row

        return await self._db.write(unit)

    async def pop_to_previous(
        self,
        service_id: str,
        *,
        expected_digest: str | _Anything = ANYTHING,
        deployed_at: str | None = None,
    ) -> DeploymentRow:
        """Takes the newest of the stack and deploys it in place of what is there, which is forgotten. `deployed_at` is
        the time to note; None leaves the one of its first deployment. CallerError: `not_found` where the service is not
        deployed, `failed_precondition` (409) where nothing was before it, `aborted` as of `put`."""

        def unit(connection: Connection) -> DeploymentRow:
            present = self._present(connection, service_id)
            _expect(present, expected_digest, service_id)
            if present is None:
                raise _not_deployed(service_id)
            newest = connection.execute(_NEWEST, self._key(service_id)).one_or_none()
            if newest is None:
                raise CallerError(
                    f"{service_id} has run nothing before its present package",
                    code=Code.FAILED_PRECONDITION,
                    hint="deploy the package that you want instead",
                    status=409,
                )
            number, digest, version, source, at = newest
            row = DeploymentRow(service_id, digest, version, source, deployed_at or at)
            connection.execute(_POP, {**self._key(service_id), "b_number": number})
            connection.execute(_UPDATE, self._values(row))
            return row

        return await self._db.write(unit)

    async def remove(self, service_id: str, *, expected_digest: str | _Anything = ANYTHING) -> DeploymentRow:
        """Forgets the service and its stack; what was deployed. CallerError `not_found`, or `aborted` as of `put`."""

        def unit(connection: Connection) -> DeploymentRow:
            present = self._present(connection, service_id)
            _expect(present, expected_digest, service_id)
            if present is None:
                raise _not_deployed(service_id)
            connection.execute(_DELETE, self._key(service_id))  # its stack goes with it
            return present

        return await self._db.write(unit)

    def _key(self, service_id: str) -> dict[str, object]:
        return {"b_depot": self._depot, "b_service": service_id}

    def _values(self, row: DeploymentRow) -> dict[str, object]:
        return {**self._key(row.service_id), **{f"b_{column.name}": getattr(row, column.name) for column in _what}}

    def _present(self, connection: Connection, service_id: str) -> DeploymentRow | None:
        row = connection.execute(_ONE, self._key(service_id)).one_or_none()
        return None if row is None else DeploymentRow(*row)

    def _push(self, connection: Connection, row: DeploymentRow) -> None:
        key = self._key(row.service_id)
        newest = connection.execute(_NEWEST, key).one_or_none()
        number = 1 if newest is None else newest.number + 1
        connection.execute(_PUSH, {"depot_id": self._depot, "number": number, **row._asdict()})
        connection.execute(_FORGET, {**key, "b_number": number - HISTORY})


def _expect(present: DeploymentRow | None, expected: str | _Anything | None, service_id: str) -> None:
    if isinstance(expected, _Anything) or expected == (present and present.digest):
        return
    raise CallerError(
        f"{service_id} was changed by somebody else meanwhile",
        code=Code.ABORTED,
        hint="look at what is deployed now, then try again",
        status=409,
    )


def _not_deployed(service_id: str) -> CallerError:
    return CallerError(
        f"{service_id} is not deployed", code=Code.NOT_FOUND, hint="`insula list` shows what is deployed"
    )
