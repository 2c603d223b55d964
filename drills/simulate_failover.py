"""Simulated database groups under faults in any order, each night: python drills/simulate_failover.py --steps 100000.

Prints a line of JSON and a table. Ends with status 1, and the shortest story found, when something must not have
happened. `--story SEED` tells one again; `--mutants` breaks each rule of decisions/0007-failover.md and expects that it
is noticed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "simulation"))

from mutants import MUTANTS
from simulated import Broken
from stories import CALM, Story, invented, shortened, tell, total

LENGTH = 60  # steps of a story
MUTANT_STORIES = 400


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--story", help="tell the one story of this seed")
    parser.add_argument("--mutants", action="store_true")
    asked = parser.parse_args()
    if asked.mutants:
        return _mutants(asked.seed)
    if asked.story:
        print(tell(invented(asked.story, LENGTH)))
        return 0
    return _simulate(asked.steps, asked.seed)


def _simulate(steps: int, seed: int) -> int:
    print(f"seed {seed}", flush=True)
    began, told, counted, broken = time.monotonic(), [], 0, []
    while counted < steps:
        story = invented(f"{seed}-{counted}", LENGTH)
        counted += LENGTH
        try:
            told.append(tell(story))
        except Broken as fault:
            broken.append((story, str(fault)))
            print(f"BROKEN: story {story.seed}: {fault}", flush=True)
    _show(
        {"seed": seed, "seconds": round(time.monotonic() - began, 1), "broken": len(broken), **total(told)},
        Counter(page for each in told for page in each.pages),
    )
    for story, _ in broken[:3]:
        _explain(story)
    return 1 if broken or not told else 0


def _explain(story: Story) -> None:
    shorter = shortened(story)
    faults = [f"{number}: {fault}" for number, fault in enumerate(shorter.faults) if fault != CALM]
    print(f"story {story.seed} ({story.durability}, {story.replicas} replicas), shortened: {', '.join(faults)}")


def _mutants(seed: int) -> int:
    rows = [(f"rule {mutant.rule}: {mutant.name}", _first_break(mutant, seed)) for mutant in MUTANTS]
    print(json.dumps({"seed": seed, "mutants": dict(rows)}))
    for name, found in rows:
        print(f"{name:<80} {found or 'NOT NOTICED'}")
    return 0 if all(found for _, found in rows) else 1


def _first_break(mutant: object, seed: int) -> str:
    with mutant.at_work() as physics:  # type: ignore[attr-defined]
        if mutant.scripted is not None:  # type: ignore[attr-defined]
            try:
                mutant.scripted(physics)  # type: ignore[attr-defined]
            except Broken as fault:
                return f"scripted: {str(fault)[:90]}"
        for number in range(MUTANT_STORIES):
            try:
                tell(invented(f"{seed}-{number}", LENGTH, physics))
            except Broken as fault:
                return f"story {number + 1}: {str(fault)[:90]}"
    return ""


def _show(figures: dict[str, object], pages: Counter[str]) -> None:
    print(json.dumps({**figures, "pages": dict(pages)}))
    for name, value in [*figures.items(), *((f"ended with page {page}", count) for page, count in pages.items())]:
        print(f"{name:<40} {value}")


if __name__ == "__main__":
    sys.exit(main())
