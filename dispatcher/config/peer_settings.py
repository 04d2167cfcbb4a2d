"""The section `[peers]`: how nodes that share a store read each other's output."""

import socket
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from dispatcher.config.section import Section
from dispatcher.host import addresses


class PeersSection(Section, frozen=True):
    """How `dispatcher logs` reads the output of a run on another node that shares the store. It is
    off unless a node listens. The token, and the certificates' authority, are the same on all
    nodes, and on each host where `dispatcher logs` is to reach them.
    """

    listen: Annotated[str, Meta(examples=["db1.example:7373"])] | None = None
    """Where this node serves the output of its runs to holders of the token, by a process of its
    daemon: the name or address by which other hosts reach it, and a port. `0.0.0.0` or `[::]`
    stands for all addresses; others then use the host's name. Left out: nowhere."""
    token_file: Annotated[str, Meta(examples=["/etc/dispatcher/peers.token"])] | None = None
    """The file of the token: a line of at least 16 characters, as `openssl rand -hex 32` makes.
    Only the daemon's user and its group may read the file."""
    certificate: Annotated[str, Meta(examples=["/etc/dispatcher/peer.crt"])] | None = None
    """The file of this node's certificate (PEM), with those between it and the authority; for the
    name in `listen`. Without one a node listens only on a loopback address."""
    key: Annotated[str, Meta(examples=["/etc/dispatcher/peer.key"])] | None = None
    """The file of the certificate's private key (PEM), without a password."""
    authority: Annotated[str, Meta(examples=["/etc/dispatcher/authority.crt"])] | None = None
    """The file of the authorities (PEM) one of which must have signed a node's certificate. Left
    out: those that this host trusts."""
    client_certificates: Annotated[bool, Meta(examples=[False])] = False
    """Whether this node's listener also demands a certificate that `authority` signed. Others
    present their own `certificate`."""

    def _mistakes(self) -> Iterator[str]:
        for name in ("token_file", "certificate", "key", "authority"):
            path = getattr(self, name)
            if path is not None and not path.startswith("/"):
                yield f"{name}: {path!r} is not absolute; begin it with /"
        if (self.certificate is None) != (self.key is None):
            given, other = ("certificate", "key") if self.key is None else ("key", "certificate")
            yield f"{given}: needs the file of its {other}; set {other} too"
        if self.client_certificates and (self.certificate is None or self.authority is None):
            yield (
                "client_certificates: needs a certificate of this node, and the authority that"
                " signs those of others; set certificate, key and authority"
            )
        if self.listen is not None:
            yield from self._mistakes_of_listener(self.listen)

    def _mistakes_of_listener(self, listen: str) -> Iterator[str]:
        try:
            address = addresses.parse(listen)
        except ValueError as error:
            yield f"listen: {error}"
            return
        if self.token_file is None:
            yield "listen: needs a token; let token_file name its file"
        if self.certificate is None and not address.is_loopback:
            yield (
                f"listen: {listen} is reached by other hosts, so it needs TLS; set certificate and"
                ' key, or listen on "127.0.0.1:PORT"'
            )

    @property
    def announced(self) -> str | None:
        """The address by which others reach this node's listener; None: it has none."""
        if self.listen is None:
            return None
        address = addresses.parse(self.listen)
        if address.is_any:
            address = address._replace(host=socket.gethostname())
        return f"{'tcp' if self.certificate is None else 'tls'}://{address}"
