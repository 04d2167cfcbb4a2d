"""The token and the certificates by which nodes trust each other."""

import hmac
import os
import ssl
from pathlib import Path

from dispatcher.config.peer_settings import PeersSection
from dispatcher.errors import ConfigError
from dispatcher.host import files

#: The fewest characters of a token: 16 random ones cannot be guessed over a network.
LEAST_TOKEN = 16

_MAKE = "openssl rand -hex 32 > {}"


def token(path: str) -> str:
    """Return the token in a file. Raises `ConfigError`, which names no part of it."""
    what = f"[peers] token_file {path}"
    try:
        text = files.read(path).decode("ascii").strip()
        mode = Path(path).stat().st_mode
    except files.Unfit as error:
        raise ConfigError(f"{what} {error.strerror}; {_MAKE.format(path)}") from error
    except OSError as error:
        remedy = "let this user read the nodes' token there"
        raise ConfigError(f"{what}: {error.strerror}; {remedy}") from error
    except UnicodeDecodeError:
        text = ""
    if len(text) < LEAST_TOKEN or not text.isprintable() or " " in text:
        form = f"a line of at least {LEAST_TOKEN} letters, digits or signs"
        raise ConfigError(f"{what} does not hold a token, which is {form}; {_MAKE.format(path)}")
    if mode & 0o007:
        raise ConfigError(f"{what}: every user may open it; chmod o= {path}")
    return text


def is_token(given: str, own: str) -> bool:
    """Return whether two tokens are equal, in a time that does not depend on their characters."""
    return hmac.compare_digest(given.encode(errors="replace"), own.encode())


def listener_context(peers: PeersSection) -> ssl.SSLContext | None:
    """Return the TLS side of a listener; None: it has no certificate. Raises `ConfigError`."""
    if peers.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _present(context, peers)
    if peers.client_certificates:
        _trust(context, peers)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def reader_context(peers: PeersSection) -> ssl.SSLContext:
    """Return the TLS side of a reader. Raises `ConfigError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _trust(context, peers)
    if peers.certificate is not None:
        _present(context, peers)
    return context


def _present(context: ssl.SSLContext, peers: PeersSection) -> None:
    """Load the certificate of this node; a key with a password is refused without a question."""
    assert peers.certificate is not None
    assert peers.key is not None
    _check_readable(certificate=peers.certificate, key=peers.key)
    try:
        context.load_cert_chain(peers.certificate, peers.key, password=lambda: "")
    except OSError as error:
        what = f"[peers] certificate {peers.certificate} and key {peers.key}"
        remedy = "name a certificate and its own key, both PEM, the key without a password"
        raise ConfigError(f"{what} cannot be used: {reason_of(error)}; {remedy}") from error


def _trust(context: ssl.SSLContext, peers: PeersSection) -> None:
    if peers.authority is None:
        context.load_default_certs()
        return
    _check_readable(authority=peers.authority)
    try:
        context.load_verify_locations(peers.authority)
    except OSError as error:
        what = f"[peers] authority {peers.authority} cannot be used: {reason_of(error)}"
        raise ConfigError(f"{what}; name certificates in a PEM file") from error


def _check_readable(**named: str) -> None:
    """Raise `ConfigError` for a file that cannot be read: OpenSSL's errors name none."""
    for key, path in named.items():
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            remedy = "name a file that this user may read"
            raise ConfigError(f"[peers] {key} {path}: {error.strerror}; {remedy}") from error


def reason_of(error: OSError) -> str:
    """Return the reason of an error of the network, of TLS, or of a file."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error.strerror or error).lower().replace("_", " ")
    return error.strerror or str(error) or type(error).__name__
