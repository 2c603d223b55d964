"""From `apply` to a site that answers: all-in-one and redundant, on images baked before the first counted run.

python bench/launch.py [--app rack|redmine] [--runs 5] [--architecture all-in-one|redundant]
"""

from __future__ import annotations

import argparse
import time

from rehearsal import Client, Figure, answers_200, apply, controller, destroy, finished, report, servers, until

from relaunch.servers.deployments import starter_file

LIMIT_SECONDS = {("all-in-one", "rack"): 6.0, ("redundant", "rack"): 15.0}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--app", default="rack")
    words.add_argument("--runs", type=int, default=5)
    words.add_argument("--architecture", choices=("all-in-one", "redundant"), action="append")
    asked = words.parse_args()
    figures = []
    with controller() as client:
        for architecture in asked.architecture or ["all-in-one", "redundant"]:
            text = starter_file(architecture, "bench", asked.app)
            print(f"{architecture}: baking", flush=True)
            one_launch(client, text)
            seconds = []
            for number in range(asked.runs):
                seconds.append(one_launch(client, text))
                print(f"{architecture}: run {number + 1}: {seconds[-1]:.2f} s", flush=True)
            figures.append(
                Figure(
                    name=f"{architecture}, {asked.app}: apply to serving",
                    unit="s",
                    values=seconds,
                    limit=LIMIT_SECONDS.get((architecture, asked.app)),
                )
            )
    report("from apply to a site that answers", figures)


def one_launch(client: Client, text: str) -> float:
    """Seconds from `apply` until every front end answers 200 and, where there is a replica, it replicates."""
    began = time.monotonic()
    task = apply(client, text)

    def serving() -> float | None:
        present = servers(client, "bench")
        fronts = [s for s in present if s["template"] in ("front-end", "all-in-one")]
        databases = [s for s in present if s["template"] == "mysql"]
        if not fronts or not all(s["private_address"] for s in fronts):
            return None
        if not all(s["tags"].get("database") for s in databases):
            return None
        return time.monotonic() - began if all(answers_200(s["private_address"]) for s in fronts) else None

    try:
        took = until(serving, "the site to serve", within_seconds=900, every_seconds=0.1)
    finally:
        finished(client, task)
    destroy(client, "bench")
    return took


if __name__ == "__main__":
    main()
