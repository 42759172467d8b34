"""What tests need that a machine may lack: a compiler, the server of a database, a right.

Here alone it is decided what a lack means: on somebody's machine the test is skipped and says what to install; where `CI`
is set the test fails, since nobody would read there that it did not run.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest

from insula.build.tools import Tool, find_go, find_zig
from insula.errors import ConfigurationError


def lacking(reason: str) -> NoReturn:
    """Ends the test: skipped with the reason, or failed where `CI` is set."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have what every test needs: {reason}", pytrace=False)
    pytest.skip(reason)


def needs(language: str) -> Tool:
    """The compiler that `insula build` would take for `c` or `go`."""
    found = _compiler(language)
    return found if isinstance(found, Tool) else lacking(found)


@functools.cache
def _compiler(language: str) -> Tool | str:
    """The compiler, or why there is none; asked once a session, as each question is a process. It is asked in a thread,
    since a test may want it on its loop, where the product's code must not block."""
    with ThreadPoolExecutor(1) as threads:
        try:
            return threads.submit(find_zig if language == "c" else find_go).result()
        except ConfigurationError as error:
            return str(error)
