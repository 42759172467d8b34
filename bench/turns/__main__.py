"""The longest turn of the event loop, and the latency of a neighbour, under each load: `python -m bench.turns`.

Each load has a server of its own. A figure that misses its aim is marked, and the exit code is then 1. `inf` is a server
that hung or had to be killed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from fnmatch import fnmatch

from bench.turns import calls, check, codecs, deploys, first_calls, memory, queues, steps
from bench.turns.bench import LOADS, Figure, Load, run

KINDS = (calls, codecs, first_calls, steps, queues, deploys, memory)


def median(runs: list[list[Figure]]) -> list[Figure]:
    """The median of each figure, with the note of the run that it comes from."""
    names = dict.fromkeys(figure.name for figures in runs for figure in figures)
    found = []
    for name in names:
        same = sorted((figure for figures in runs for figure in figures if figure.name == name), key=lambda f: f.value)
        middle = same[len(same) // 2]
        if len(runs) > 1:
            spread = f"{number(same[0].value)} to {number(same[-1].value)} in {len(same)} of {len(runs)} runs"
            middle.note = f"{spread}; {middle.note}"
        found.append(middle)
    return found


def number(value: float) -> str:
    """With as many digits as tell something."""
    return f"{value:,.0f}" if value >= 100 or value == int(value or 0 if value < 1e300 else 0) else f"{value:.1f}"


def show(load: Load, figures: list[Figure]) -> None:
    """The rows of one load."""
    print(f"\n{load.name}: {load.what}")
    for figure in figures:
        aim = "" if figure.aim is None else f"{'>=' if figure.least else '<='} {figure.aim:.3g}"
        mark = "  " if figure.held else "✗ "
        print(f"  {mark}{figure.name:<42}{number(figure.value):>10}  {aim:<8} {figure.note}", flush=True)


def main() -> int:
    """Runs the loads; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.turns", description=__doc__)
    parser.add_argument("--list", action="store_true", help="the loads")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="this load, or all of a pattern (codec-*); again and again"
    )
    parser.add_argument("--runs", type=int, default=1, help="times each; the medians are told and judged")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, each time")
    parser.add_argument(
        "--stacks", action="store_true", help="also where the loop was in its longest turns (costs a little)"
    )
    parser.add_argument(
        "--ahead", action="store_true", help="servers come before all else on a busy machine (nice -10, needs root)"
    )
    parser.add_argument("--check", action="store_true", help="measures turns whose length is known, instead")
    parser.add_argument("--markdown", action="store_true", help="a table for a document, at the end")
    parser.add_argument("--json", metavar="FILE", help="also writes the figures there")
    options = parser.parse_args()
    if options.check:
        return check.main()
    wanted = [load for load in LOADS.values() if not options.only or any(fnmatch(load.name, p) for p in options.only)]
    if options.list:
        for load in wanted:
            print(f"{load.name:32} {load.what}")
        return 0
    if not wanted:
        sys.exit(f"no load has that name; they are {', '.join(LOADS)}")
    began, rows, missed = time.monotonic(), [], []
    for load in wanted:
        figures = median(
            [run(load, options.seconds, stacks=options.stacks, ahead=options.ahead) for _ in range(options.runs)]
        )
        show(load, figures)
        rows += [(load, figure) for figure in figures]
        missed += [load.name for figure in figures if not figure.held]
    if options.markdown:
        print("\n| load | figure | measured | aim |\n|---|---|---|---|")
        for load, figure in rows:
            if figure.aim is not None:
                print(f"| {load.what} | {figure.name} | {number(figure.value)} | {figure.aim:.3g} |")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(
                [{"load": load.name, **figure.__dict__, "held": figure.held} for load, figure in rows], file, indent=1
            )
    print()
    for load, figure in rows:
        if not figure.held:
            print(f"missed  {load.name:28} {figure.name}: {number(figure.value)}, aim {figure.aim:.3g}")
    bad = dict.fromkeys(missed)
    print(f"\n{len(wanted)} loads in {time.monotonic() - began:.0f} s on {os.cpu_count()} cores: ", end="")
    print(f"{len(missed)} figures of {len(bad)} loads miss their aim: {', '.join(bad)}" if bad else "all aims are held")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
