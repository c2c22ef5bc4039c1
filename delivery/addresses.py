"""Which addresses may be called: public ones, and those of networks that a setting allows. Pure; resolves no name."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# What carries an address of IPv4 in one of IPv6, and where in it: by translation (RFC 6052), or a relay (RFC 3056).
_NAT64 = ip_network("64:ff9b::/96")


def networks_of(text: str) -> list[Network]:
    """Networks by commas, as the setting has them. Raises ValueError."""
    return [ip_network(part.strip()) for part in text.split(",") if part.strip()]


def refusal(address: str, allowed: Sequence[Network], *, is_secure: bool) -> str:
    """Why an address may not be called, in a few words; empty where it may.

    Args:
        address: of the receiver, as it was resolved.
        allowed: networks that may be called though they aren't public.
        is_secure: whether it is called by https; without, only what is allowed is.

    Example:
        >>> refusal("169.254.169.254", [], is_secure=True)
        '169.254.169.254 is no public address'
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return "it is no address"
    real = _real(found)
    if any(real in network for network in allowed if network.version == real.version):
        return ""
    if not is_secure:
        return f"{real} is not in a network that may be called without TLS"
    if not real.is_global or real.is_multicast or real.is_reserved or getattr(real, "is_site_local", False):
        return f"{real} is no public address"
    return ""


def _real(address: Address) -> Address:
    """The address that is reached by another one in the end."""
    if isinstance(address, IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address.teredo is not None:
        inner = address.teredo[1]
    if inner is None and (address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1)):
        inner = IPv4Address(int(address) & 0xFFFF_FFFF)
    return inner or address
