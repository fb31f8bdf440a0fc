"""
How near an IP address is, so that a document from far away leads to nobody next door.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum

__all__ = ["Reach", "reach_of"]


class Reach(IntEnum):
    """
    From where an address can be reached: the whole world, a network, this machine, this link.
    """

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    # Where clouds hand out the credentials of a machine: 169.254.169.254.
    LINK_LOCAL = 3


def reach_of(text: str) -> Reach:
    """
    The reach of an address; an IPv6 address that stands for an IPv4 one is as near as that.

    Args:
        text: The address, an IPv6 one without brackets.

    Raises:
        ValueError: If it is no address.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        address = _embedded(address) or address
    if address.is_link_local:
        return Reach.LINK_LOCAL
    # What is sent to 0.0.0.0 arrives at this machine.
    if address.is_loopback or address.is_unspecified:
        return Reach.LOOPBACK
    near = address.is_multicast or any(
        address.version == network.version and address in network for network in _NEAR
    )
    return Reach.PUBLIC if address.is_global and not near else Reach.PRIVATE


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.is_loopback or address.is_unspecified:
        return None
    if any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


# NAT64 (RFC 6052 2.1), and the form before `::ffff:` (RFC 4291 2.5.5.1).
_EMBEDDING = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
# Which versions of Python know of these differs: NAT64 inside of one network (RFC 8215), and the
# site-local addresses that unique local ones have replaced (RFC 3879).
_NEAR = (ipaddress.IPv6Network("64:ff9b:1::/48"), ipaddress.IPv6Network("fec0::/10"))
