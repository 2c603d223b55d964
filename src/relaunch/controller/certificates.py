"""The internal certificate authority: signs the controller's and every server's certificate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from relaunch.clock import Clock
from relaunch.servers.lifecycle import CERTIFICATE_LIFE

AUTHORITY_LIFE = timedelta(days=3650)
RENEW_BEFORE = timedelta(days=365)  # of the controller's own, at a start: so that any start in over a year renews it
RENEW_AUTHORITY_BEFORE = CERTIFICATE_LIFE + RENEW_BEFORE  # likewise: before what it signs would end with it
SKEW = timedelta(hours=1)  # clocks of instances may stand behind ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate: str
    key: str


class Authority:
    """Signs; its key stays in `<state>/ca/ca.key`. `before`: the certificate it had until it was made anew."""

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        clock: Clock,
        before: x509.Certificate | None = None,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock
        self._before = before

    @classmethod
    def open(cls, folder: Path, clock: Clock) -> Authority:
        """The authority kept in `folder`; made at the first start. Near its end its certificate is made anew, for the
        same key and name: what it signed, and what it signs now, hold by either certificate. So is one that does not
        hold yet: the clock was wrong when that was made."""
        key_file, certificate_file, before_file = folder / "ca.key", folder / "ca.crt", folder / "ca-before.crt"
        if not certificate_file.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)  # ca.crt is for everyone, the keys are 0600
            key = ec.generate_private_key(ec.SECP256R1())
            # The name: told apart in a browser's list.
            certificate = _self_signed(_subject(f"relaunch internal CA {os.urandom(4).hex()}"), key, clock)
            write_private(key_file, _key_pem(key).encode())
            _write(certificate_file, _pem(certificate), mode=0o644)
        loaded = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        began = certificate.not_valid_before_utc <= clock.now()
        if not began or certificate.not_valid_after_utc - RENEW_AUTHORITY_BEFORE <= clock.now():
            if began:
                _write(before_file, _pem(certificate), mode=0o644)
            certificate = _self_signed(certificate.subject, loaded, clock)
            _write(certificate_file, _pem(certificate), mode=0o644)
        before = x509.load_pem_x509_certificate(before_file.read_bytes()) if before_file.exists() else None
        return cls(certificate, loaded, clock, before)

    @property
    def pem(self) -> str:
        return _pem(self._certificate).decode()

    @property
    def ends(self) -> datetime:
        return self._certificate.not_valid_after_utc

    def ends_for(self, launched: datetime) -> datetime:
        """Until when a server of that launch trusts and is trusted: it knows the authority's certificate of then."""
        known = self._certificate
        if self._before is not None and launched < known.not_valid_before_utc + SKEW:
            known = self._before
        return min(launched + CERTIFICATE_LIFE, known.not_valid_after_utc)

    def issue(self, name: str, *, names: Sequence[str] = (), addresses: Sequence[str] = ()) -> Issued:
        """A certificate for `name` that holds for all of `names` and `addresses`, usable by server and client."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock.now()
        hosts: list[x509.GeneralName] = [x509.DNSName(host) for host in dict.fromkeys((name, *names))]
        hosts += [x509.IPAddress(ip_address(address)) for address in dict.fromkeys(addresses)]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_subject(name[:64]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(min(now + CERTIFICATE_LIFE, self.ends))
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(certificate=_pem(certificate).decode(), key=_key_pem(key))

    def keep_issued(self, folder: Path, stem: str, *, names: Sequence[str], addresses: Sequence[str]) -> None:
        """`stem.crt` and `stem.key` in `folder`, made anew when missing, near their end, not valid yet or for other
        names."""
        certificate_file, key_file = folder / f"{stem}.crt", folder / f"{stem}.key"
        if certificate_file.exists() and key_file.exists() and self._still_good(certificate_file, names, addresses):
            return
        issued = self.issue(names[0], names=names, addresses=addresses)
        write_private(key_file, issued.key.encode())
        certificate_file.write_text(issued.certificate)

    def _still_good(self, file: Path, names: Sequence[str], addresses: Sequence[str]) -> bool:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        hosts = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        present = set(hosts.get_values_for_type(x509.DNSName))
        present |= {str(address) for address in hosts.get_values_for_type(x509.IPAddress)}
        return (
            present == {*names, *addresses}
            and certificate.issuer == self._certificate.subject
            and certificate.not_valid_before_utc <= self._clock.now() < certificate.not_valid_after_utc - RENEW_BEFORE
        )


def write_private(file: Path, content: bytes) -> None:
    """Write so that only the owner can ever have read it, and whole or not at all."""
    _write(file, content, mode=0o600)


def _write(file: Path, content: bytes, *, mode: int) -> None:
    partial = file.with_name(file.name + ".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(file)


def _self_signed(subject: x509.Name, key: ec.EllipticCurvePrivateKey, clock: Clock) -> x509.Certificate:
    now = clock.now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
