"""Client addresses: what identifies a client that sends no token."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# A provider gives each IPv6 customer a /64 or more, and a host may use any address in it.
IPV6_PREFIX_BITS = 64
# All clients whose address cannot be read, because a proxy hides it, are one client.
UNKNOWN = "unknown"


def client_address(remote_addr: str | None) -> str:
    """Return a client's address in its canonical form, without port, brackets and zone.

    An IPv4-mapped IPv6 address is the IPv4 address. Text that is not an address is UNKNOWN.
    """
    return str(_parse(remote_addr) or UNKNOWN)


@lru_cache(maxsize=1024)
def client_network(remote_addr: str | None) -> str:
    """Return the addresses that count as one client: an IPv4 address, or the /64 of an IPv6 one."""
    address = _parse(remote_addr)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), IPV6_PREFIX_BITS), strict=False))
    return str(address or UNKNOWN)


def _parse(remote_addr: str | None) -> IPv4Address | IPv6Address | None:
    """Return the address in `203.0.113.5`, `203.0.113.5:443`, `2001:db8::1`, `[2001:db8::1]:443`.

    Proxies write X-Forwarded-For in each of these forms.
    """
    text = (remote_addr or "").strip()
    without_port = text.rpartition(":")[0]
    for candidate in (text, without_port):
        try:
            address = ip_address(candidate.removeprefix("[").removesuffix("]").partition("%")[0])
        except ValueError:
            continue
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return mapped or address
    return None
