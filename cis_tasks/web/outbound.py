"""HTTP POSTs to addresses that a client named: checked after the name is resolved, then pinned.

A check of the name alone would not help: it may resolve to another address when the connection
is made (DNS rebinding). So the name is resolved once, every address is checked, and the
connection goes to the address that was checked. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

TIMEOUT_S = 10.0  # of each step
TOTAL_S = 20.0  # of all of them


class Refused(Exception):  # noqa: N818  it is said of a URL: refused
    """A URL leads to where nothing may be sent."""


@dataclass(frozen=True)
class Target:
    """Where to send something.

    Attributes:
        host: name or address, as in the URL.
        port: port.
        path: path and query.
        tls: whether over TLS.
        private: whether addresses inside are allowed.
    """

    host: str
    port: int
    path: str
    tls: bool
    private: bool

    @property
    def authority(self) -> str:
        """What the ``Host`` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def parse_target(url: str, *, private: bool = False) -> Target:
    """Where a URL leads, as far as can be told without asking anybody.

    Args:
        url: the URL.
        private: whether plain HTTP and addresses inside are allowed.

    Raises:
        Refused: it is no URL to send to.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused(f"The webhook is no URL: {error}.") from None
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        raise Refused("A webhook's URL begins with https://.")
    host = parts.hostname
    if not host or parts.username is not None or not (url.isascii() and url.isprintable()):
        raise Refused("A webhook's URL has a host, no user, and only printable ASCII characters.")
    if " " in url:
        raise Refused("A webhook's URL has no spaces.")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(host, port or (443 if tls else 80), path, tls, private)
    with suppress(ValueError):
        _check(target, str(ipaddress.ip_address(host)))
    return target


def post(target: Target, body: bytes, headers: Mapping[str, str]) -> int:
    """Send a body to a target; the status of the answer.

    Raises:
        Refused: its name leads inside.
        OSError: it could not be reached, or did not answer in time.
    """
    connection = _Pinned(target, resolve(target))
    guard = threading.Timer(TOTAL_S, connection.abort)
    guard.daemon = True
    guard.start()
    try:
        sent = {
            "Host": target.authority,
            "Content-Type": "application/json",
            "User-Agent": "cis-tasks",
            **headers,
        }
        connection.request("POST", target.path, body, sent)
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer: {error!r}") from error
    finally:
        guard.cancel()
        connection.close()


def resolve(target: Target) -> str:
    """The address to connect to; all that the name has must be allowed.

    Raises:
        Refused: one is not.
        OSError: the name has none.
    """
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        _check(target, address)
    return addresses[0]


def _check(target: Target, address: str) -> None:
    if not target.private and not is_public(address):
        raise Refused(f"The webhook leads to {address}, which is not a public address.")


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, whatever it is wrapped in."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        teredo = ip.teredo[1] if ip.teredo else None
        wrapped = ip.ipv4_mapped or ip.sixtofour or teredo
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class _Pinned(http.client.HTTPConnection):
    """A connection to an address, in the name of a host."""

    def __init__(self, target: Target, address: str) -> None:
        super().__init__(target.host, target.port, timeout=TIMEOUT_S)
        self._target, self._address = target, address

    def connect(self) -> None:
        """Connect to the address; over TLS, the certificate must be the host's."""
        raw = socket.create_connection((self._address, self._target.port), TIMEOUT_S)
        self.sock = raw
        if self._target.tls:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(raw, server_hostname=self._target.host)

    def abort(self) -> None:
        """End whatever it is doing."""
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
