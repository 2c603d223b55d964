"""DNS by TSIG-signed updates (RFC 2136): Knot beside the controller, or any other server that takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.tsig
import dns.update
import dns.xfr
import dns.zone

from relaunch.dns.zone import WHATEVER, RecordSet, Whatever, checked, excluded_types, zone_of
from relaunch.errors import BadInput, Conflict, Failed, NotFound, Unavailable

PATIENCE_SECONDS = 3.0
_PREREQUISITE_FAILED = (dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN)
_OURS = {dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.CNAME, dns.rdatatype.TXT}


class Rfc2136Zone:
    """The zones of one server, changed over TCP with one key. `key_secret` is base64, hmac-sha256.

    An update may take a second: Knot 3.2 has one that comes in the clock's second after another's wait until that other
    is a second old, when its NOTIFY is due.
    """

    def __init__(self, server: str, port: int, key_name: str, key_secret: str, zones: Sequence[str]) -> None:
        self._server, self._port = server, port
        self._key = dns.tsig.Key(dns.name.from_text(key_name), key_secret, dns.tsig.HMAC_SHA256)
        self._zones = tuple(zones)

    @property
    def zones(self) -> tuple[str, ...]:
        return self._zones

    async def read(self, name: str, type: str) -> RecordSet | None:
        try:
            zone_of(self._zones, name)
        except NotFound:
            return None  # asking would be forwarded to the world outside
        query = dns.message.make_query(_absolute(name), type, use_edns=False)
        query.flags &= ~dns.flags.RD
        answer = await self._ask(query)
        for rrset in answer.answer:
            if rrset.name == _absolute(name) and rrset.rdtype == dns.rdatatype.from_text(type):
                return _record_set(name, rrset)
        return None

    async def replace(self, wanted: RecordSet, *, expected: RecordSet | Whatever | None = WHATEVER) -> None:
        wanted = checked(wanted)
        name = _absolute(wanted.name)
        update = dns.update.UpdateMessage(_absolute(zone_of(self._zones, wanted.name)), keyring=self._key)
        for other in excluded_types(wanted.type):  # the server would silently ignore the addition
            update.absent(name, other)
        if expected is None:
            update.absent(name, wanted.type)
        elif isinstance(expected, RecordSet):
            update.present(name, *_rdatas(expected))
        update.replace(name, wanted.ttl_seconds, *_rdatas(wanted))
        code = (await self._ask(update)).rcode()
        if code in _PREREQUISITE_FAILED:
            raise Conflict(
                f"{wanted.name} {wanted.type} is not what was expected, or a record stands there that excludes it",
                hint="read it again, then decide",
            )
        self._accept(code, f"{wanted.name} {wanted.type}")

    async def remove(self, name: str, type: str) -> None:
        try:
            zone = zone_of(self._zones, name)
        except NotFound:
            return
        update = dns.update.UpdateMessage(_absolute(zone), keyring=self._key)
        update.delete(_absolute(name), type)
        self._accept((await self._ask(update)).rcode(), f"{name} {type}")

    async def records(self) -> Sequence[RecordSet]:
        found: list[RecordSet] = []
        for zone in self._zones:
            content = dns.zone.Zone(_absolute(zone), relativize=False)
            query, _ = dns.xfr.make_query(content, serial=None, keyring=self._key)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await dns.asyncquery.inbound_xfr(self._server, content, query, port=self._port)
            except (OSError, TimeoutError, dns.exception.DNSException) as error:
                raise self._unavailable(error) from error
            for name, rdataset in content.iterate_rdatasets():
                if rdataset.rdtype in _OURS:
                    found.append(_record_set(name.to_text(omit_final_dot=True), rdataset))
        return sorted(found, key=lambda r: (r.name, r.type))

    async def _ask(self, message: dns.message.Message) -> dns.message.Message:
        try:
            return await dns.asyncquery.tcp(message, self._server, port=self._port, timeout=PATIENCE_SECONDS)
        except (OSError, TimeoutError, dns.exception.DNSException) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> Unavailable:
        why = str(error) or type(error).__name__
        return Unavailable(f"the DNS server {self._server} port {self._port} does not answer: {why}")

    def _accept(self, code: dns.rcode.Rcode, what: str) -> None:
        if code == dns.rcode.SERVFAIL:
            raise Unavailable(f"the DNS server could not change {what} (SERVFAIL)", hint="try again; its log says why")
        if code != dns.rcode.NOERROR:
            raise Failed(f"the DNS server refused to change {what}: {dns.rcode.to_text(code)}", hint="see its log")


def _absolute(name: str) -> dns.name.Name:
    try:
        return dns.name.from_text(name + ".")
    except dns.exception.DNSException as error:
        raise BadInput(f"{name} is no domain name: {error}") from None


def _rdatas(records: RecordSet) -> list[dns.rdata.Rdata]:
    def text(value: str) -> str:
        if records.type == "CNAME":
            return value + "."
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if records.type == "TXT" else value

    try:
        return [dns.rdata.from_text(dns.rdataclass.IN, records.type, text(value)) for value in records.values]
    except dns.exception.DNSException as error:
        raise BadInput(f"{records.name} {records.type}: {error}") from None


def _record_set(name: str, rdataset: dns.rdataset.Rdataset) -> RecordSet:
    def value(rdata: dns.rdata.Rdata) -> str:
        if rdataset.rdtype == dns.rdatatype.TXT:
            return b"".join(rdata.strings).decode()  # type: ignore[attr-defined]
        return rdata.to_text(omit_final_dot=True).removesuffix(".")

    return RecordSet(
        name=name,
        type=dns.rdatatype.to_text(rdataset.rdtype),
        values=tuple(sorted(value(r) for r in rdataset)),
        ttl_seconds=rdataset.ttl,
    )
