"""The agent as a process, with a real bus and real scripts, without root."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from agent_stand import Stand, until

from relaunch.bus.messages import (
    Accepted,
    AskRun,
    CancelRun,
    PrepareImage,
    Refused,
    Retire,
    RunScripts,
    SetView,
    UpgradeAgent,
)
from relaunch.servers.agent_archive import build


@pytest_asyncio.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    stand = await Stand(tmp_path).open()
    yield stand
    await stand.close()


@pytest_asyncio.fixture
async def ready(stand: Stand) -> Stand:
    stand.start_agent()
    await stand.connected()
    return stand


def wait_for(file: Path) -> str:
    """For a script: until this file is there, for 30 s at most."""
    return f"for _ in $(seq 600); do [ -e '{file}' ] && break; sleep 0.05; done"


async def test_enrols_once_and_keeps_its_credential_private(stand: Stand) -> None:
    stand.lose_first_answer = True
    agent = stand.start_agent()
    await stand.connected()
    assert len(stand.enrolments) == 2 and len({e["nonce"] for e in stand.enrolments}) == 1
    assert (stand.root / "var/lib/relaunch/agent/credential.json").stat().st_mode & 0o777 == 0o600
    assert (stand.root / "etc/relaunch/tls/server.key").stat().st_mode & 0o777 == 0o600
    assert (stand.root / "root/.ssh/authorized_keys").read_text() == "ssh-ed25519 AAAA test\n"
    agent.kill()
    stand.start_agent()
    await stand.connected(2)
    assert len(stand.enrolments) == 2
    await until(lambda: len(stand.alive) > 3, "heartbeats")
    assert stand.alive[-1].memory_total_bytes > stand.alive[-1].memory_used_bytes > 0


async def test_runs_scripts_in_order_with_their_environment(ready: Stand) -> None:
    first = ready.script(
        '#!/bin/sh\necho "$GREETING from $(pwd | grep -c /work)"; echo oops >&2; echo done\n'
        'cat "$RS_ATTACH_DIR/note.txt"; echo "$PATH $HOME $SHELL $USER $RS_REBOOT"',
        inputs={"GREETING": "hello", "PATH": "/nowhere"}, attachments=[ready.blob("note.txt", "attached\n")],
    )  # fmt: skip
    state = await ready.run(first, ready.script("#!/bin/sh\nexit 3"), ready.script("#!/bin/sh\ntrue"), reboot=True)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert ready.text("run-1") == f"hello from 1\noops\ndone\nattached\n{path} /root /bin/bash root true\n"
    assert [(r.state, r.exit_status) for r in state.results] == [("succeeded", 0), ("failed", 3), ("waiting", None)]
    assert (state.state, state.detail) == ("failed", "a script.sh: exit status 3")
    log = ready.root / "var/log/relaunch/runs/run-1/0.log"
    assert log.read_text() == ready.text("run-1")
    assert state.results[0].output_bytes == log.stat().st_size
    job = ready.root / "var/lib/relaunch/runs/run-1/0"
    await until(lambda: not (job / "job.json").exists() and not (job / "work").exists(), "the job tidied up")
    assert not (job.parent / "order.json").exists()


async def test_same_run_twice_is_one_run(ready: Stand) -> None:
    go = ready.folder / "go"
    order = RunScripts("twice", "operational", [ready.script(f"#!/bin/sh\necho once >>../../count\n{wait_for(go)}")])
    answers = [await ready.order(order) for _ in range(3)]
    assert [a.run.state for a in answers] == ["running"] * 3
    go.touch()
    await ready.ended("twice")
    assert (await ready.order(order)).run.state == "succeeded"
    assert (ready.root / "var/lib/relaunch/runs/twice/count").read_text() == "once\n"
    assert (await ready.order(AskRun("never"))).run.state == "unknown"


async def test_boot_scripts_wait_for_the_first_view(ready: Stand) -> None:
    run_id = await ready.begin(ready.script(f"#!/bin/sh\ngrep -F a.test {ready.root}/etc/hosts\n"), phase="boot")
    await asyncio.sleep(1.0)
    assert ready.state(run_id) in ("unknown", "running") and ready.text(run_id) == ""

    await ready.order(SetView(1, {"hosts": {"a.test": "127.0.1.1"}}))

    assert (await ready.ended(run_id)).state == "succeeded"
    assert ready.text(run_id) == "127.0.1.1 a.test\n"


async def test_retry_starts_at_the_given_script(ready: Stand) -> None:
    state = await ready.run(ready.script("#!/bin/sh\nexit 1"), ready.script("#!/bin/sh\necho second"), start_at=1)
    assert state.state == "succeeded" and [r.index for r in state.results] == [1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo no first line", "must be #! and an interpreter"),
        ("#!/no/such/thing\n", "interpreter /no/such/thing is not on this server"),
        ("#!/bin/sh\r\necho\r\n", "save it with LF"),
        ("#!/bin/sh\nkill -9 $$", "killed by SIGKILL"),
    ],
)
async def test_a_script_that_cannot_run_says_why(ready: Stand, text: str, why: str) -> None:
    state = await ready.run(ready.script(text))
    assert state.state == "failed" and why in state.detail


async def test_secrets_and_binary_in_the_output(ready: Stand) -> None:
    script = ready.script(
        "#!/bin/bash\nprintf 'pass=%s' \"${SECRET:0:5}\"; sleep 0.3; printf '%s\\xff\\xfe\\n' \"${SECRET:5}\"",
        inputs={"SECRET": "correct horse"}, secrets=["SECRET"],
    )  # fmt: skip
    await ready.run(script)
    assert ready.text("run-1") == "pass=•••\ufffd\ufffd\n"

    def kept() -> list[Path]:
        return [p for p in (ready.root / "var").rglob("*") if p.is_file() and b"correct horse" in _read(p)]

    await until(lambda: not kept(), "no secret left on the disk", 2)


async def test_a_daemon_that_holds_the_output_open(ready: Stand) -> None:
    go = ready.folder / "go"
    daemon = f"({wait_for(go)}; echo late; sleep 1; echo later) &"
    state = await ready.run(ready.script(f"#!/bin/sh\n{daemon}\necho now"), timeout=5)
    assert state.state == "succeeded" and ready.text("run-1") == "now\n"
    go.touch()
    await until(lambda: ready.text("run-1") == "now\nlate\nlater\n", "late output")
    assert ready.outputs[-1].offset + len(ready.outputs[-1].text) == len("now\nlate\nlater\n")


async def test_time_limit_and_cancel_end_the_whole_group(ready: Stand) -> None:
    state = await ready.run(ready.script("#!/bin/sh\nsleep 61.7 & sleep 61.8", timeout_seconds=0.5))
    assert state.results[0].state == "timed_out" and "0.5 s" in state.detail
    run = await ready.begin(ready.script("#!/bin/sh\necho up; sleep 61.9"), ready.script("#!/bin/sh\ntrue"))
    await until(lambda: ready.text(run) == "up\n", "it runs")
    assert isinstance(await ready.order(CancelRun(run)), Accepted)
    state = await ready.ended(run)
    assert (state.state, [r.state for r in state.results]) == ("cancelled", ["cancelled", "waiting"])

    def left() -> list[Path]:
        return [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x0061." in _read(p)]

    await until(lambda: not left(), "all of both groups are gone", 5)


async def test_output_streams_while_it_runs(ready: Stand) -> None:
    first, second = ready.folder / "first", ready.folder / "second"
    run = await ready.begin(ready.script(f"#!/bin/sh\necho a; {wait_for(first)}; echo b; {wait_for(second)}"))
    await until(lambda: ready.text(run) == "a\n", "the first line")
    await until(lambda: ready.state(run) == "running", "that it runs")
    first.touch()
    await until(lambda: ready.text(run) == "a\nb\n", "the second line")
    assert ready.state(run) == "running"
    second.touch()
    await ready.ended(run)


async def test_a_flood_hurts_nobody(ready: Stand) -> None:
    script = ready.script("#!/bin/sh\nyes 0123456789 | head -c 104857600; echo END", timeout_seconds=120)
    state = await ready.run(script, timeout=60)
    assert state.results[0].output_bytes == 104857600 + 4
    assert ready.text("run-1").endswith("0123456789\n0END\n")
    assert ready.text("run-1")[: 1024 * 1024] == ("0123456789\n" * 100000)[: 1024 * 1024]
    assert sum(len(o.text) for o in ready.outputs) < 3 * 1024 * 1024
    at = 0
    for output in ready.outputs:
        assert output.offset >= at
        at = output.offset + len(output.text)
    assert at == state.results[0].output_bytes
    log = ready.root / "var/log/relaunch/runs/run-1/0.log"
    await until(lambda: log.stat().st_size > 22 * 1024 * 1024, "head and tail in one file")
    assert log.stat().st_size < 23 * 1024 * 1024 and log.read_text().endswith("END\n")


async def test_a_killed_agent_finds_its_script_still_running(stand: Stand) -> None:
    agent = stand.start_agent()
    await stand.connected()
    go = stand.folder / "go"
    first = stand.script(f"#!/bin/sh\necho one; {wait_for(go)}; echo two")
    run = await stand.begin(first, stand.script("#!/bin/sh\necho three"))
    await until(lambda: stand.text(run) == "one\n", "it runs")
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    stand.start_agent()
    await stand.connected(2)
    assert [r.state for r in stand.hellos[1].runs] == ["running"]
    go.touch()
    state = await stand.ended(run)
    assert state.state == "succeeded" and stand.text(run) == "one\ntwo\n" and stand.text(run, 1) == "three\n"


async def test_a_run_cut_by_a_reboot_has_failed(stand: Stand) -> None:
    agent = stand.start_agent()
    await stand.connected()
    run = await stand.begin(stand.script("#!/bin/sh\nsleep 1"))
    await until(lambda: stand.state(run) == "running", "it runs")
    agent.kill()
    agent.wait()
    kept = stand.root / f"var/lib/relaunch/runs/{run}/run.json"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    kept.write_text(kept.read_text().replace(boot, "another-boot"))
    stand.start_agent()
    state = await stand.ended(run)
    assert state.state == "failed" and "rebooted" in state.detail and state.results[0].state == "failed"


async def test_a_run_ends_while_the_bus_is_away_and_is_reported_later(ready: Stand) -> None:
    run = await ready.begin(ready.script("#!/bin/sh\necho before; sleep 1; echo after"))
    await until(lambda: ready.text(run) == "before\n", "it runs")
    await ready.stop_bus()
    await asyncio.sleep(1.5)
    await ready.start_bus()
    assert (await ready.ended(run)).state == "succeeded"
    assert ready.text(run) == "before\nafter\n"


async def test_reports_until_they_are_stored(ready: Stand) -> None:
    ready.deaf = True
    run = await ready.begin(ready.script("#!/bin/sh\ntrue"))
    await asyncio.sleep(1)
    ready.deaf = False
    assert (await ready.ended(run)).state == "succeeded"


async def test_refuses_what_it_cannot_do(ready: Stand) -> None:
    wrong = ready.script("#!/bin/sh\n", inputs={"A=B": "x"})
    assert "environment" in (await ready.order(RunScripts("r", "boot", [wrong]))).reason
    assert "run id" in (await ready.order(RunScripts("../r", "boot", []))).reason
    assert "phase" in (await ready.order(RunScripts("r", "party", []))).reason
    assert "packages" in (await ready.order(RunScripts("r", "boot", [], ["-o=evil"]))).reason
    missing = ready.script("#!/bin/sh\n")
    ready.blobs.clear()
    assert "no file" in (await ready.run(missing)).detail


async def test_a_script_waits_for_its_files_while_the_controller_is_away(ready: Stand) -> None:
    ready.stop_http()
    run = await ready.begin(ready.script("#!/bin/sh\necho here\n"))
    await asyncio.sleep(8)
    assert ready.state(run) in ("unknown", "running")

    await ready.start_http()

    assert (await ready.ended(run)).state == "succeeded"
    await until(lambda: ready.text(run) == "here\n", "its output")


async def test_view_is_kept_and_older_ones_refused(ready: Stand) -> None:
    view = {"server": {"name": "front1"}, "hosts": {"db-primary.x.test": "127.0.1.1"}}
    assert isinstance(await ready.order(SetView(5, view)), Accepted)
    assert isinstance(await ready.order(SetView(4, {})), Refused)
    assert "127.0.1.1 db-primary.x.test" in (ready.root / "etc/hosts").read_text()
    assert await ready.local("me") == (0, "front1\n", "")
    assert not (ready.root / "etc/haproxy").exists()


async def test_local_command(ready: Stand) -> None:
    asking = asyncio.ensure_future(ready.local("primary", "--wait", "5"))
    await asyncio.sleep(0.3)
    database = {"group": "g", "primary": {"name": "db1", "address": "10.0.0.1"}, "replicas": []}
    await ready.order(SetView(1, {"database": database}))
    assert await asking == (0, "10.0.0.1\n", "")
    assert (await ready.local("replicas"))[0] == 1
    assert (await ready.local("tag", "app=8000"))[0] == 0
    assert (await ready.local("output", "URL", "-x y"))[0] == 0
    assert (await ready.local("tag", "-d", "app"))[0] == 0
    tags = [(p.tags, p.removed_tags, p.outputs) for p in ready.published]
    assert tags == [({"app": "8000"}, [], {}), ({}, [], {"URL": "-x y"}), ({}, ["app"], {})]
    assert await ready.local("role") == (1, "", "relaunch-local: it is neither primary nor replica\n")
    assert (await ready.local("nonsense"))[0] == 2
    assert (ready.root / "run/relaunch/agent.sock").stat().st_mode & 0o777 == 0o600
    assert (ready.root / "usr/local/bin/relaunch-local").stat().st_mode & 0o777 == 0o755


async def test_local_command_is_quick(ready: Stand) -> None:
    await ready.order(SetView(1, {"server": {"name": "a"}}))
    medians: list[float] = []
    while len(medians) < 5 and min(medians, default=1.0) >= 0.06:  # the machine may be busy with something else
        times = []
        for _ in range(10):
            began = time.monotonic()
            await ready.local("me")
            times.append(time.monotonic() - began)
        medians.append(sorted(times)[5])
    assert min(medians) < 0.06, medians


async def test_tags_wait_for_the_controller(ready: Stand) -> None:
    await ready.stop_bus()
    status, _, complaint = await ready.local("tag", "database=primary")
    assert status == 0 and "kept" in complaint
    await ready.start_bus()
    await until(lambda: [p.tags for p in ready.published] == [{"database": "primary"}], "the tag arrived")


async def test_prepare_image_forgets_this_instance(ready: Stand) -> None:
    await ready.order(SetView(1, {"hosts": {"a.test": "127.0.1.1"}}))
    await ready.run(ready.script("#!/bin/sh\necho bake"), phase="bake")
    assert isinstance(await ready.order(PrepareImage()), Accepted)
    await until(lambda: ready._agents[-1].poll() == 78, "the agent ended")
    files = {str(p.relative_to(ready.root)) for p in ready.root.rglob("*") if p.is_file()}
    assert {f.split("/")[-2] for f in files if f.startswith("var/lib/relaunch/")} == {"blobs"}
    assert not any(f.startswith(("etc/relaunch", "var/log/relaunch")) for f in files)
    assert (ready.root / "etc/hosts").read_text() == "127.0.0.1 localhost\n"


async def test_retire_forgets_the_credential_and_keeps_the_logs(ready: Stand) -> None:
    await ready.run(ready.script("#!/bin/sh\necho hello"))
    assert isinstance(await ready.order(Retire("terminated")), Accepted)
    await until(lambda: ready._agents[-1].poll() == 78, "the agent ended")
    assert not (ready.root / "var/lib/relaunch/agent/credential.json").exists()
    assert (ready.root / "var/log/relaunch/runs/run-1/0.log").exists()


async def test_upgrade_is_checked_before(ready: Stand) -> None:
    answer = await ready.order(UpgradeAgent(ready.blob("agent", "not a program")), timeout=25)
    assert isinstance(answer, Refused) and "does not start" in answer.reason
    assert ready._agents[-1].poll() is None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


async def test_a_good_upgrade_starts_counting_afresh(stand: Stand) -> None:
    """Otherwise the starts of four good upgrades would undo the fifth."""
    program = stand.root / "opt/relaunch/relaunch-agent.pyz"
    build(program)
    new = build(stand.folder / "new.pyz").path.read_bytes() + b"\0"
    state = stand.root / "var/lib/relaunch/agent"
    agent = stand.start_agent(sys.executable, "-IS", str(program))
    await stand.connected()
    (state / "upgrade-pending.starts").write_text("start\n" * 3)
    assert isinstance(await stand.order(UpgradeAgent(stand.blob("agent", new)), timeout=25), Accepted)
    await until(lambda: agent.poll() == 0, "the old agent ended")
    assert (state / "upgrade-pending").exists() and not (state / "upgrade-pending.starts").exists()
    (state / "upgrade-pending.starts").write_text("start\n")
    stand.start_agent(sys.executable, "-IS", str(program))
    await stand.connected(2)
    assert stand.hellos[1].agent_sha256 == hashlib.sha256(new).hexdigest()
    await until(lambda: not list(state.glob("upgrade-pending*")), "the upgrade is done")
