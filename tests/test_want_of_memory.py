"""A guest of the C runtime that asks for more memory than there can be is told as what it is, whatever it asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from insula.build.project import build
from tests.build.guests import write_project
from tests.running import running
from tests.toolchains import needs

IDL = """
@okra(namespace: "test", version: "v1")
service Eater { eat(input: Amount): Amount }
type Amount { count: Int! size: Int! }
"""
SOURCE = """
#include "service.gen.h"

insula_status Eater_eat(const Amount *input, Amount *output) {
    char *bytes = insula_alloc((uint32_t)input->count, (uint32_t)input->size);
    bytes[0] = 1;
    *output = *input;
    return INSULA_OK;
}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("c")
    files = {"service.okra.gql": IDL, "service.c": SOURCE}
    return build(write_project(tmp_path_factory.mktemp("eater"), files, name="Eater", language="c")).path


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, 100 << 20), (1, -(1 << 31)), (1, -200_000), (1, -1), (1 << 16, 1 << 16), (3, 0x7FFFFFFF)],
    ids=["above its limit", "2 GiB", "near 4 GiB", "4 GiB", "4 GiB and nothing", "an overflow"],
)
async def test_memory_that_cannot_be_is_want_of_memory(tmp_path: Path, package: Path, count: int, size: int) -> None:
    async with running(tmp_path) as live:
        assert (await live.deploy(package)).status_code == 200
        fits = await live.call("/test.Eater/eat", {"count": 1000, "size": 1000})
        assert (fits.status_code, fits.json()) == (200, {"count": 1000, "size": 1000})
        refused = await live.call("/test.Eater/eat", {"count": count, "size": size})
        assert (refused.status_code, refused.json()["code"]) == (429, "resource_exhausted"), refused.text
        assert refused.json()["details"][0]["debug"]["reason"] == "memory_limit"
        assert (await live.call("/test.Eater/eat", {"count": 1, "size": 1})).status_code == 200
