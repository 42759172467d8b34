"""What the services of a node have counted, as metric families for the metrics page.

This runs in a thread while the loop counts on. So each number is read by itself, and a container is copied in one step of
the interpreter (`copy` of a dictionary, `len`) before anything walks through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from insula.calls import ServiceId
    from insula.services.generation import Generation


def families(
    generations: Iterable[Generation], lines_dropped: Callable[[ServiceId], int], guest_memory: int
) -> Iterable[Any]:
    """Counters and gauges by service id, and for calls that failed by code. `lines_dropped` tells those of a service's log,
    `guest_memory` bytes are of all of them together."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    label = ("service",)
    calls = CounterMetricFamily("insula_calls", "Calls that were submitted, refused ones too.", labels=label)
    errors = CounterMetricFamily("insula_call_errors", "Calls that failed.", labels=("service", "code"))
    traps = CounterMetricFamily(
        "insula_instances_lost", "Instances lost to a trap, an exit or a deadline.", labels=label
    )
    starts = CounterMetricFamily("insula_instance_starts", "Instances started.", labels=label)
    failed = CounterMetricFamily("insula_instance_start_failures", "Instances that did not start.", labels=label)
    passivated = CounterMetricFamily("insula_instances_passivated", "Instances closed for being idle.", labels=label)
    dropped = CounterMetricFamily(
        "insula_guest_log_dropped", "Lines of a service's log above its rate, not written.", labels=label
    )
    waits = CounterMetricFamily("insula_mailbox_waits", "Calls that waited for an instance.", labels=label)
    waited = CounterMetricFamily("insula_mailbox_wait_seconds", "Seconds that calls waited, together.", labels=label)
    waiting = GaugeMetricFamily("insula_mailbox_waiting", "Calls that wait now.", labels=label)
    instances = GaugeMetricFamily("insula_instances", "Instances by kind.", labels=("service", "kind"))
    state = GaugeMetricFamily(
        "insula_service_state", "1 for the state that a service is in.", labels=("service", "state")
    )
    memory = GaugeMetricFamily("insula_guest_memory_bytes", "Memory of all guests together.", value=guest_memory)
    for generation in generations:
        service, name = generation.service, (str(generation.id),)
        counts = service.counts
        for code, number in counts.errors.copy().items():
            errors.add_metric((*name, code.value), number)
        numbers: tuple[tuple[Any, float], ...] = (
            (calls, counts.calls),
            (traps, counts.traps),
            (starts, counts.starts),
            (failed, counts.failed_starts),
            (passivated, counts.passivated),
            (dropped, lines_dropped(generation.id)),
            (waits, counts.waits),
            (waited, counts.wait_us / 1e6),
            (waiting, service.mailbox()["waiting"]),
        )
        for family, value in numbers:
            family.add_metric(name, value)
        for kind, number in service.instances().items():
            instances.add_metric((*name, kind), number)
        state.add_metric((*name, service.state.value), 1)
    return (calls, errors, traps, starts, failed, passivated, dropped, waits, waited, waiting, instances, memory, state)
