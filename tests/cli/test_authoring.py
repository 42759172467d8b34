"""`insula new`: a folder to begin with; `insula build` says what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Ended

Run = Callable[..., Ended]


@pytest.mark.parametrize("lang", ["c", "go"])
def test_a_new_service_is_a_folder_and_says_what_to_type_next(insula: Run, tmp_path: Path, lang: str) -> None:
    done = insula("new", "order-book", "--lang", lang, "--namespace", "shop")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"order-book has shop.OrderBook, in {'C' if lang == 'c' else 'Go'}; next:",
        "  insula build order-book",
        "  insula deploy order-book/dist/OrderBook-0.1.0.okra.pkg",
        """  insula call shop.OrderBook/greet '{"name": "you"}'""",
    ]
    assert "shop" in (tmp_path / "order-book" / "service.okra.gql").read_text()
    assert insula("new", "order-book", "--lang", lang).code == 1


def test_wrong_words_are_told(insula: Run) -> None:
    assert insula("new", "orders", "--lang", "cobol").code == 2
    assert insula("new", "../x").code == 1
    done = insula("build", "nowhere")
    assert (done.code, done.err) == (1, "error: there is no folder nowhere (insula new nowhere --lang c makes one)\n")
