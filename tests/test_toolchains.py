from __future__ import annotations

import pytest

from tests import toolchains


def test_a_lack_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchains, "_compiler", lambda language: f"no compiler for {language}")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no compiler for go"):
        toolchains.needs("go")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no compiler for go"):
        toolchains.needs("go")
