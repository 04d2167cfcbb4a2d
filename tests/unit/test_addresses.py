"""Addresses as people write them."""

import pytest

from dispatcher.host import addresses
from dispatcher.host.addresses import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("db1.example:7373", Address("db1.example", 7373)),
        ("127.0.0.1:1", Address("127.0.0.1", 1)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_an_address_reads_as_it_is_written(text: str, address: Address) -> None:
    assert address == addresses.parse(text)
    assert text == str(address)


@pytest.mark.parametrize(
    "text",
    [
        *("", "db1", ":7373", "db1:", "db1:0", "db1:65536", "db1:99999999999", "db1:http", "db1:²"),
        *("::1:7373", "[::1]", "[db1]:7373", "[]:7373", "db1]:7373", "[[::1]]:7373", "db1:7:8"),
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT, for example"):
        addresses.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback", "any_"),
    [
        ("localhost:1", True, False),
        ("127.8.0.1:1", True, False),
        ("[::1]:1", True, False),
        ("0.0.0.0:1", False, True),
        ("[::]:1", False, True),
        ("10.0.0.1:1", False, False),
        ("127.0.0.1.example:1", False, False),
    ],
)
def test_only_loopback_addresses_are_out_of_reach_of_other_hosts(
    text: str, loopback: bool, any_: bool
) -> None:
    address = addresses.parse(text)

    assert (loopback, any_) == (address.is_loopback, address.is_any)
