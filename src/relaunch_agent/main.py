"""The agent: wiring, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from pathlib import Path
from typing import Any, Sequence

from relaunch.bus.messages import (
    Accepted,
    AskRun,
    CancelRun,
    Hello,
    Hold,
    PrepareImage,
    Refused,
    Retire,
    RunScripts,
    SetView,
    TakeRole,
    UpgradeAgent,
)
from relaunch.errors import RelaunchError
from relaunch_agent import __version__, facts, leaving, local_socket, upgrade
from relaunch_agent.blobs import BlobStore
from relaunch_agent.databases import Databases
from relaunch_agent.enrolment import enrolled, read_config
from relaunch_agent.haproxy_process import HAProxy
from relaunch_agent.holding import Holding
from relaunch_agent.https import trusting
from relaunch_agent.journal import Journal
from relaunch_agent.link import Link
from relaunch_agent.local_socket import LocalSocket
from relaunch_agent.places import Places
from relaunch_agent.publishing import Publisher
from relaunch_agent.runs import Runs
from relaunch_agent.views import Views

LEFT_FOR_GOOD = 78  # the unit knows it: no restart
ANSWER_SECONDS = 0.3  # until an answer given before the end is surely sent
OF_RUNS = (RunScripts, CancelRun, AskRun)  # taken until the end: the next agent goes on with what is on the disk


class Agent:
    def __init__(self, places: Places) -> None:
        self._places = places
        self._sha256 = upgrade.own_sha256(places)
        self._boot_id = facts.boot_id()
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._leaving = ""
        self._for_good = False

    async def run(self) -> int:
        """Until it is to end; the exit status."""
        places = self._places
        config = read_config(places)
        credential = await enrolled(config, places)
        self._haproxy = HAProxy(places, reload=_reload_command())
        self._views = Views(places, self._haproxy)
        self._holding = Holding(places, self._haproxy, self._views)
        self._link = Link(credential, trusting(places.tls / "ca.crt"), hello=self._hello, obey=self._obey)
        self._blobs = BlobStore(places.blobs, config, credential)
        self._runs = Runs(
            Journal(places.runs, places.logs), self._blobs, self._link,
            agent=credential.agent, boot_id=self._boot_id, first_view=self._views.first,
            after_each=self._views.apply,
        )  # fmt: skip
        publisher = Publisher(places, self._link)
        self._databases = Databases(places, self._views, self._link)
        self._runs.load()
        own = Path(__file__).resolve().parent.parent
        if own.parent == places.libraries.resolve():
            upgrade.forget_old_libraries(places, own)
        local_socket.install_launcher(places)
        await LocalSocket(places, self._views, publisher, self._databases).open()
        _tell_systemd("READY=1")
        gc.freeze()  # what stands now stays: no collection need look at it, nor a runner's fork copy it, again
        works = [
            self._link.keep(), self._haproxy.keep(), self._views.keep(), publisher.publish_for_ever(),
            self._runs.report_for_ever(), self._databases.keep(), self._undo_a_bad_upgrade(),
        ]  # fmt: skip
        tasks = [asyncio.ensure_future(work) for work in works]
        for task in tasks:
            task.add_done_callback(self._ended)
        return await self._over

    def _hello(self) -> Hello:
        return Hello(
            agent_version=__version__, agent_sha256=self._sha256, boot_id=self._boot_id,
            view_version=self._views.version, runs=self._runs.unreported(),
        )  # fmt: skip

    async def _obey(self, order: Any) -> Any:
        if self._leaving and (self._for_good or not isinstance(order, OF_RUNS)):
            return Refused(self._leaving)
        if isinstance(order, RunScripts):
            return self._runs.begin(order)
        if isinstance(order, CancelRun):
            return self._runs.cancel(order.run_id)
        if isinstance(order, AskRun):
            return Accepted(self._runs.state_of(order.run_id))
        if isinstance(order, SetView):
            return self._views.take(order)
        if isinstance(order, TakeRole):
            return await self._databases.take(order)
        if isinstance(order, Hold):
            return await self._holding.take(order)
        if isinstance(order, UpgradeAgent):
            accepted = await upgrade.upgrade(order.blob, self._places, self._blobs, self._sha256)
            if order.blob.sha256 != self._sha256:
                self._leave("this agent is being replaced by a newer one")
            return accepted
        if isinstance(order, PrepareImage):
            if self._runs.running:
                return Refused("a run is not finished")
            self._leave("this instance becomes an image", leaving.forget_instance)
            return Accepted()
        if isinstance(order, Retire):
            self._leave(f"this instance is retired: {order.reason}", leaving.forget_credential)
            return Accepted()
        return Refused(f"{type(order).__name__} is not an order")

    def _leave(self, why: str, last: Any = None) -> None:
        print(why, file=sys.stderr, flush=True)
        self._leaving, self._for_good = why, last is not None

        def end() -> None:
            if last is not None:
                last(self._places)
            if not self._over.done():
                self._over.set_result(LEFT_FOR_GOOD if last is not None else 0)

        asyncio.get_running_loop().call_later(ANSWER_SECONDS, end)

    async def _undo_a_bad_upgrade(self) -> None:
        if await upgrade.undo_unless_connected(self._places, self._link, self._sha256):
            self._leave("this new agent did not reach the controller; the previous one is back")
        await asyncio.Event().wait()

    def _ended(self, task: asyncio.Future[Any]) -> None:
        """Each of these works for ever: when one ends, so do we, and systemd starts us afresh."""
        if task.cancelled() or self._over.done():
            return
        error = task.exception()
        if error is not None:
            self._over.set_exception(error)


def _tell_systemd(what: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            notify.sendall(what.encode())


def _reload_command() -> Sequence[str]:
    return os.environ.get("RELAUNCH_HAPROXY_RELOAD", "systemctl reload haproxy").split()


async def _main(places: Places) -> int:
    return await Agent(places).run()


def main(arguments: Sequence[str]) -> int:
    """relaunch-agent [--root FOLDER] [--version]"""
    if "--version" in arguments:
        print(__version__)
        return 0
    root = Path(arguments[arguments.index("--root") + 1]) if "--root" in arguments else Path("/")
    places = Places(root)
    if not places.config.exists():
        print(f"relaunch-agent: {places.config} is missing: the bootstrap writes it", file=sys.stderr, flush=True)
        return LEFT_FOR_GOOD
    try:
        return asyncio.run(_main(places))
    except RelaunchError as error:
        print(f"relaunch-agent: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
