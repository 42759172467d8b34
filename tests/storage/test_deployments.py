"""Deployments: order, override, rollback, history, two data folders on one database."""

from __future__ import annotations

import asyncio

import pytest

from insula.errors import CallerError, Code
from insula.storage.database import Database
from insula.storage.deployments import HISTORY, DeploymentRepository, HistoryRow

AT = "2026-01-02T03:04:05Z"


@pytest.fixture
def repository(db: Database) -> DeploymentRepository:
    return DeploymentRepository(db, "a" * 32)


async def put(repository: DeploymentRepository, service: str, digest: str) -> None:
    await repository.put(service, digest, f"v-{digest}", f"file:///{digest}", AT)


async def listed(repository: DeploymentRepository) -> list[tuple[str, str]]:
    return [(row.service_id, row.digest) for row in await repository.all()]


async def test_keeps_the_order_of_deployment_over_override_and_rollback(repository: DeploymentRepository) -> None:
    for service in ("s.Z.v1", "s.A.v1", "s.M.v1"):
        await put(repository, service, "one")
    await put(repository, "s.Z.v1", "two")
    await put(repository, "s.A.v1", "two")
    await repository.pop_to_previous("s.A.v1")

    assert await listed(repository) == [("s.Z.v1", "two"), ("s.A.v1", "one"), ("s.M.v1", "one")]


async def test_what_is_removed_and_deployed_again_goes_to_the_end(repository: DeploymentRepository) -> None:
    for service in ("s.A.v1", "s.B.v1", "s.C.v1"):
        await put(repository, service, "one")
    removed = await repository.remove("s.A.v1")
    await put(repository, "s.A.v1", "one")

    assert removed.digest == "one"
    assert [service for service, _ in await listed(repository)] == ["s.B.v1", "s.C.v1", "s.A.v1"]


async def test_a_rollback_takes_from_the_stack_until_it_is_empty(repository: DeploymentRepository) -> None:
    for digest in ("one", "two", "three"):
        await put(repository, "s.A.v1", digest)

    assert await repository.previous("s.A.v1") == [
        HistoryRow("two", "v-two", "file:///two", AT),
        HistoryRow("one", "v-one", "file:///one", AT),
    ]
    assert (await repository.pop_to_previous("s.A.v1")).digest == "two"
    row = await repository.pop_to_previous("s.A.v1", deployed_at="2026-02-02T00:00:00Z")
    assert row == ("s.A.v1", "one", "v-one", "file:///one", "2026-02-02T00:00:00Z")
    assert await repository.all() == [row]
    assert await repository.digests() == {"one"}
    with pytest.raises(CallerError) as caught:
        await repository.pop_to_previous("s.A.v1")
    assert (caught.value.code, caught.value.http_status) == (Code.FAILED_PRECONDITION, 409)


async def test_the_same_digest_again_is_no_new_entry_of_the_stack(repository: DeploymentRepository) -> None:
    await put(repository, "s.A.v1", "one")
    await repository.put("s.A.v1", "one", "v2", "https://elsewhere", AT)

    assert await repository.previous("s.A.v1") == []
    assert (await repository.all())[0].source == "https://elsewhere"


async def test_the_stack_keeps_the_newest(repository: DeploymentRepository) -> None:
    for number in range(HISTORY + 5):
        await put(repository, "s.A.v1", f"d{number}")

    kept = [row.digest for row in await repository.previous("s.A.v1")]
    assert kept == [f"d{number}" for number in range(HISTORY + 3, 3, -1)]
    assert await repository.digests() == {*kept, f"d{HISTORY + 4}"}


async def test_removing_forgets_the_stack(repository: DeploymentRepository) -> None:
    await put(repository, "s.A.v1", "one")
    await put(repository, "s.A.v1", "two")
    await repository.remove("s.A.v1")

    assert await repository.digests() == set()
    await put(repository, "s.A.v1", "three")
    assert await repository.previous("s.A.v1") == []


async def test_what_is_not_deployed_is_not_found(repository: DeploymentRepository) -> None:
    for operation in (repository.remove, repository.pop_to_previous):
        with pytest.raises(CallerError) as caught:
            await operation("s.A.v1")
        assert caught.value.code is Code.NOT_FOUND


async def test_an_expectation_that_no_longer_holds_changes_nothing(repository: DeploymentRepository) -> None:
    await repository.put("s.A.v1", "one", "v", "s", AT, expected_digest=None)
    await repository.put("s.A.v1", "two", "v", "s", AT, expected_digest="one")
    for expected in ("one", None):
        with pytest.raises(CallerError) as caught:
            await repository.put("s.A.v1", "three", "v", "s", AT, expected_digest=expected)
        assert (caught.value.code, caught.value.http_status) == (Code.ABORTED, 409)
    for operation in (repository.remove, repository.pop_to_previous):
        with pytest.raises(CallerError):
            await operation("s.A.v1", expected_digest="one")

    assert await listed(repository) == [("s.A.v1", "two")]
    assert [row.digest for row in await repository.previous("s.A.v1")] == ["one"]


async def test_of_many_first_deployments_at_once_one_wins(repository: DeploymentRepository) -> None:
    outcomes = await asyncio.gather(
        *(repository.put("s.A.v1", f"d{n}", "v", "s", AT, expected_digest=None) for n in range(10)),
        return_exceptions=True,
    )

    assert sum(isinstance(outcome, CallerError) for outcome in outcomes) == 9
    assert await repository.previous("s.A.v1") == []


async def test_two_data_folders_on_one_database_keep_their_own(db: Database) -> None:
    ours, theirs = DeploymentRepository(db, "a" * 32), DeploymentRepository(db, "b" * 32)
    await put(ours, "s.A.v1", "one")
    await put(theirs, "s.A.v1", "x")
    await put(theirs, "s.A.v1", "y")
    await ours.remove("s.A.v1")

    assert await ours.all() == []
    assert await theirs.digests() == {"x", "y"}
    assert await listed(theirs) == [("s.A.v1", "y")]
