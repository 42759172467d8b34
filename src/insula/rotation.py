"""A queue for each tenant, taken in rotation: one job of a tenant, then one of the next.

A tenant stands behind the others after each job that is taken of it. So no tenant waits for more than one job of each
other, however many those have. How many jobs may wait is bounded by the owner of the rotation, with `shares.py`.

Not thread-safe: one thread, mostly the event loop, owns a `Rotation`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, KeysView
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
J = TypeVar("J")


class Rotation(Generic[K, J]):
    """Jobs (`J`) of tenants (`K`). `len` counts jobs. `tenants` are those that have jobs, the next first: a live view and
    a plain field, so that a look at it on the hot path calls no function of Python's."""

    __slots__ = ("_length", "_queues", "tenants")

    def __init__(self) -> None:
        # Not a dict: that finds its first key by passing the places of all that were removed before it.
        self._queues: OrderedDict[K, deque[J]] = OrderedDict()
        self._length = 0
        self.tenants: KeysView[K] = self._queues.keys()

    def __len__(self) -> int:
        return self._length

    def __contains__(self, key: K) -> bool:
        return key in self._queues

    def waiting(self, key: K) -> Collection[J]:
        """The jobs of a tenant, the next first."""
        return self._queues.get(key, ())

    def put(self, key: K, job: J) -> None:
        """Adds a job behind those of its tenant. A tenant that had none stands behind the others."""
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque((job,))
        else:
            queue.append(job)
        self._length += 1

    def peek(self) -> tuple[K, J] | None:
        """What `take` would return. The job stays."""
        for key, queue in self._queues.items():
            return key, queue[0]
        return None

    def take(self, where: Callable[[K], bool] | None = None) -> tuple[K, J] | None:
        """Removes the next job and returns it with its tenant, who then stands behind the others; None if there is none.
        Tenants for which `where` is false are passed over and keep their place."""
        queues = self._queues
        if not queues:
            return None
        if where is None:
            key, queue = queues.popitem(last=False)
        else:
            for key in queues:
                if where(key):
                    break
            else:
                return None
            queue = queues.pop(key)
        job = queue.popleft()
        if queue:
            queues[key] = queue
        self._length -= 1
        return key, job

    def postpone(self, key: K) -> None:
        """Puts a tenant, if it has jobs, behind the others."""
        if key in self._queues:
            self._queues.move_to_end(key)

    def withdraw(self, key: K, job: J) -> bool:
        """Takes back a job; False if it does not wait."""
        queue = self._queues.get(key)
        if queue is None:
            return False
        try:
            queue.remove(job)
        except ValueError:
            return False
        if not queue:
            del self._queues[key]
        self._length -= 1
        return True
