"""The table of routes: a change of it costs what changes, and gives the same as a new table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insula.edge.exchange import Route
from insula.edge.routes import RouteTable
from insula.errors import CallerError
from tests.edge.conftest import Probe

PROBE = Probe()


def route(label: str) -> Route:
    return Route(PROBE, label)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from([b"/%d" % n for n in range(8)]), st.sampled_from("abc")), max_size=6))
)
def test_changes_give_what_a_new_table_gives(steps: list[list[tuple[bytes, str]]]) -> None:
    present: dict[bytes, Route] = {b"/": route("fixed")}
    table = RouteTable(present.items(), [(b"/p/", route("prefix"))])
    for step in steps:
        wanted = {b"/": present[b"/"], **{path: route(label) for path, label in step}}
        gone = [(path, old) for path, old in present.items() if wanted.get(path) is not old]
        come = [(path, new) for path, new in wanted.items() if present.get(path) is not new]
        before = dict(table.exact)
        last, table = table, table.changed(gone, come)
        assert last.exact == before  # the old one is as it was
        fresh = RouteTable(wanted.items(), [(b"/p/", route("prefix"))])
        assert (table.exact, table.labels) == (fresh.exact, fresh.labels)
        assert table.find(b"/p/x") is not None
        present = wanted


def test_a_clash_is_refused_and_changes_nothing() -> None:
    table = RouteTable([(b"/a", route("a")), (b"/b", route("b"))])
    with pytest.raises(CallerError, match="/a is taken by a"):
        table.changed([(b"/b", table.exact[b"/b"])], [(b"/a", route("c"))])
    assert set(table.exact) == {b"/a", b"/b"}
    assert table.labels == {"a": 1, "b": 1}


def test_a_change_goes_through_what_changes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """40,000 paths stay, and one goes and comes."""
    many = [(b"/%d/%d" % (n, part), route(f"/{n}")) for n in range(10_000) for part in range(4)]
    table = RouteTable(many)
    looked_at = 0
    sound = RouteTable._label

    def label(self: RouteTable, one: Route, paths: int) -> None:
        nonlocal looked_at
        looked_at += 1
        sound(self, one, paths)

    monkeypatch.setattr(RouteTable, "_label", label)
    new = table.changed(many[:4], [(b"/new", route("/new"))])
    assert looked_at == 5
    assert len(new.exact) == 40_000 - 4 + 1
    assert len(new.labels) == 10_000


def test_the_longest_prefix_wins_however_many_there_are() -> None:
    prefixes = [(b"/" + b"a/" * n, route(str(n))) for n in range(1, 100)]
    table = RouteTable([(b"/a/a/", route("exact"))], prefixes)
    for path, label in ((b"/a/x", "1"), (b"/a/a/", "exact"), (b"/a/a/a/x", "3"), (b"/" + b"a/" * 200, "99")):
        found = table.find(path)
        assert found is not None
        assert found.label == label
    assert table.find(b"/b/" + b"a/" * 16_000) is None
    assert table.find(b"/a") is None
