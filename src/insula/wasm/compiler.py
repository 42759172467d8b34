"""Compiles modules in child processes: few at once, each with bounded memory and time, killed when nobody waits.

What the child says on its way out becomes a PackageError in plain words: a module that is not one, one that takes too
much memory or time to compile, or one that the compiler itself broke on. The child sees no environment of the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

from insula.errors import InsulaError, LimitError, PackageError
from insula.wasm.compile import REFUSED
from insula.wasm.facts import Facts

log = logging.getLogger("insula.wasm")

#: The most that a child may say before it is killed, in bytes.
_MAX_SAID = 64 << 10


class Compiler:
    """At most `at_once` children; each has `memory` bytes of address space and `timeout` seconds, of CPU and of the
    clock."""

    def __init__(self, *, at_once: int = 2, memory: int = 2 << 30, timeout: float = 60.0) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._memory = memory
        self._timeout = timeout

    async def compile(self, source: Path, digest: str, target: Path) -> Facts:
        """Writes the code of a module to `target`, synced, and returns its facts. PackageError. Cancelled: the
        child is killed; what there is of `target` is the caller's to remove."""
        async with self._room:
            child = _Child(self._command(source, digest, target), self._timeout)
            work = asyncio.ensure_future(asyncio.to_thread(child.run))
            try:
                code, said = await asyncio.shield(work)
            except asyncio.CancelledError:
                child.kill()
                while not work.done():  # for a moment: the child is dead. Who cancels twice waits for that too
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([work])
                raise
        if code == 0:
            with contextlib.suppress(ValueError):
                return Facts.parse(said)
        raise self._refusal(code, said, child.timed_out)

    def _command(self, source: Path, digest: str, target: Path) -> list[str]:
        arguments = [str(source), digest, str(target), str(self._memory), str(max(1, round(self._timeout)))]
        return [sys.executable, "-I", "-m", "insula.wasm.compile", *arguments]

    def _refusal(self, code: int, said: str, timed_out: bool) -> InsulaError:
        if code == REFUSED:
            return PackageError(said, hint="build it for wasm32-wasip1 as a reactor, without threads or memory64")
        if timed_out or code == -signal.SIGXCPU:
            return PackageError(
                f"the module takes more than {self._timeout:g} s to compile",
                reason="compile_timeout",
                hint="make it smaller, or leave out what it does not use",
            )
        if "memory allocation" in said or "MemoryError" in said or "Cannot allocate memory" in said:
            return PackageError(
                f"the module takes more than {self._memory >> 20} MiB to compile",
                reason="compile_memory",
                hint="make it smaller, or leave out what it does not use",
            )
        if "No space left on device" in said:
            return no_room()
        log.error("the compiler ended with %s: %s", code, said[-2000:])
        return PackageError("the compiler broke on this module", reason="compile_failed")


def no_room() -> LimitError:
    """The refusal where the disk is full. HTTP 507."""
    return LimitError(
        "there is no room on the disk for the compiled module", reason="no_room", hint="free some space", status=507
    )


class _Child:
    """One child process. `run` is called in a thread, `kill` at any time from any other."""

    def __init__(self, command: list[str], timeout: float) -> None:
        self.timed_out = False
        self._command = command
        self._timeout = timeout
        self._killed = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> tuple[int, str]:
        """The exit code and what was said on stdout and stderr together."""
        if self._killed:
            return -signal.SIGKILL, ""
        with subprocess.Popen(  # noqa: S603
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A bounded number of compiler threads and arenas: each takes a share of the address space.
            env={"RAYON_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "2", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        ) as process:
            self._process = process
            if self._killed:  # while it was being started
                process.kill()
            timer = threading.Timer(self._timeout, self._expire)
            timer.start()
            try:
                assert process.stdout is not None
                said = process.stdout.read(_MAX_SAID)
                if len(said) == _MAX_SAID:
                    process.kill()
                code = process.wait()
            finally:
                timer.cancel()
        return code, said.decode(errors="replace")

    def kill(self) -> None:
        """Ends the child, or sees to it that it never works."""
        self._killed = True
        if self._process is not None:
            self._process.kill()

    def _expire(self) -> None:
        self.timed_out = True
        self.kill()
