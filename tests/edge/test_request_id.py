"""Request ids: taken, made, never dangerous."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from insula.edge.request_id import new_request_id, request_id_of


@given(st.one_of(st.none(), st.binary(max_size=140)))
def test_every_id_is_safe_to_repeat(sent: bytes | None) -> None:
    made = request_id_of(sent)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", made)
    assert made == (sent or b"").decode("latin-1") or len(made) == 32


def test_fresh_ids_differ() -> None:
    assert len({new_request_id() for _ in range(100)}) == 100
