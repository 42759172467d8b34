"""A system that refuses what a server asks of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No thread starts meanwhile, as below a limit on processes."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield
