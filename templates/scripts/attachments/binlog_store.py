#!/usr/bin/env python3
# Written by relaunch: script configure_backups.sh. Change the script's attachment, not this file.
"""The object store as the binary log's shipper uses it: small objects over one connection, compressed and encrypted."""

import datetime
import hashlib
import hmac
import http.client
import ssl
import subprocess
import urllib.parse


class StoreDown(Exception):
    """`state`: what is told of it."""

    def __init__(self, why, state="store down"):
        super().__init__(why)
        self.state = state


def sign(method, host, path, body, access, secret, region, now):
    """The headers of a request to S3 (AWS Signature Version 4)."""
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    signed = "host;x-amz-content-sha256;x-amz-date"
    canonical = "\n".join(
        (method, path, "", f"host:{host}", f"x-amz-content-sha256:{digest}", f"x-amz-date:{stamp}", "", signed, digest)
    )
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = ("AWS4" + secret).encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return {
        "Host": host,
        "x-amz-date": stamp,
        "x-amz-content-sha256": digest,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={signed}, Signature={signature}",
    }


class Store:
    """One connection to the bucket, kept open."""

    def __init__(self, environment):
        self.url = urllib.parse.urlsplit(environment["RCLONE_CONFIG_STORE_ENDPOINT"])
        self.root = environment["BACKUP_ROOT"].split(":", 1)[1]
        self.keys = (
            environment["RCLONE_CONFIG_STORE_ACCESS_KEY_ID"],
            environment["RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY"],
            environment["RCLONE_CONFIG_STORE_REGION"],
        )
        self.context = None
        if self.url.scheme == "https":
            self.context = ssl.create_default_context(cafile=environment.get("RCLONE_CA_CERT"))
        self.connection = None

    def put(self, key, body):
        path = urllib.parse.quote(f"/{self.root}/{key}", safe="/-_.~")
        for again in (False, True):
            kept = self.connection is not None
            try:
                self._put(path, body)
                return
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if again or not kept:  # a connection it closed while we were idle is no fault
                    raise StoreDown(f"{self.url.geturl()}: {error or type(error).__name__}") from None

    def _put(self, path, body):
        if self.connection is None:
            kind = http.client.HTTPSConnection if self.context else http.client.HTTPConnection
            more = {"context": self.context} if self.context else {}
            self.connection = kind(self.url.netloc, timeout=30, **more)
        now = datetime.datetime.now(datetime.UTC)
        self.connection.request("PUT", path, body, sign("PUT", self.url.netloc, path, body, *self.keys, now))
        answer = self.connection.getresponse()
        told = answer.read(2000)
        if answer.status >= 300:
            self.close()
            why = f"{self.url.geturl()} answers {answer.status}: {told.decode(errors='replace')[:300]}"
            full = answer.status == 507 or any(
                word in why for word in ("QuotaExceeded", "StorageFull", "no space left")
            )
            state = "store full" if full else "store refuses" if answer.status in (401, 403) else "store down"
            raise StoreDown(why, state)

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def sealed(data, recipient):
    """Compressed and encrypted."""
    packed = subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return subprocess.run(["age", "-r", recipient], input=packed, stdout=subprocess.PIPE, check=True).stdout
