"""A controller's database with a bit of everything in it, for the dashboard's tests and for looking at the pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy import create_engine, insert
from sqlalchemy.engine import Engine

from relaunch.clock import Clock, SetClock
from relaunch.dashboard.pages import router
from relaunch.dashboard.ports import DashboardPorts
from relaunch.records import schema

NOW = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)
TOKEN = "a-token-for-tests"
EVIL = "<script>alert(1)</script>"
BOOT = ["wait for the network", "MariaDB: configure", "MariaDB: become primary or replica", "publish"]


def app_of(engine: Engine, clock: Clock | None = None) -> tuple[FastAPI, Asked]:
    """The dashboard alone, over `engine`, and what it asked of its ports."""
    asked = Asked()
    app = FastAPI()
    app.include_router(router)
    app.state.dashboard = DashboardPorts(
        engine=engine,
        clock=clock or SetClock(NOW),
        session_key=b"k" * 32,
        check_token={TOKEN: "admin"}.get,
        run_output=lambda run, index: asked.outputs.get((run, index), ""),
        connected=lambda instance: instance not in asked.gone,
        console=asked.console,
        changes=asked.changes,
        actions=asked.act,
        version="0.1.0",
    )
    return app, asked


@dataclass
class Asked:
    outputs: dict[tuple[str, int], str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    actions: list[tuple[str, str, str]] = field(default_factory=list)
    changed: int = 2

    async def console(self, instance: str) -> str:
        return f"[  OK  ] Reached target multi-user.target {EVIL} {instance}\n"

    async def changes(self) -> AsyncIterator[None]:
        for _ in range(self.changed):
            yield

    async def act(self, who: str, subject: str, action: str) -> str:
        self.actions.append((who, subject, action))
        return "task-apply"


def empty(file: Path) -> Engine:
    engine = create_engine(f"sqlite:///{file}")
    schema.metadata.create_all(engine)
    with engine.begin() as db:
        db.execute(insert(schema.tokens).values(id="t1", name="admin", sha256="0", created=_at(86400)))
    return engine


def filled(file: Path, *, now: datetime = NOW, more_servers: int = 0) -> Engine:
    """`shop`: front1 and db1 operational, db2 booting, front2 stranded, spare set aside; a trail."""

    def at(seconds_ago: float) -> str:
        return _at(seconds_ago, now)

    engine = empty(file)
    spec = {
        "name": "shop",
        "database": {"primary": "db1", "replicas": ["db2"], "durability": "available"},
        "sites": [
            {
                "name": "redmine.test",
                "canonical": "www.redmine.test",
                "aliases": ["redmine.test"],
                "app": "redmine",
                "database": "redmine",
            }
        ],
    }
    servers: list[tuple[str, str, str, dict[str, Any]]] = [
        ("front1", "front-end", "operational", {"tags": {"app": "8000"}, "operational": at(7200)}),
        ("front2", "front-end", "stranded", {"stranded_why": "exit status 1"}),
        ("db1", "mysql", "operational", {"tags": {"database": "primary"}, "operational": at(7190)}),
        ("db2", "mysql", "booting", {"launched": at(41)}),
        ("spare", "app-server", "set_aside", {"tags": {"app": "8000"}}),
        ("app1", "app-server", "pending", {"launched": at(4), "private_address": None}),
        *((f"base{n:02}", "base", "operational", {"operational": at(600 + n)}) for n in range(more_servers)),
    ]
    with engine.begin() as db:
        db.execute(
            insert(schema.deployments).values(
                id="d1", name="shop", source="", spec=spec, created=at(9000), changed=at(900), destroying=False
            )
        )
        for number, (name, template, state, values) in enumerate(servers):
            db.execute(
                insert(schema.servers).values(
                    id=f"s-{name}",
                    deployment_id="d1",
                    name=name,
                    template=template,
                    zone="ab"[number % 2],
                    spec={},
                    locked=name == "db1",
                    instance_id=f"i-{name}",
                    created=at(9000),
                )
            )
            db.execute(insert(schema.instances).values(**_instance(name, number, state, at) | values))
        db.execute(
            insert(schema.servers).values(
                id="s-batch",
                deployment_id="d1",
                name="batch",
                template="base",
                zone="a",
                spec={},
                locked=False,
                created=at(9000),
            )
        )
        db.execute(
            insert(schema.instances).values(
                **_instance("front1", 90, "terminated", at)
                | {"id": "i-front1-old", "ended": at(7300), "ended_why": "replaced", "launched": at(8900)}
            )
        )
        db.execute(
            insert(schema.database_groups).values(
                deployment_id="d1", name="shop", epoch=1, primary_server_id="s-db1", initialised=True
            )
        )
        _fill_trail(db, at)
    return engine


def _fill_trail(db: Any, at: Any) -> None:
    scripts = ("succeeded", "succeeded", "running", "waiting")
    runs = [
        ("run-db2", "i-db2", "task-launch", "boot", BOOT, "running", scripts, 30, None),
        ("run-front2", "i-front2", "task-apply", "boot", ["Apache", EVIL, "HAProxy"], "failed",
         ("succeeded", "failed", "waiting"), 800, 760),
        ("run-front1", "i-front1", "task-apply", "boot", ["Apache", "HAProxy", "Puma"], "succeeded",
         ("succeeded",) * 3, 7290, 7200),
    ]  # fmt: skip
    tasks = [
        ("task-apply", "apply", "Apply shop", "deployment:shop", None, "failed", 900, 755, "shop/front2 is stranded"),
        ("task-launch", "launch", "Launch shop/db2", "server:shop/db2", "task-apply", "running", 41, None, ""),
        ("task-app1", "launch", "Launch shop/app1", "server:shop/app1", "task-apply", "running", 4, None, ""),
        ("task-bake", "bake", "Bake front-end", "image:6f2c1a", None, "succeeded", 9000, 8931, ""),
    ]
    for id, kind, title, subject, parent, state, created, finished, error in tasks:
        db.execute(
            insert(schema.tasks).values(
                id=id,
                kind=kind,
                title=title,
                subject=subject,
                parent_id=parent,
                state=state,
                who="admin",
                created=at(created),
                finished=None if finished is None else at(finished),
                error=error,
            )
        )
    steps = [
        ("task-launch", 1, "resolve the inputs", "succeeded", 41, 0.004, "14 inputs, 3 of them secret"),
        ("task-launch", 2, "launch in the cloud", "succeeded", 40.9, 0.42, "i-0123456789 at 198.18.0.14"),
        ("task-launch", 3, "wait for its agent", "succeeded", 40.4, 2.1, ""),
        ("task-launch", 4, "run the boot scripts", "running", 38, None, "script 3 of 4"),
        ("task-app1", 1, "launch in the cloud", "running", 3.8, None, ""),
        ("task-apply", 1, "plan", "succeeded", 900, 0.01, "launch front1, front2, db1, db2"),
        ("task-apply", 2, "wait for the servers", "failed", 899, 144.0, "front2 is stranded"),
    ]
    for task, number, name, state, started, seconds, detail in steps:
        db.execute(
            insert(schema.task_steps).values(
                task_id=task, number=number, name=name, state=state, started=at(started), seconds=seconds, detail=detail
            )
        )
    for id, instance, task, phase, names, state, results, created, finished in runs:
        db.execute(
            insert(schema.runs).values(
                id=id,
                instance_id=instance,
                task_id=task,
                phase=phase,
                order={"run_id": id, "phase": phase, "scripts": [{"name": name} for name in names]},
                state=state,
                results=[_result(index, outcome) for index, outcome in enumerate(results)],
                created=at(created),
                finished=None if finished is None else at(finished),
            )
        )
    entries = [
        ("admin", "deployment.apply", "deployment:shop", "done", {"servers": 4}, 900),
        ("admin", "server.terminate", "server:shop/db1", "refused", {"why": "the server is locked"}, 500),
        ("agent:i-front1", "tag", "server:shop/front1", "done", {"app": "8000"}, 7201),
        ("relaunch", "script.failed", "server:shop/front2", "failed", {"script": EVIL, "exit_status": 1}, 760),
    ]
    for who, action, subject, result, detail, ago in sorted(entries, key=lambda entry: -entry[-1]):
        db.execute(
            insert(schema.audit).values(
                at=at(ago), who=who, action=action, subject=subject, result=result, detail=detail
            )
        )
    records = [
        ("www.redmine.test", "CNAME", ["www.shop.redmine.test"], 300),
        ("redmine.test", "A", ["198.18.0.11", "198.18.0.12"], 30),
        ("db-primary.redmine.test", "CNAME", ["db-primary.shop.test"], 300),
        ("db-primary.shop.test", "A", ["198.18.0.13"], 5),
    ]
    for name, type, values, ttl in records:
        db.execute(
            insert(schema.dns_records).values(name=name, type=type, deployment="shop", values=values, ttl_seconds=ttl)
        )
    changelog = {
        "base": "trixie 2026-11-20",
        "packages": ["apache2 2.4.65-2", "haproxy 3.0.11-1", "puma 6.6.0-4", "redmine 6.0.6+ds-1", "ruby-mysql2 0.5.6"],
        "scripts": [{"name": "front-end: install", "sha256": "9b1c0a4f22de"}, {"name": EVIL, "sha256": "0c77ab10"}],
    }
    db.execute(
        insert(schema.images).values(
            key="6f2c1a90b7de44218f", cloud_image_id="img-6f2c1a90b7", name="front-end", state="ready",
            changelog=changelog, created=at(8931),
        )
    )  # fmt: skip
    db.execute(
        insert(schema.images).values(
            key="a01b", name="mysql", state="failed", changelog={}, created=at(80), detail="no space left on the device"
        )
    )


def _instance(name: str, number: int, state: str, at: Any) -> dict[str, Any]:
    return {
        "id": f"i-{name}",
        "server_id": f"s-{name}",
        "purpose": "serve",
        "state": state,
        "cloud_id": f"i-{number:010x}",
        "image_id": "img-6f2c1a90b7",
        "private_address": f"198.18.0.{11 + number}",
        "zone": "ab"[number % 2],
        "run_list": {},
        "tags": {},
        "outputs": {"VERSION": "11.8.3"} if name == "db1" else {},
        "launched": at(7300),
        "last_seen": at(1),
        "agent_version": "0.1.0",
        "operational": None,
        "ended": None,
        "ended_why": None,
        "stranded_why": None,
    }


def _result(index: int, state: str) -> dict[str, Any]:
    status = {"succeeded": 0, "failed": 1}.get(state)
    return {
        "index": index,
        "state": state,
        "exit_status": status,
        "seconds": 0.0 if state == "waiting" else 3.25 * (index + 1),
        "output_bytes": 0 if state == "waiting" else 5120 * (index + 1),
        "detail": "",
    }


def _at(seconds_ago: float, now: datetime = NOW) -> str:
    return (now - timedelta(seconds=seconds_ago)).isoformat(timespec="microseconds")
