"""HAProxy's back ends and listeners from the view: the file, and the commands that bring a running process to it.

Pure: `render` gives the file, `decide` the next commands for what was observed. Written for HAProxy 2.6 to 3.x: only
commands all of them know; settings of a server stand on its own line, because a server added at runtime inherits none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, FrozenSet, List, Mapping, Optional, Tuple

DRAIN_SECONDS = 10.0
CHECKED = "check inter 1s fall 2 rise 1 fastinter 250ms"
Key = Tuple[str, str]  # proxy, server
NAME = re.compile(r"[A-Za-z0-9_.:-]+")

HEADER = """\
# Written by relaunch's agent from the view of server {server} (deployment {deployment}): /var/lib/relaunch/view.json
# Changes here are lost. Your own settings belong into /etc/haproxy/haproxy.cfg; use `use_backend site-NAME` there.
"""
BACKEND = """
backend {name}
    mode http
    balance roundrobin
    option httpchk
    http-check send meth GET uri {check_path} ver HTTP/1.1 hdr Host {host} hdr User-Agent relaunch-check
    http-check expect rstatus ^[23]
    option redispatch 1
    retries 2
    # A request the app may have begun to act on is sent again only when that does no harm.
    retry-on conn-failure empty-response response-timeout 502 503
    http-request disable-l7-retry unless {{ method GET HEAD OPTIONS }}
"""
LISTENER = """
listen {name}
    bind {bind}
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
"""


@dataclass(frozen=True)
class Server:
    """`check` is what probes it first: path and host for an HTTP back end, None for a TCP listener."""

    proxy: str
    name: str
    address: str
    port: int
    weight: int
    http: bool
    check_path: str = "/"
    host: str = ""

    @property
    def key(self) -> Key:
        return self.proxy, self.name

    @property
    def settings(self) -> str:
        return f"{self.address}:{self.port} {CHECKED} weight {self.weight}"


@dataclass(frozen=True)
class Running:
    """One server as the running process has it."""

    address: str
    port: int
    weight: int
    in_maintenance: bool
    draining: bool
    sessions: int = 0


@dataclass(frozen=True)
class Seen:
    """What was observed; `draining_since` are moments of our own clock, `answering` those that passed our probe."""

    servers: Mapping[Key, Running]
    proxies: FrozenSet[str]
    answering: FrozenSet[Key] = frozenset()
    draining_since: Mapping[Key, float] = field(default_factory=dict)
    now: float = 0.0


@dataclass(frozen=True)
class Decision:
    """`commands` for now, in order; `to_probe` are wanted as soon as they answer; `unfinished`: look again soon.

    `cut PROXY/SERVER` is none of HAProxy's: end the sessions that are connected to that server.
    """

    commands: Tuple[str, ...] = ()
    to_probe: Tuple[Server, ...] = ()
    needs_reload: bool = False
    unfinished: bool = False


def without_lagging(view: Mapping[str, Any], addresses: FrozenSet[str]) -> Mapping[str, Any]:
    """The view without these as answerers of reads; the primary answers them when no replica is left."""
    proxy: Mapping[str, Any] = view.get("proxy") or {}
    listeners = proxy.get("listeners") or ()
    if not addresses or not listeners:
        return view
    servers = {each["name"]: each["servers"] for each in listeners}
    kept = []
    for each in listeners:
        if str(each["name"]).startswith("db-replica"):
            near = [server for server in each["servers"] if server["address"] not in addresses]
            each = {**each, "servers": near or servers.get(each["name"].replace("replica", "primary"), [])}
        kept.append(each)
    return {**view, "proxy": {**proxy, "listeners": kept}}


def wanted_servers(proxy: Optional[Mapping[str, Any]]) -> Dict[Key, Server]:
    found: Dict[Key, Server] = {}
    for backend in (proxy or {}).get("backends") or ():
        name = str(backend["name"])
        host = name[5:] if name.startswith("site-") else name
        for raw in backend["servers"]:
            server = _server(name, raw, http=True, check_path=str(backend.get("check_path") or "/"), host=host)
            found[server.key] = server
    for listener in (proxy or {}).get("listeners") or ():
        for raw in listener["servers"]:
            server = _server(str(listener["name"]), raw, http=False)
            found[server.key] = server
    return found


def _server(proxy: str, raw: Mapping[str, Any], *, http: bool, check_path: str = "/", host: str = "") -> Server:
    return Server(
        proxy,
        str(raw["name"]),
        str(raw["address"]),
        int(raw["port"]),
        int(raw.get("weight", 100)),
        http,
        check_path,
        host,
    )


def render(view: Mapping[str, Any]) -> str:
    """The whole of relaunch.cfg."""
    proxy: Mapping[str, Any] = view.get("proxy") or {}
    own = view.get("server") or {}
    servers = wanted_servers(proxy)
    parts = [HEADER.format(server=own.get("name", "?"), deployment=own.get("deployment", "?"))]
    for backend in proxy.get("backends") or ():
        name = str(backend["name"])
        host = name[5:] if name.startswith("site-") else name
        parts.append(BACKEND.format(name=name, host=host, check_path=str(backend.get("check_path") or "/")))
        parts += _lines(name, servers)
    for listener in proxy.get("listeners") or ():
        parts.append(LISTENER.format(name=listener["name"], bind=listener["bind"]))
        parts += _lines(str(listener["name"]), servers)
    text = "".join(parts)
    for server in servers.values():
        if not NAME.fullmatch(server.proxy) or not NAME.fullmatch(server.name):
            raise ValueError(f"not a name HAProxy takes: {server.proxy}/{server.name}")
    return text


def _lines(proxy: str, servers: Mapping[Key, Server]) -> List[str]:
    return [f"    server {s.name} {s.settings}\n" for s in servers.values() if s.proxy == proxy]


def structure(text: str) -> str:
    """What of the file only a reload can change: all but the servers and the comments."""
    kept = [line for line in text.splitlines() if not line.lstrip().startswith(("server ", "#"))]
    return "\n".join(line for line in kept if line.strip())


def proxies_of(text: str) -> FrozenSet[str]:
    return frozenset(re.findall(r"^(?:backend|listen) (\S+)", text, re.MULTILINE))


def decide(wanted: Mapping[Key, Server], ours: FrozenSet[str], seen: Seen) -> Decision:
    """The next commands. `ours` are the names of the proxies the agent's file has."""
    leaving: List[str] = []
    coming: List[str] = []
    cutting: List[str] = []  # once there is another server: who is still connecting then tries that one
    to_probe: List[Server] = []
    unfinished = False
    for key, running in seen.servers.items():
        if key[0] in ours and key not in wanted:
            unfinished = True
            if _is_http(key[0], wanted):
                leaving += _leave(key, running, seen)
            else:
                name = "/".join(key)
                leaving.append(f"disable server {name}")
                cutting += [f"cut {name}"] if running.sessions else []
                cutting.append(f"del server {name}")
    for key, server in wanted.items():
        if server.proxy not in seen.proxies:
            continue
        commands, probe = _come(server, seen.servers.get(key), answering=key in seen.answering)
        coming += commands
        if probe:
            to_probe.append(server)
            unfinished = True
    return Decision(tuple(leaving + coming + cutting), tuple(to_probe), not ours <= seen.proxies, unfinished)


def _is_http(proxy: str, wanted: Mapping[Key, Server]) -> bool:
    others = [server for server in wanted.values() if server.proxy == proxy]
    return others[0].http if others else proxy.startswith("site-")


def _leave(key: Key, running: Running, seen: Seen) -> List[str]:
    """A web server finishes what it has begun. (A database connection is cut at once: it may be the old primary's.)"""
    name = "/".join(key)
    since = seen.draining_since.get(key)
    if not running.in_maintenance:
        if since is None or not running.draining:
            return [f"set server {name} state drain"]
        if running.sessions and seen.now - since < DRAIN_SECONDS:
            return []
    cut = [f"shutdown sessions server {name}"] if running.sessions else []
    return [f"disable server {name}", *cut, f"del server {name}"]


def _come(server: Server, running: Optional[Running], *, answering: bool) -> Tuple[List[str], bool]:
    """(commands, whether it is to be probed first)."""
    name = f"{server.proxy}/{server.name}"
    start = [f"enable health {name}", f"enable server {name}"]
    if running is None:
        if server.http and not answering:
            return [], True
        return [f"add server {name} {server.settings}", *start], False
    moved = (running.address, running.port) != (server.address, server.port)
    if server.http and not answering and (moved or running.in_maintenance):
        return [], True
    commands = []
    if moved:
        commands.append(f"set server {name} addr {server.address} port {server.port}")
        if not server.http:
            commands.append(f"cut {name}")
    if running.weight != server.weight:
        commands.append(f"set server {name} weight {server.weight}")
    if running.in_maintenance:
        commands += start
    elif running.draining:
        commands.append(f"set server {name} state ready")
    return commands, False


FORCED_MAINTENANCE, FORCED_DRAIN = 0x01, 0x08  # srv_admin_state in the manual of `show servers state`


def parse_servers(state: str, stat: str) -> Dict[Key, Running]:
    """From `show servers state` and `show stat -1 4 -1`."""
    sessions: Dict[Key, int] = {}
    for values in _table(stat):
        if values.get("svname"):
            sessions[values["pxname"], values["svname"]] = int(values.get("scur") or 0)
    found: Dict[Key, Running] = {}
    lines = state.splitlines()
    head = next((line[2:].split(" ") for line in lines if line.startswith("# ")), [])
    for line in lines:
        words = line.split(" ")
        if line.startswith("#") or len(words) < len(head) or len(words) < 10:
            continue
        values = dict(zip(head, words))
        key = values["be_name"], values["srv_name"]
        admin = int(values["srv_admin_state"])
        found[key] = Running(
            values["srv_addr"], int(values["srv_port"]), int(values["srv_uweight"]),
            bool(admin & FORCED_MAINTENANCE), bool(admin & FORCED_DRAIN), sessions.get(key, 0),
        )  # fmt: skip
    return found


ESTABLISHED = re.compile(r"^(0x[0-9a-f]+):.* be=(\S+) srv=(\S+) .*(?:scb|s1)=\[8,", re.MULTILINE)


def established(said: str, server: str) -> List[str]:
    """From `show sess`, the sessions connected to `server` (as PROXY/SERVER).

    To end one that is still connecting leaves its client connected to nothing; left alone it tries another server.
    """
    return [id for id, proxy, name in ESTABLISHED.findall(said) if f"{proxy}/{name}" == server]


def dead(stat: str, ours: FrozenSet[str]) -> Dict[str, int]:
    """From `show stat -1 4 -1`, as PROXY/SERVER → sessions: who talks to a database that died silently would wait for
    minutes."""
    return {
        f"{values['pxname']}/{values['svname']}": int(values["scur"] or 0)
        for values in _table(stat)
        if values.get("pxname") in ours and values.get("status", "").startswith("DOWN")
    }


OLD_WORKER = re.compile(r"^(\d+)\s+worker\s", re.MULTILINE)


def old_workers(said: str) -> List[str]:
    """From `show proc` of the master, the ids of the processes that have served since before a reload."""
    return OLD_WORKER.findall(said.partition("# old workers")[2].partition("\n#")[0])


LISTENER_NAME = re.compile(r"(db-primary|db-replica)(-\d+)?")


def astray(running: Mapping[Key, Running], wanted: Mapping[Key, Server], dead: Collection[str]) -> List[str]:
    """Of an old process's servers, as PROXY/SERVER: databases with sessions that its listeners should not have.

    It goes by addresses: a name may have had another one, and listeners are numbered anew as sites come and go.
    """
    sound = {
        (_kind(server.proxy), server.address, server.port)
        for server in wanted.values()
        if not server.http and "/".join(server.key) not in dead
    }
    return [
        "/".join(key)
        for key, server in running.items()
        if server.sessions and _kind(key[0]) and (_kind(key[0]), server.address, server.port) not in sound
    ]


def _kind(proxy: str) -> str:
    """db-primary or db-replica; "" when it is no listener for a database."""
    found = LISTENER_NAME.fullmatch(proxy)
    return found[1] if found else ""


def _table(stat: str) -> List[Dict[str, str]]:
    rows = stat.lstrip("# \n").splitlines()
    columns = rows[0].split(",") if rows else []
    return [dict(zip(columns, row.split(","))) for row in rows[1:]]


def parse_proxies(said: str) -> FrozenSet[str]:
    """From `show backend`."""
    return frozenset(line.strip() for line in said.splitlines() if line.strip() and not line.startswith("#"))
