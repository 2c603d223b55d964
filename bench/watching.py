"""What it costs the primary to be watched: sysbench straight at it, with all agents running and with none, in turns.

    sudo python bench/watching.py [--pairs 16] [--seconds 8] [--threads 8]

A group of two, and two more servers that look at it, as the front ends of a site do. Watching is: the primary's agent
with its looks, its heartbeat and its reports, and the probes of the three others. Off is off: every agent is stopped by
systemd; the group is paused meanwhile, so that nothing fails over. The primary and sysbench, over its local socket,
have one CPU of the machine to themselves and use all of it; everything else has the other one. The binary log is not
shipped meanwhile: that is backing up. The order within a pair alternates, and each pair is compared by itself. First,
with nothing else to do, what watching takes of the primary's processor: its agent, and the server's answers.

Throughput varies more than watching costs. So the processor time of what watches is told as well, as the kernel counted
it under that load: of the agent, and of the server's threads that answer it and the other watchers.
"""

from __future__ import annotations

import argparse
import statistics
import time

from members import CREDENTIALS, NEVER, addresses, cpu_seconds, install_sysbench, on, pin, pin_the_rest, sql, sysbench
from rehearsal import Client, Figure, apply, controller, finished, report, until

GROUP = f"""deployment: bench
servers:
  db1: {{template: mysql, zone: a, memory: 2G}}
  db2: {{template: mysql, zone: b, memory: 2G}}
  app1: {{template: base, zone: a}}
  app2: {{template: base, zone: b}}
database: {{primary: db1, replicas: [db2], durability: strict, backups: {NEVER}}}
{CREDENTIALS}
"""
TEST = "oltp_read_write"
IDLE_SECONDS = 30.0
SETTLE_SECONDS = 3.0  # what an agent does at its start is not watching


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--pairs", type=int, default=16)
    words.add_argument("--seconds", type=float, default=8.0, help="of each window")
    words.add_argument("--threads", type=int, default=8)
    asked = words.parse_args()
    with controller() as client:
        finished(client, apply(client, GROUP))
        until(lambda: client.get("/databases/bench")["mode"] == "sync", "the replica to be in step",
              within_seconds=60, every_seconds=0.2)  # fmt: skip
        figures = measured(client, asked.pairs, asked.seconds, asked.threads)
    report("watching", figures, test=TEST, threads=asked.threads, seconds=asked.seconds)


def measured(client: Client, pairs: int, seconds: float, threads: int) -> list[Figure]:
    address = addresses(client)
    primary = address["db1"]
    install_sysbench(primary)
    client.post("/databases/bench/pause", {"reason": "the cost of watching is measured"})
    on(primary, "systemctl stop relaunch-ship-binlogs")
    pin_the_rest({1})
    for name in ("db2", "app1", "app2", "db1"):
        pin(client, name, {0} if name == "db1" else {1})
    idle: dict[bool, float] = {}
    for watched in (True, False):
        switch(list(address.values()), watched)
        began, used = time.monotonic(), cpu_seconds(client, "db1")
        time.sleep(IDLE_SECONDS)
        idle[watched] = (cpu_seconds(client, "db1") - used) / (time.monotonic() - began) * 100
    sysbench(primary, TEST, threads=threads, seconds=10)  # warm
    rates: dict[bool, list[float]] = {True: [], False: []}
    agent, answers, memory = [], [], []
    for pair in range(pairs):
        for watched in ((True, False), (False, True))[pair % 2]:
            switch(list(address.values()), watched)
            before = answering_cpu(primary) if watched else {}
            began, used = time.monotonic(), agent_cpu(primary) if watched else 0.0
            rates[watched].append(sysbench(primary, TEST, threads=threads, seconds=seconds).rate)
            if watched:
                agent.append((agent_cpu(primary) - used) / (time.monotonic() - began) * 100)
                spent = sum(now - before.get(thread, 0.0) for thread, now in answering_cpu(primary).items())
                answers.append(spent / (time.monotonic() - began) * 100)
                memory += [agent_megabytes(address[name]) for name in ("db1", "db2")]
        print(f"{pair + 1}: {rates[True][-1]:.1f} watched, {rates[False][-1]:.1f} not, transactions/s; agent "
              f"{agent[-1]:.2f}, answers {answers[-1]:.2f} % of a core", flush=True)  # fmt: skip
    switch(list(address.values()), True)
    lost = [(1 - on_ / off) * 100 for on_, off in zip(rates[True], rates[False], strict=True)]
    error = statistics.stdev(lost) / len(lost) ** 0.5 if len(lost) > 1 else 0.0
    print(f"mean {statistics.mean(lost):.2f} %, standard error {error:.2f}")
    return [
        Figure(name="primary, watched", unit="transactions/s", values=rates[True]),
        Figure(name="primary, not watched", unit="transactions/s", values=rates[False]),
        Figure(name="throughput that watching costs", unit="%", values=lost, limit=1.0),
        Figure(name="idle primary: what watching takes", unit="% of a core", values=[idle[True] - idle[False]]),
        Figure(name="the primary's agent", unit="% of a core", values=agent),
        Figure(name="the server's answers to those who watch", unit="% of a core", values=answers),
        Figure(name="both", unit="% of a core", values=[a + b for a, b in zip(agent, answers, strict=True)], limit=1.0),
        Figure(name="agents of both members, memory", unit="MB", values=memory, limit=35.0),
    ]


def switch(servers: list[str], watched: bool) -> None:
    for server in servers:
        on(server, f"systemctl {'start' if watched else 'stop'} relaunch-agent")
    time.sleep(SETTLE_SECONDS)


def agent_cpu(server: str) -> float:
    return int(on(server, "systemctl show -p CPUUsageNSec --value relaunch-agent")) / 1e9


def answering_cpu(server: str) -> dict[str, float]:
    """Seconds until now of each of the server's threads that answers an agent: this one's sessions are root's without
    a schema. They are open all the time."""
    threads = sql(server, "SELECT TID FROM information_schema.PROCESSLIST WHERE USER = 'relaunch_probe'"
                          " OR (USER = 'root' AND DB IS NULL AND ID <> CONNECTION_ID())").split()  # fmt: skip
    said = on(server, f"cd /proc/$(pidof mariadbd)/task && for t in {' '.join(threads)}; do cat $t/schedstat; done")
    return {thread: int(line.split()[0]) / 1e9 for thread, line in zip(threads, said.splitlines(), strict=True)}


def agent_megabytes(server: str) -> float:
    said = on(server, "awk '/^VmRSS/ {print $2}' /proc/$(systemctl show -p MainPID --value relaunch-agent)/status")
    return int(said) * 1024 / 1e6


if __name__ == "__main__":
    main()
