"""What every implementation of the DNS port does: the in-memory fake, and a real Knot with signed updates."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from relaunch.cli.reach import wait_for_name
from relaunch.dns.fake import FakeZone
from relaunch.dns.knot import KnotServer, host_resolver
from relaunch.dns.rfc2136 import Rfc2136Zone
from relaunch.dns.zone import RecordSet, Zone
from relaunch.errors import BadInput, Conflict, Failed, NotFound, RelaunchError, Unavailable

ADDRESS, PORT = "127.0.0.39", 53539
ZONES = ("test", "sub.test", "shop.example")
needs_knot = pytest.mark.skipif(
    not (shutil.which("knotd") or Path("/usr/sbin/knotd").exists()), reason="Debian's package knot is not installed"
)


def a(name: str, *values: str, ttl_seconds: int = 30) -> RecordSet:
    return RecordSet(name=name, type="A", values=tuple(sorted(values)), ttl_seconds=ttl_seconds)


def cname(name: str, value: str) -> RecordSet:
    return RecordSet(name=name, type="CNAME", values=(value,))


@pytest.fixture
async def knot(tmp_path: Path) -> AsyncIterator[KnotServer]:
    server = KnotServer(tmp_path / "dns", address=ADDRESS, port=PORT, zones=ZONES, forward_to=None)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(params=["fake", pytest.param("knot", marks=needs_knot)])
def zone(request: pytest.FixtureRequest) -> Zone:
    if request.param == "fake":
        return FakeZone(ZONES)
    server: KnotServer = request.getfixturevalue("knot")
    return server.zone()


async def test_a_written_record_set_is_read_back(zone: Zone) -> None:
    wanted = a("db.shop.test", "198.18.0.3", "198.18.0.20", ttl_seconds=5)

    await zone.replace(wanted)

    assert await zone.read("db.shop.test", "A") == wanted
    assert await zone.read("db.shop.test", "AAAA") is None


async def test_values_of_every_type_come_back_as_they_were_given(zone: Zone) -> None:
    sets = [
        RecordSet(name="six.test", type="AAAA", values=("fd00::1",)),
        RecordSet(name="text.test", type="TXT", values=('v=1; "quoted" back\\slash',)),
        cname("www.test", "front.elsewhere.example"),
    ]

    for wanted in sets:
        await zone.replace(wanted)

    assert [await zone.read(wanted.name, wanted.type) for wanted in sets] == sets


async def test_replacing_leaves_only_the_new_values(zone: Zone) -> None:
    await zone.replace(a("x.test", "198.18.0.1", "198.18.0.2"))

    await zone.replace(a("x.test", "198.18.0.9"))

    assert await zone.read("x.test", "A") == a("x.test", "198.18.0.9")


async def test_compare_and_set_succeeds_when_the_old_value_is_the_expected_one(zone: Zone) -> None:
    old, new = a("primary.test", "198.18.0.1", ttl_seconds=60), a("primary.test", "198.18.0.2")
    await zone.replace(old, expected=None)

    await zone.replace(new, expected=a("primary.test", "198.18.0.1"))

    assert await zone.read("primary.test", "A") == new


@pytest.mark.parametrize(
    "expected", [None, a("primary.test", "198.18.0.7"), a("primary.test", "198.18.0.1", "198.18.0.2")]
)
async def test_compare_and_set_changes_nothing_when_another_value_is_there(
    zone: Zone, expected: RecordSet | None
) -> None:
    await zone.replace(a("primary.test", "198.18.0.1"))

    with pytest.raises(Conflict):
        await zone.replace(a("primary.test", "198.18.0.9"), expected=expected)

    assert await zone.read("primary.test", "A") == a("primary.test", "198.18.0.1")


async def test_compare_and_set_on_a_name_that_is_gone_is_a_conflict(zone: Zone) -> None:
    with pytest.raises(Conflict):
        await zone.replace(a("never.test", "198.18.0.9"), expected=a("never.test", "198.18.0.1"))

    assert await zone.read("never.test", "A") is None


async def test_of_many_that_expect_the_same_old_value_exactly_one_wins(zone: Zone) -> None:
    await zone.replace(a("race.test", "198.18.0.1"))

    ends = await asyncio.gather(
        *(zone.replace(a("race.test", f"198.18.1.{n}"), expected=a("race.test", "198.18.0.1")) for n in range(1, 11)),
        return_exceptions=True,
    )

    assert [type(end) for end in ends].count(type(None)) == 1
    assert [type(end) for end in ends].count(Conflict) == 9


async def test_an_alias_and_an_address_exclude_each_other(zone: Zone) -> None:
    await zone.replace(a("address.test", "198.18.0.1"))
    await zone.replace(cname("alias.test", "address.test"))

    with pytest.raises(Conflict):
        await zone.replace(cname("address.test", "alias.test"))
    with pytest.raises(Conflict):
        await zone.replace(a("alias.test", "198.18.0.1"))

    assert await zone.read("alias.test", "CNAME") == cname("alias.test", "address.test")
    assert await zone.read("address.test", "CNAME") is None


async def test_a_name_never_vanishes_while_it_is_replaced(zone: Zone) -> None:
    await zone.replace(a("busy.test", "198.18.0.1"))
    done = asyncio.Event()

    async def look() -> list[RecordSet | None]:
        seen = []
        while not done.is_set():
            seen.append(await zone.read("busy.test", "A"))
            await asyncio.sleep(0)
        return seen

    looking = asyncio.create_task(look())
    for n in range(2, 30):
        await zone.replace(a("busy.test", f"198.18.0.{n}"))
        await asyncio.sleep(0)
    done.set()

    seen = await looking
    assert len(seen) > 5
    assert None not in seen


async def test_removing_is_repeatable_and_leaves_other_types(zone: Zone) -> None:
    text = RecordSet(name="both.test", type="TXT", values=("kept",))
    await zone.replace(a("both.test", "198.18.0.1"))
    await zone.replace(text)

    await zone.remove("both.test", "A")
    await zone.remove("both.test", "A")
    await zone.remove("elsewhere.invalid", "A")

    assert await zone.read("both.test", "A") is None
    assert await zone.read("both.test", "TXT") == text


async def test_all_records_of_all_zones_are_listed(zone: Zone) -> None:
    wanted = [a("a.sub.test", "198.18.0.1"), a("b.test", "198.18.0.2"), a("c.shop.example", "198.18.0.3")]
    for one in wanted:
        await zone.replace(one)

    listed = [r for r in await zone.records() if not r.name.startswith("ns.")]

    assert sorted(listed, key=lambda r: r.name) == wanted


async def test_a_name_no_zone_holds_is_not_found(zone: Zone) -> None:
    for name in ("www.invalid", "contest", "xtest"):
        with pytest.raises(NotFound):
            await zone.replace(a(name, "198.18.0.1"))
        assert await zone.read(name, "A") is None


@pytest.mark.parametrize(
    "wrong",
    [
        a("x.test", "198.18.0.999"),
        a("x.test"),
        RecordSet(name="x.test", type="AAAA", values=("198.18.0.1",)),
        RecordSet(name="x.test", type="MX", values=("10 mail.test",)),
        RecordSet(name="x.test", type="CNAME", values=("a.test", "b.test")),
    ],
)
async def test_what_cannot_be_a_record_is_refused(zone: Zone, wrong: RecordSet) -> None:
    with pytest.raises(BadInput):
        await zone.replace(wrong)


@needs_knot
async def test_an_absent_server_is_unavailable_within_three_seconds(knot: KnotServer) -> None:
    zone = knot.zone()
    await knot.stop()
    started = time.monotonic()

    for asked in (zone.read("x.test", "A"), zone.replace(a("x.test", "198.18.0.1")), zone.records()):
        with pytest.raises(Unavailable):
            await asked

    assert time.monotonic() - started < 3.5


async def test_a_fake_that_is_gone_is_unavailable() -> None:
    zone = FakeZone(ZONES)
    zone.answers = False

    with pytest.raises(Unavailable):
        await zone.read("x.test", "A")


@needs_knot
async def test_a_silent_server_is_unavailable_within_its_patience(knot: KnotServer) -> None:
    assert knot.pid
    os.kill(knot.pid, signal.SIGSTOP)
    started = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            await knot.zone().replace(a("x.test", "198.18.0.1"))
    finally:
        os.kill(knot.pid, signal.SIGCONT)

    assert time.monotonic() - started < 4


@needs_knot
async def test_a_wrong_key_changes_nothing(knot: KnotServer) -> None:
    stranger = Rfc2136Zone(ADDRESS, PORT, "relaunch", "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkgd3I=", ZONES)

    with pytest.raises(RelaunchError) as refused:
        await stranger.replace(a("x.test", "198.18.0.1"))

    assert isinstance(refused.value, (Failed, Unavailable))
    assert await knot.zone().read("x.test", "A") is None


@needs_knot
async def test_records_outlive_a_killed_server_and_a_change_of_zones(knot: KnotServer) -> None:
    await knot.zone().replace(a("kept.test", "198.18.0.1"))
    assert knot.pid
    os.kill(knot.pid, signal.SIGKILL)
    await knot.wait_ended()

    await knot.start()
    await knot.zone().replace(a("kept.shop.example", "198.18.0.2"))
    await knot.set_zones(("test", "new.example"))
    await knot.zone().replace(a("www.new.example", "198.18.0.3"))
    await knot.set_zones(ZONES)

    assert await knot.zone().read("kept.test", "A") == a("kept.test", "198.18.0.1")
    assert await knot.zone().read("kept.shop.example", "A") == a("kept.shop.example", "198.18.0.2")


@needs_knot
async def test_the_server_left_by_a_killed_controller_is_replaced(knot: KnotServer, tmp_path: Path) -> None:
    left = knot.pid
    again = KnotServer(tmp_path / "dns", address=ADDRESS, port=PORT, zones=ZONES, forward_to=None)

    await again.start()
    try:
        assert again.pid != left
        assert await knot.wait_ended() is not None
    finally:
        await again.stop()


@needs_knot
async def test_a_number_left_by_a_killed_server_that_others_have_now_is_no_obstacle(
    knot: KnotServer, tmp_path: Path
) -> None:
    await knot.zone().replace(a("www.shop.test", "198.18.0.5"))
    number = tmp_path / "dns" / "run" / "knot.pid"
    assert knot.pid and number.exists()
    os.kill(knot.pid, signal.SIGKILL)
    await knot.wait_ended()
    number.write_text(str(os.getppid()))

    await knot.start()

    assert await knot.zone().read("www.shop.test", "A") == a("www.shop.test", "198.18.0.5")


@needs_knot
async def test_an_address_that_is_taken_is_said_so(knot: KnotServer, tmp_path: Path) -> None:
    second = KnotServer(tmp_path / "second", address=ADDRESS, port=PORT, zones=ZONES, forward_to=None)

    with pytest.raises(RelaunchError) as refused:
        await second.start()

    assert "already in use" in str(refused.value)
    assert second.pid is None


async def ask(port: int, name: str) -> dns.message.Message:
    return await dns.asyncquery.udp(dns.message.make_query(name, "A"), ADDRESS, port=port, timeout=5)


@needs_knot
async def test_other_names_are_asked_of_the_resolver_of_the_host(knot: KnotServer, tmp_path: Path) -> None:
    await knot.zone().replace(a("www.shop.example", "198.18.0.77"))
    front = KnotServer(
        tmp_path / "front", address=ADDRESS, port=PORT + 1, zones=("other.example",), forward_to=f"{ADDRESS}@{PORT}"
    )
    await front.start()
    try:
        forwarded = await ask(PORT + 1, "www.shop.example.")
        await knot.stop()
        started = time.monotonic()
        upstream_gone = await ask(PORT + 1, "www.shop.example.")
        took = time.monotonic() - started
        own = await ask(PORT + 1, "ns.other.example.")
    finally:
        await front.stop()

    assert [str(r[0]) for r in forwarded.answer] == ["198.18.0.77"]
    assert upstream_gone.rcode() in (dns.rcode.SERVFAIL, dns.rcode.REFUSED)
    assert took < 3
    assert own.answer


@needs_knot
async def test_without_a_resolver_other_names_are_refused(knot: KnotServer) -> None:
    assert (await ask(PORT, "www.elsewhere.invalid.")).rcode() == dns.rcode.REFUSED


def test_the_resolver_of_the_host_is_read_and_never_ourselves(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nsearch lan\nnameserver 198.18.0.1\nnameserver fe80::1%eth0\nnameserver 192.0.2.53\n")

    assert host_resolver(file, but_not="198.18.0.1") == "192.0.2.53"
    assert host_resolver(tmp_path / "absent") is None


@needs_knot
async def test_a_person_waits_for_a_name_to_lead_to_every_front_end(knot: KnotServer) -> None:
    zone = knot.zone()
    await zone.replace(cname("www.redmine.test", "www.demo.test"))
    await zone.replace(a("www.demo.test", "198.18.0.7"))
    both = ("198.18.0.6", "198.18.0.7")

    waiting = asyncio.create_task(
        asyncio.to_thread(wait_for_name, "www.redmine.test", both, ADDRESS, timeout_seconds=10, port=PORT)
    )
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await zone.replace(a("www.demo.test", *both))
    await asyncio.wait_for(waiting, 2)


@needs_knot
@pytest.mark.parametrize(
    ("held", "said"),
    [(("198.18.0.7",), "its addresses are 198.18.0.7"), ((), "does not exist")],
    ids=["another address", "no such name"],
)
async def test_a_name_that_does_not_lead_there_is_told_with_what_it_leads_to(
    knot: KnotServer, held: tuple[str, ...], said: str
) -> None:
    if held:
        await knot.zone().replace(a("www.redmine.test", *held))

    with pytest.raises(Failed, match=r"the name www.redmine.test does not lead to 198\.18\.0\.6: ") as failed:
        await asyncio.to_thread(
            wait_for_name, "www.redmine.test", ["198.18.0.6"], ADDRESS, timeout_seconds=0.2, port=PORT
        )
    assert said in str(failed.value)
