"""The output of another node's run, from its listener."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from dispatcher.config.peer_settings import PeersSection
from dispatcher.errors import ConfigError
from dispatcher.host import addresses
from dispatcher.host.holes import BLOCK
from dispatcher.host.run_output import CHUNK
from dispatcher.peers import trust
from dispatcher.peers.contract import ListenerReport
from dispatcher.peers.listener import MOST_CONNECTIONS, PROOF_WITHIN
from dispatcher.peers.remote_output import OutOfReach, RemoteOutput
from dispatcher.times import Instant, instant
from tests.eventually import eventually
from tests.holes import punch_out
from tests.listeners import CERTIFICATES, TOKEN, UID, certified, free_port, peers, serving


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "output").mkdir()
    return tmp_path / "output" / f"{UID}.log"


@pytest.fixture
def section(tmp_path: Path) -> PeersSection:
    return peers(tmp_path)


@pytest.fixture
def reports() -> list[ListenerReport]:
    return []


@pytest.fixture
def listening(
    section: PeersSection, file: Path, reports: list[ListenerReport]
) -> Iterator[PeersSection]:
    with serving(section, file.parent, report=reports.append):
        yield section


def remote(section: PeersSection, uid: str = UID, *, tail: int | None = None) -> RemoteOutput:
    assert section.announced is not None
    return RemoteOutput(section.announced, section, uid, tail=tail)


def read_all(output: RemoteOutput) -> bytes:
    return b"".join(iter(output.read, b""))


def expect_failure(output: RemoteOutput, reason: str) -> None:
    with output, pytest.raises(OutOfReach, match=reason):
        output.read()


def expect_refused(section: PeersSection, reason: str, uid: str = UID) -> None:
    expect_failure(remote(section, uid), reason)


def test_an_output_is_read_whole_and_then_as_it_grows(listening: PeersSection, file: Path) -> None:
    content = b"x" * (3 * CHUNK) + b"\n"
    file.write_bytes(content)
    with remote(listening) as output:
        assert output.exists()
        assert content == read_all(output)
        assert b"" == output.read()

        with file.open("ab") as more:
            more.write(b"later\n")

        assert b"later\n" == read_all(output)


def test_the_last_lines_are_found_where_the_file_is(listening: PeersSection, file: Path) -> None:
    file.write_bytes(b"".join(b"%d\n" % number for number in range(100_000)))

    with remote(listening, tail=2) as output:
        assert b"99998\n99999\n" == read_all(output)


def test_a_file_that_is_not_there_yet_is_read_once_it_is(
    listening: PeersSection, file: Path
) -> None:
    with remote(listening) as output:
        assert not output.exists()
        assert b"" == output.read()
        file.write_bytes(b"here\n")

        assert b"here\n" == read_all(output)
        assert output.exists()


def test_what_was_dropped_and_truncated_is_counted(section: PeersSection, file: Path) -> None:
    file.write_bytes(b"a" * (4 * BLOCK) + b"\nend\n")
    punch_out(str(file), 0, 2 * BLOCK)
    with serving(section, file.parent, budget=BLOCK), remote(section) as output:
        assert b"end\n" == read_all(output)
        assert 4 * BLOCK + 1 == output.dropped
        file.write_bytes(b"new\n")

        assert b"new\n" == read_all(output)
        assert 4 * BLOCK + 5 == output.truncated


def test_a_reader_goes_on_where_it_was_when_a_listener_is_back(
    section: PeersSection, file: Path
) -> None:
    file.write_bytes(b"one\n")
    with remote(section) as output:
        with serving(section, file.parent):
            assert b"one\n" == read_all(output)
        with file.open("ab") as more:
            more.write(b"two\n")
        with serving(section, file.parent):
            assert b"two\n" == read_all(output)


def test_a_listener_that_is_not_there_is_reported_at_once(section: PeersSection) -> None:
    expect_refused(section, "Connection refused")


def test_a_wrong_token_gets_nothing_and_is_reported(
    listening: PeersSection, file: Path, tmp_path: Path, reports: list[ListenerReport]
) -> None:
    file.write_bytes(b"secret\n")
    (tmp_path / "other").mkdir()
    wrong = peers(tmp_path / "other", listen=listening.listen)
    (tmp_path / "other" / "token").write_text(f"{TOKEN[:-1]}-\n")

    expect_refused(wrong, "the token is not that of this node")

    refusals = [(report.peer, report.refused) for report in reports if report.refused]
    assert [("127.0.0.1", "the token is not that of this node")] == refusals


@pytest.mark.parametrize("uid", [f"../output/{UID}", f"{UID}/../{UID}", "", UID[1:], UID.upper()])
def test_nothing_but_the_output_of_a_run_is_given(
    listening: PeersSection, file: Path, uid: str
) -> None:
    file.write_bytes(b"here\n")

    expect_refused(listening, "that is no output of a run", uid)


def test_an_output_that_is_no_file_is_refused(listening: PeersSection, file: Path) -> None:
    file.mkdir()

    expect_refused(listening, "its file cannot be read: it is not a regular file")


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\n", b"{}\n", b"x" * 100_000])
def test_who_asks_for_anything_else_gets_a_reason(listening: PeersSection, said: bytes) -> None:
    assert listening.listen is not None
    with socket.create_connection(addresses.parse(listening.listen)) as connection:
        with suppress(OSError):  # it reads no more than it must
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)

        assert b"this listener gives output to `dispatcher logs` alone" in connection.recv(4096)


def test_peers_that_send_nothing_are_sent_away_and_hold_up_nobody(
    section: PeersSection, file: Path, reports: list[ListenerReport]
) -> None:
    file.write_bytes(b"here\n")
    assert section.listen is not None
    place = addresses.parse(section.listen)
    with serving(section, file.parent, report=reports.append) as server, ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(place))
            for _ in range(MOST_CONNECTIONS - 1)
        ]
        with remote(section) as output:
            assert b"here\n" == read_all(output)
            with socket.create_connection(place) as too_many:
                assert b"" == too_many.recv(1)
            assert f"{MOST_CONNECTIONS} connections are open" in [one.refused for one in reports]
            server._end_overdue(Instant(instant() + PROOF_WITHIN))
            assert {b""} == {connection.recv(1) for connection in silent}
            used = output._connection
            assert b"" == output.read()
            assert used is output._connection  # it has shown the token


def test_who_does_not_show_the_token_is_sent_away(section: PeersSection, file: Path) -> None:
    assert section.listen is not None
    place = addresses.parse(section.listen)
    with serving(section, file.parent, proof_within=0.1):  # noqa: SIM117 - first it listens
        with socket.create_connection(place) as silent:
            assert b"" == silent.recv(1)


# Certificates -----------------------------------------------------------------------------


def test_an_output_is_read_under_tls(tmp_path: Path, file: Path) -> None:
    file.write_bytes(b"x" * (2 * CHUNK))
    section = peers(tmp_path, **certified())
    assert (section.announced or "").startswith("tls://localhost:")
    with serving(section, file.parent), remote(section) as output:
        assert b"x" * (2 * CHUNK) == read_all(output)


@pytest.mark.parametrize(
    ("name", "authority", "reason"),
    [
        ("other", "authority", "its certificate is not trusted: self-signed certificate; let"),
        ("node", "other", "its certificate is not trusted: unable to get local issuer certificate"),
    ],
)
def test_no_token_is_shown_to_a_listener_that_is_not_trusted(
    tmp_path: Path, file: Path, name: str, authority: str, reason: str
) -> None:
    section = peers(tmp_path, **certified(name))
    reader = peers(tmp_path, **certified(authority=authority), listen=section.listen)
    with serving(section, file.parent):
        expect_refused(reader, reason)


def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path, file: Path) -> None:
    section = peers(tmp_path, **certified(), listen=f"127.0.0.2:{free_port()}")
    with serving(section, file.parent):
        expect_refused(section, "its certificate is not trusted: IP address mismatch")


def test_a_listener_may_demand_a_certificate(tmp_path: Path, file: Path) -> None:
    file.write_bytes(b"here\n")
    section = peers(tmp_path, **certified(), client_certificates=True)
    without = peers(tmp_path, listen=section.listen, authority=certified()["authority"])
    untrusted = peers(tmp_path, **certified("other"), listen=section.listen)
    assert section.announced is not None
    with serving(section, file.parent):
        with remote(section) as output:
            assert b"here\n" == read_all(output)
        for reader in (without, untrusted):
            output = RemoteOutput(section.announced, reader, UID)
            expect_failure(output, "it does not trust this host: ")


def test_a_peer_without_tls_gets_nothing_from_a_listener_with_it(
    tmp_path: Path, file: Path
) -> None:
    section = peers(tmp_path, **certified())
    assert section.announced is not None
    plain = section.announced.replace("tls:", "tcp:")
    with serving(section, file.parent):
        output = RemoteOutput(plain, section, UID)
        expect_failure(output, r"closed the connection|no listener|reset")


def test_a_peer_with_tls_reads_nothing_from_a_listener_without_it(
    listening: PeersSection,
) -> None:
    assert listening.announced is not None
    tls = listening.announced.replace("tcp:", "tls:")
    expect_failure(RemoteOutput(tls, listening, UID), r"record layer failure|wrong version number")


def test_no_token_is_sent_to_another_host_without_tls(section: PeersSection) -> None:
    expect_failure(RemoteOutput("tcp://db1.example:7373", section, UID), "it has no TLS")


def test_a_row_that_was_changed_by_hand_is_no_address(section: PeersSection) -> None:
    expect_failure(
        RemoteOutput("tls://nowhere", section, UID), "its row in the store is damaged: 'nowhere'"
    )


def test_old_versions_of_tls_are_not_spoken(tmp_path: Path) -> None:
    section = peers(tmp_path, **certified())
    context = trust.listener_context(section)
    assert context is not None

    versions = {context.minimum_version, trust.reader_context(section).minimum_version}
    assert {ssl.TLSVersion.TLSv1_3} == versions


# The files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "mode", "mistake"),
    [
        (b"short\n", 0o600, "does not hold a token, which is a line of at least 16"),
        (b"two words are no token\n", 0o600, "does not hold a token"),
        (b"\xff" * 20, 0o600, "does not hold a token"),
        (b"x" * 5000, 0o600, "has more than 4096 bytes"),
        (TOKEN.encode(), 0o604, "every user may open it; chmod o= "),
    ],
)
def test_a_file_without_a_secret_token_is_refused_with_the_remedy(
    tmp_path: Path, content: bytes, mode: int, mistake: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(mode)

    with pytest.raises(ConfigError, match=mistake) as error:
        trust.token(str(file))
    assert TOKEN not in str(error.value)


def test_a_token_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"token_file .*/none: No such file or directory; let"):
        trust.token(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("keys", "mistake"),
    [
        ({"certificate": "/none.crt"}, "certificate /none.crt: No such file"),
        ({"key": "/none.key"}, "key /none.key: No such file"),
        ({"key": str(CERTIFICATES / "other.key")}, "cannot be used: key values mismatch"),
        ({"certificate": __file__}, "cannot be used: .*; name a certificate and its own key"),
    ],
)
def test_certificates_that_cannot_be_used_are_named(
    tmp_path: Path, keys: dict[str, str], mistake: str
) -> None:
    section = peers(tmp_path, **{**certified(), **keys})

    with pytest.raises(ConfigError, match=mistake):
        trust.listener_context(section)


def test_an_authority_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    section = peers(tmp_path, **{**certified(), "authority": __file__})

    with pytest.raises(ConfigError, match=r"authority .* cannot be used: .*; name certificates in"):
        trust.reader_context(section)


def test_an_address_in_use_is_named(section: PeersSection, tmp_path: Path) -> None:
    assert section.listen is not None
    with socket.create_server(addresses.parse(section.listen)):
        mistake = "cannot listen at localhost:.*: Address already in use"
        with pytest.raises(ConfigError, match=mistake), serving(section, tmp_path):
            pass


def test_all_addresses_of_a_host_are_announced_by_its_name(tmp_path: Path) -> None:
    section = peers(tmp_path, **certified(), listen="0.0.0.0:7373")

    assert f"tls://{socket.gethostname()}:7373" == section.announced


def test_the_reports_of_a_listener_are_few(
    listening: PeersSection, reports: list[ListenerReport]
) -> None:
    """Anybody may knock."""
    for _ in range(20):
        expect_refused(listening, "no output of a run", "x")

    def probe() -> None:
        assert 1 <= sum(bool(report.refused) for report in reports) < 20

    eventually(probe)
