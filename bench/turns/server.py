"""The server of one load in a process of its own, its event loop watched: `python -m bench.turns.server SETTINGS`.

What is measured: a timer of the loop is due every `BEAT` seconds. How much later than that it runs is how long the loop was
in one turn, to within a millisecond (the grain of uvloop's timers). Of each late beat three times are kept:
- wall: how late it was;
- own: wall without the time in which the loop's thread was ready and the machine ran other threads (`run_delay` of the
  thread's schedstat). It has in it the loop's work and its waits for the interpreter, locks and files, which are the
  server's fault, and not the load generator on the same cores, which is not. Aims are held against it;
- cpu: the processor time of the loop's thread.
Where the system has no schedstat, own is wall. `python -m bench.turns --check` measures blocks whose length is known.

It is driven by lines on standard input, answered in JSON on standard output: `reset`, `read`. A turn that is not over
counts as far as it has come.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import sys
import threading
import time
import traceback
from array import array
from typing import Any

from bench.turns.client import come_first
from insula.interpreter import importing, serving

BEAT = 0.001
#: A turn longer than this (s) is counted as long.
LONG = 0.010
#: So many of the longest are told.
KEPT = 5


class Watch:
    """Watches the loop of the thread that calls `start`. The others may call `reset` and `read`."""

    def __init__(self, *, stacks: bool = False) -> None:
        self._stacks = stacks
        self.turns = array("d")
        self.worst: list[tuple[float, float, float, str]] = []
        self.wall = 0.0
        self._seen: dict[float, str] = {}

    def start(self) -> None:
        """The first beat."""
        thread = threading.get_native_id()
        try:
            self._file = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1
        self._ident = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._begin()
        if self._stacks:
            threading.Thread(target=self._look, daemon=True).start()

    def queued(self) -> float:
        """Seconds that the loop's thread has waited for a processor since it began."""
        return int(os.pread(self._file, 80, 0).split()[1]) / 1e9 if self._file >= 0 else 0.0

    def _begin(self) -> None:
        self._queued = self.queued()
        self._cpu = time.thread_time()
        self.at = time.monotonic()
        self._loop.call_later(BEAT, self._beat)

    def _beat(self) -> None:
        wall = time.monotonic() - self.at - BEAT
        own = max(0.0, wall - (self.queued() - self._queued))
        self.turns.append(own)
        if wall > self.wall:
            self.wall = wall
        if own > 0.003:
            turn = (own, wall, time.thread_time() - self._cpu, self._seen.pop(self.at, ""))
            if len(self.worst) < KEPT:
                heapq.heappush(self.worst, turn)
            else:
                heapq.heappushpop(self.worst, turn)
        self._begin()

    def _look(self) -> None:
        """Notes where the loop is in a turn that gets long. This thread wants the interpreter too: a little is spoilt."""
        while True:
            time.sleep(0.003)
            at = self.at
            if time.monotonic() - at > LONG * 0.7 and at not in self._seen:
                frame = sys._current_frames().get(self._ident)
                lines = traceback.extract_stack(frame)[-6:]
                self._seen = {
                    at: " < ".join(f"{os.path.basename(x.filename)}:{x.lineno} {x.name}" for x in lines[::-1])
                }

    def reset(self) -> None:
        """Forgets what was seen."""
        self.turns = array("d")
        self.worst = []
        self.wall = 0.0
        self._seen = {}

    def read(self) -> dict[str, Any]:
        """What was seen, in ms."""
        turns, worst, wall = sorted(self.turns), sorted(self.worst, reverse=True), self.wall
        late = time.monotonic() - self.at - BEAT
        if late > LONG:  # the loop is in it
            own = late - (self.queued() - self._queued)
            turns, worst, wall = [*turns, own], [(own, late, 0.0, "not over"), *worst], max(wall, late)
        return {
            "turns": len(turns),
            "own": max(turns, default=0.0) * 1e3,
            "wall": wall * 1e3,
            "p999": turns[len(turns) * 999 // 1000] * 1e3 if turns else 0.0,
            "long": sum(own > LONG for own in turns),
            "worst": [
                {"own": own * 1e3, "wall": wall * 1e3, "cpu": cpu * 1e3, "where": where}
                for own, wall, cpu, where in worst
            ],
        }


def answer(watch: Watch) -> None:
    """Serves the commands until standard input ends, and with it the process."""
    for line in sys.stdin:
        if line.strip() == "reset":
            watch.reset()
            print("{}", flush=True)
        else:
            print(json.dumps(watch.read()), flush=True)
    os._exit(0)


def main() -> None:
    """Serves until a signal."""
    given = json.loads(sys.argv[1])
    if given["ahead"]:
        come_first()
    with importing():
        from insula.server import Server
        from insula.settings import load
    serving()
    watch = Watch(stacks=given["stacks"])

    def ready(server: Server) -> None:
        watch.start()
        threading.Thread(target=answer, args=(watch,), daemon=True).start()
        print(json.dumps({"port": server.address[1], "admin_port": server.admin_address[1]}), flush=True)

    Server(load(flags=given["flags"], environ={}), deploy=given["deploy"], ready=ready).run()


if __name__ == "__main__":
    main()
