"""
How near an IP address is.
"""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resource_tokens._addresses import Reach, reach_of


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", Reach.PUBLIC),
        ("10.0.0.1", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.100.100.200", Reach.PRIVATE),
        ("192.0.2.1", Reach.PRIVATE),
        ("224.0.0.1", Reach.PRIVATE),
        ("255.255.255.255", Reach.PRIVATE),
        ("127.0.0.1", Reach.LOOPBACK),
        ("127.1.2.3", Reach.LOOPBACK),
        ("0.0.0.0", Reach.LOOPBACK),
        ("169.254.169.254", Reach.LINK_LOCAL),
        ("2606:4700::1111", Reach.PUBLIC),
        ("fd00:ec2::254", Reach.PRIVATE),
        ("fec0::1", Reach.PRIVATE),
        ("ff02::1", Reach.PRIVATE),
        ("2001:db8::1", Reach.PRIVATE),
        ("2001:0:a9fe:a9fe::", Reach.PRIVATE),
        ("::1", Reach.LOOPBACK),
        ("::", Reach.LOOPBACK),
        ("fe80::1", Reach.LINK_LOCAL),
        ("fe80::1%2", Reach.LINK_LOCAL),
    ],
)
def test_the_reach_of_an_address(address: str, expected: Reach) -> None:
    """
    X3, R9728-9: from the whole world to this link, and whatever is reserved is not public.
    """
    assert expected is reach_of(address)


@pytest.mark.parametrize(
    "form", ["::ffff:{}", "::{}", "64:ff9b::{}", "2002:{hex}::", "2002:{hex}:1::5"]
)
@given(number=st.integers(0x01000000, 0xFFFFFFFF))
def test_an_address_that_stands_for_another(form: str, number: int) -> None:
    """
    X3: mapped, compatible, translated (NAT64) and 6to4 addresses are as near as what they embed.
    """
    plain = ipaddress.IPv4Address(number)
    digits = f"{number >> 16:x}:{number & 0xFFFF:x}"

    assert reach_of(str(plain)) is reach_of(form.format(plain, hex=digits))


def test_translation_inside_of_a_network_is_private() -> None:
    """
    X3, RFC 8215: whatever public address is embedded, the translator is somebody's own.
    """
    assert Reach.PRIVATE is reach_of("64:ff9b:1::808:808")


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "[::1]"])
def test_what_is_no_address(text: str) -> None:
    """
    A name says nothing; the address that it leads to does.
    """
    with pytest.raises(ValueError, match="does not appear to be"):
        reach_of(text)
