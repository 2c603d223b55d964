from __future__ import annotations

from typing import Any

import pytest

from relaunch_agent.haproxy import (
    CHECKED,
    Decision,
    Key,
    Running,
    Seen,
    astray,
    dead,
    decide,
    established,
    old_workers,
    parse_proxies,
    parse_servers,
    proxies_of,
    render,
    structure,
    wanted_servers,
    without_lagging,
)

SITE = "site-redmine.test"
FRONT1 = {"name": "front1", "address": "127.0.0.1", "port": 8000, "weight": 50}
FRONT2 = {"name": "front2", "address": "198.18.0.12", "port": 8000, "weight": 100}
DB1 = {"name": "db1", "address": "198.18.0.13", "port": 3306, "weight": 100}
DB2 = {"name": "db2", "address": "198.18.0.14", "port": 3306, "weight": 100}
DB3 = {"name": "db3", "address": "198.18.0.15", "port": 3306, "weight": 100}

WHOLE = """\
# Written by relaunch's agent from the view of server front1 (deployment shop): /var/lib/relaunch/view.json
# Changes here are lost. Your own settings belong into /etc/haproxy/haproxy.cfg; use `use_backend site-NAME` there.

backend site-redmine.test
    mode http
    balance roundrobin
    option httpchk
    http-check send meth GET uri /login ver HTTP/1.1 hdr Host redmine.test hdr User-Agent relaunch-check
    http-check expect rstatus ^[23]
    option redispatch 1
    retries 2
    # A request the app may have begun to act on is sent again only when that does no harm.
    retry-on conn-failure empty-response response-timeout 502 503
    http-request disable-l7-retry unless { method GET HEAD OPTIONS }
    server front1 127.0.0.1:8000 check inter 1s fall 2 rise 1 fastinter 250ms weight 50
    server front2 198.18.0.12:8000 check inter 1s fall 2 rise 1 fastinter 250ms weight 100

listen db-primary
    bind 127.0.1.1:3306
    mode tcp
    balance leastconn
    option tcp-check
    option clitcpka
    option srvtcpka
    # While the primary moves, who connects waits here for up to 3 s and then reaches the new one. No on-marked-down
    # shutdown-sessions: who is just connecting would hang for the client's timeout; the agent ends the others.
    option redispatch 1
    retries 12
    timeout connect 250ms
    timeout client 8h
    timeout server 8h
    server db1 198.18.0.13:3306 check inter 1s fall 2 rise 1 fastinter 250ms weight 100
"""


def view(fronts: list[dict[str, Any]], databases: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "server": {"name": "front1", "deployment": "shop"},
        "proxy": {
            "backends": [{"name": SITE, "check_path": "/login", "servers": fronts}],
            "listeners": [{"name": "db-primary", "bind": "127.0.1.1:3306", "servers": databases}],
        },
    }


def running(raw: dict[str, Any], **how: Any) -> Running:
    facts = {"weight": raw["weight"], "in_maintenance": False, "draining": False, **how}
    return Running(raw["address"], raw["port"], **facts)


def decided(wanted: dict[str, Any], servers: dict[Key, Running], **seen: Any) -> Decision:
    ours = proxies_of(render(wanted))
    return decide(wanted_servers(wanted["proxy"]), ours, Seen(servers, seen.pop("proxies", ours), **seen))


F1, F2, D1, D2 = (SITE, "front1"), (SITE, "front2"), ("db-primary", "db1"), ("db-primary", "db2")
BOTH = {F1: running(FRONT1), F2: running(FRONT2), D1: running(DB1)}
ONE = {F1: running(FRONT1), D1: running(DB1)}


def test_the_whole_file() -> None:
    assert render(view([FRONT1, FRONT2], [DB1])) == WHOLE


def test_no_proxy_is_a_file_without_proxies() -> None:
    assert structure(render({})) == ""


def test_servers_are_no_structure_but_a_bind_is() -> None:
    text = render(view([FRONT1], [DB1]))
    assert structure(text) == structure(render(view([FRONT1, FRONT2], [DB2])))
    assert structure(text) != structure(text.replace("127.0.1.1", "127.0.1.9"))


def test_a_name_haproxy_would_stumble_over_is_refused() -> None:
    with pytest.raises(ValueError, match="not a name"):
        render(view([{**FRONT1, "name": "a b"}], []))


def test_nothing_to_do_is_nothing_done() -> None:
    assert decided(view([FRONT1, FRONT2], [DB1]), BOTH) == Decision()


def test_a_new_app_is_probed_before_it_is_added() -> None:
    wanted = view([FRONT1, FRONT2], [DB1])
    first = decided(wanted, ONE)
    assert first.commands == () and [s.key for s in first.to_probe] == [F2] and first.unfinished
    assert decided(wanted, ONE, answering=frozenset([F2])).commands == (
        f"add server {SITE}/front2 198.18.0.12:8000 {CHECKED} weight 100",
        f"enable health {SITE}/front2",
        f"enable server {SITE}/front2",
    )


def test_one_that_was_added_but_not_enabled_is_finished() -> None:
    half = {**BOTH, F2: running(FRONT2, in_maintenance=True)}
    wanted = view([FRONT1, FRONT2], [DB1])
    assert decided(wanted, half, answering=frozenset([F2])).commands == (
        f"enable health {SITE}/front2",
        f"enable server {SITE}/front2",
    )


def test_a_web_server_leaves_step_by_step() -> None:
    wanted = view([FRONT1], [DB1])
    assert decided(wanted, BOTH).commands == (f"set server {SITE}/front2 state drain",)
    busy = {**BOTH, F2: running(FRONT2, draining=True, sessions=3)}
    assert decided(wanted, busy, draining_since={F2: 100.0}, now=105.0).commands == ()
    assert decided(wanted, busy, draining_since={F2: 100.0}, now=110.0).commands == (
        f"disable server {SITE}/front2",
        f"shutdown sessions server {SITE}/front2",
        f"del server {SITE}/front2",
    )
    idle = {**BOTH, F2: running(FRONT2, draining=True)}
    after = decided(wanted, idle, draining_since={F2: 100.0}, now=100.1)
    assert after.commands == (f"disable server {SITE}/front2", f"del server {SITE}/front2") and after.unfinished


def test_one_wanted_again_while_draining_stays() -> None:
    draining = {**BOTH, F2: running(FRONT2, draining=True)}
    wanted = view([FRONT1, FRONT2], [DB1])
    assert decided(wanted, draining).commands == (f"set server {SITE}/front2 state ready",)


def test_weight_and_address_change_at_runtime() -> None:
    wanted = view([{**FRONT1, "weight": 10}, {**FRONT2, "address": "198.18.0.99"}], [DB1])
    assert decided(wanted, BOTH).commands == (f"set server {SITE}/front1 weight 10",)
    assert decided(wanted, BOTH, answering=frozenset([F2])).commands == (
        f"set server {SITE}/front1 weight 10",
        f"set server {SITE}/front2 addr 198.18.0.99 port 8000",
    )


def test_sessions_of_the_old_primary_are_cut_once_those_that_connect_have_another_to_try() -> None:
    old = {**BOTH, D1: running(DB1, sessions=4)}
    assert decided(view([FRONT1, FRONT2], [DB2]), old).commands == (
        "disable server db-primary/db1",
        f"add server db-primary/db2 198.18.0.14:3306 {CHECKED} weight 100",
        "enable health db-primary/db2",
        "enable server db-primary/db2",
        "cut db-primary/db1",
        "del server db-primary/db1",
    )


def test_a_listener_left_without_servers_is_cut_at_once() -> None:
    commands = decided(view([FRONT1, FRONT2], []), BOTH).commands
    assert commands == ("disable server db-primary/db1", "del server db-primary/db1")


def test_a_proxy_the_process_lacks_needs_a_reload() -> None:
    assert decided(view([FRONT1], [DB1]), {F1: running(FRONT1)}, proxies=frozenset([SITE])).needs_reload


def test_servers_of_others_are_left_alone() -> None:
    others = {**BOTH, ("mine", "x"): running(FRONT1)}
    assert decided(view([FRONT1, FRONT2], [DB1]), others).commands == ()


COLUMNS = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight"
    " srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state"
    " bk_f_forced_id srv_f_forced_id srv_fqdn srv_port"
)
STATE = f"""\
1
# {COLUMNS}
3 site-redmine.test 1 front1 127.0.0.1 2 0 50 50 12 6 3 3 6 0 0 0 - 8000
3 site-redmine.test 2 front2 198.18.0.12 0 9 100 100 12 6 3 3 6 0 0 0 - 8000
"""
STAT = "# pxname,svname,qcur,qmax,scur,smax\nsite-redmine.test,front1,0,0,7,9\nsite-redmine.test,front2,0,0,0,9\n"


def test_reading_the_admin_socket() -> None:
    assert parse_servers(STATE, STAT) == {
        F1: Running("127.0.0.1", 8000, 50, False, False, 7),
        F2: Running("198.18.0.12", 8000, 100, True, True, 0),
    }
    assert parse_proxies("# name\nsite-a\nMASTER\n\n") == {"site-a", "MASTER"}


SESSION = "0x7fd93edff{}: proto=tcpv4 src=127.0.0.1:5 fe={} be={} srv={} ts=00 epoch=0 age=1s rq[f=8h,i=0]"
SESSIONS = "\n".join(
    (
        SESSION.format("400", "db-primary", "db-primary", "db1")
        + " scf=[8,0h,fd=12,rex=] scb=[8,1h,fd=15,rex=,wex=] exp=",
        SESSION.format("800", "db-primary", "db-primary", "db1")
        + " scf=[8,0h,fd=18,rex=] scb=[5,1h,fd=19,rex=,wex=] exp=",
        SESSION.format("c00", "db-replica", "db-replica", "db1")
        + " scf=[8,0h,fd=12,rex=] scb=[8,1h,fd=15,rex=,wex=] exp=",
        SESSION.format("500", "db-primary", "db-primary", "db1") + " s0=[8,0h,fd=12,ex=] s1=[8,0h,fd=15,ex=] exp=",
    )
)


def test_only_sessions_that_are_connected_are_cut() -> None:
    """In the words of HAProxy 3.0 and, the last one, 2.6."""
    assert established(SESSIONS, "db-primary/db1") == ["0x7fd93edff400", "0x7fd93edff500"]


def test_a_database_that_died_silently_is_found_by_its_sessions() -> None:
    stat = "# pxname,svname,scur,status\ndb-primary,db1,3,DOWN 1/2\ndb-replica,db1,0,DOWN\ndb-replica,db2,2,UP\n"
    stat += "x,y,9,DOWN\n"
    assert dead(stat, frozenset({"db-primary", "db-replica"})) == {"db-primary/db1": 3, "db-replica/db1": 0}


PROCESSES = """\
#<PID>          <type>          <reloads>       <uptime>        <version>{blank}
5393            master          2 [failed: 0]   0d00h00m07s     {version}
# workers
5784            worker          0               0d00h00m01s     {version}
{old}# programs

"""
OLD = """\
# old workers
5552            worker          1               0d00h00m03s     {version}
5398            worker          2               0d00h00m07s     {version}
"""


@pytest.mark.parametrize("version", ["2.6.12-1+deb12u3", "3.0.11-1+deb13u5"])
def test_the_processes_of_before_a_reload(version: str) -> None:
    said = PROCESSES.format(version=version, blank=" " * 6, old=OLD.format(version=version))
    assert old_workers(said) == ["5552", "5398"]
    assert old_workers(PROCESSES.format(version=version, blank=" " * 6, old="")) == []


def test_sessions_an_old_process_should_not_have_are_told_by_their_databases_addresses() -> None:
    raw = view([FRONT1], [DB2])
    raw["proxy"]["listeners"].append({"name": "db-replica", "bind": "127.0.1.2:3306", "servers": [DB3]})
    wanted = wanted_servers(raw["proxy"])
    before = {
        ("db-primary", "db1"): running(DB1, sessions=1),
        ("db-primary-2", "renamed"): running(DB2, sessions=1),  # the site before it is gone
        ("db-primary-2", "db2"): running({**DB2, "address": "198.18.0.99"}, sessions=1),
        ("db-primary-2", "db1"): running(DB1),
        ("db-replica", "db3"): running(DB3, sessions=1),
        ("db-replica", "db2"): running(DB2, sessions=1),
        ("db-mine", "db1"): running(DB1, sessions=1),
        F2: running(FRONT2, sessions=1),
    }
    gone = ["db-primary/db1", "db-primary-2/db2", "db-replica/db2"]

    assert astray(before, wanted, ()) == gone
    assert astray(before, wanted, {"db-primary/db2": 0}) == [
        "db-primary/db1", "db-primary-2/renamed", "db-primary-2/db2", "db-replica/db2",
    ]  # fmt: skip


def readers(view: Any) -> dict[str, list[str]]:
    return {one["name"]: [each["name"] for each in one["servers"]] for one in view["proxy"]["listeners"]}


def test_reads_go_to_near_replicas_and_to_the_primary_when_none_is_near() -> None:
    raw = view([FRONT1], [DB1])
    listeners = [
        *raw["proxy"]["listeners"],
        {"name": "db-replica", "bind": "127.0.1.2:3306", "servers": [DB2, DB3]},
        {"name": "db-primary-2", "bind": "127.0.2.1:3306", "servers": [DB1]},
        {"name": "db-replica-2", "bind": "127.0.2.2:3306", "servers": [DB2]},
    ]
    raw["proxy"]["listeners"] = listeners

    assert without_lagging(raw, frozenset()) is raw
    assert readers(without_lagging(raw, frozenset({DB2["address"]}))) == {
        "db-primary": ["db1"], "db-replica": ["db3"], "db-primary-2": ["db1"], "db-replica-2": ["db1"],
    }  # fmt: skip
    none = without_lagging(raw, frozenset({DB2["address"], DB3["address"]}))
    assert readers(none)["db-replica"] == ["db1"]
    assert readers(raw)["db-replica"] == ["db2", "db3"], "what was given is as it was"
