"""Addresses of listeners on a network, as people write them."""

import ipaddress
from typing import NamedTuple

FORM = 'write HOST:PORT, for example "db1.example:7373", or "[::1]:7373" with an IPv6 address'


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether no other host can reach it."""
        return self.host == "localhost" or _is(self.host, "is_loopback")

    @property
    def is_any(self) -> bool:
        """Whether it stands for all addresses of the host."""
        return _is(self.host, "is_unspecified")


def parse(text: str) -> Address:
    """Return an address. Raises ValueError with the remedy."""
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    is_bracketed = host != bare
    if not bare or ("[" in bare or "]" in bare) or (":" in bare) != is_bracketed:
        raise ValueError(f"{text!r} is no address; {FORM}")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= 65535):
        raise ValueError(f"{text!r} has no port from 1 to 65535; {FORM}")
    return Address(bare, int(port))


def _is(host: str, property_: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), property_))
    except ValueError:
        return False
