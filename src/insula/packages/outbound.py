"""HTTP from this server to an address that somebody else chose.

A client that names a URL must not reach, through the server, what only the server can reach: its own ports, the private
network, a cloud's metadata. So the name is resolved here, every address it has must be a public one, and the connection
goes to exactly the address that was checked (a second look at the DNS could answer otherwise). TLS still asks for the
certificate of the name. Redirects are followed by the same rules, a few times, and never from https to http. Proxies of
the environment are not used: they would resolve the name again. The operator may allow private addresses or plain http.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from insula.errors import CallerError, Code, InsulaError, UnavailableError
from insula.packages.blocking import in_thread
from insula.packages.gzipped import size

if TYPE_CHECKING:
    import httpx

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

_MAX_REDIRECTS = 5
_MAX_ADDRESSES = 4
_PIECE = 1 << 18

#: Addresses of cloud metadata and platform services that lie in public ranges.
_PLATFORM = frozenset(ipaddress.ip_address(text) for text in ("168.63.129.16", "192.0.0.192"))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether this address belongs to the internet at large, also where IPv6 only carries an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(carried)
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and address not in _PLATFORM


@asynccontextmanager
async def get(url: str, *, allow_private: bool, allow_http: bool, timeout: float) -> AsyncIterator[httpx.Response]:
    """A GET whose body is not read yet, redirects followed; `timeout` in seconds is for each wait on the network.

    CallerError for an address that may not be asked, `unavailable` where the other side does not answer.
    """
    context = await in_thread(_tls_context)
    import httpx

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, timeout=timeout)
        )
        target = _parsed(url)
        for _ in range(_MAX_REDIRECTS + 1):
            addresses = await _addresses(target, allow_private=allow_private, allow_http=allow_http)
            response = await _send(client, target, addresses)
            stack.push_async_callback(response.aclose)
            if not response.has_redirect_location:
                yield response
                return
            try:
                onward = target.join(response.headers["location"])
            except (httpx.InvalidURL, ValueError) as error:
                raise UnavailableError(f"{target.host} redirects to what is no address") from error
            if (target.scheme, onward.scheme) == ("https", "http"):
                raise _refused(f"{target.host} redirects from https to http", "allow_http")
            target = _parsed(str(onward))
        raise UnavailableError(f"{target.host} redirects more than {_MAX_REDIRECTS} times")


def _tls_context() -> ssl.SSLContext:
    """The certificates to trust. Blocking, as is the first import of httpx, which is why it happens here."""
    import httpx

    return httpx.create_ssl_context()


async def body(response: httpx.Response, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The bytes that lie at the address, in pieces; refused early where the other side says that they are too many."""
    import httpx

    host = response.request.headers["host"]
    if response.status_code in (404, 410):
        raise CallerError(f"{host} has no such package", code=Code.NOT_FOUND, hint="is the address spelt right?")
    if response.status_code != 200:
        raise _unhelpful(host, response.status_code)
    if int(response.headers.get("content-length", "0")) > max_bytes:  # h11 let nothing but a number through
        raise CallerError(f"the package is larger than {size(max_bytes)}", code=Code.RESOURCE_EXHAUSTED, status=413)
    try:
        async for chunk in response.aiter_raw(_PIECE):
            yield chunk
    except httpx.HTTPError as error:
        raise UnavailableError(f"{host} broke off before the package was whole", hint="try again") from error


def _unhelpful(host: str, status: int) -> InsulaError:
    if status >= 500 or status == 429:
        return UnavailableError(f"{host} answered {status}", hint="try again later")
    return CallerError(
        f"{host} answered {status} and no package",
        code=Code.FAILED_PRECONDITION,
        hint="the address must give the package to any client, without signing in",
    )


def _parsed(url: str) -> httpx.URL:
    import httpx

    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise CallerError(f"{url[:200]!r} is not an address", hint="write https://host/path") from error
    if target.scheme not in ("http", "https") or not target.host:
        raise CallerError(f"{url[:200]!r} is not an address that can be fetched", hint="write https://host/path")
    if target.userinfo:
        raise CallerError(
            f"the address of {target.host} holds a user or password",
            hint="sources are stored and listed, so a secret may not stand in one",
        )
    return target


def _refused(message: str, setting: str) -> CallerError:
    return CallerError(
        message,
        code=Code.PERMISSION_DENIED,
        reason="address_refused",
        hint=f"upload the package instead, or let the operator write {setting} = true under [sources]",
    )


async def _addresses(target: httpx.URL, *, allow_private: bool, allow_http: bool) -> list[Address]:
    """The addresses of the target's host, each of which may be connected to."""
    if target.scheme == "http" and not allow_http:
        raise _refused("plain http is not allowed for packages", "allow_http")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            target.host, target.port or (443 if target.scheme == "https" else 80), type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"the name {target.host} has no address", hint="is it spelt right?") from error
    addresses = list(dict.fromkeys(ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found))
    if not allow_private and not all(map(is_public, addresses)):
        raise _refused(f"{target.host} is an address of this machine or a private network", "allow_private")
    return addresses[:_MAX_ADDRESSES]


async def _send(client: httpx.AsyncClient, target: httpx.URL, addresses: list[Address]) -> httpx.Response:
    """The answer's head from the first address that takes a connection."""
    import httpx

    for address in addresses:
        request = client.build_request(
            "GET",
            target.copy_with(host=str(address)),
            headers={"host": target.netloc.decode("ascii"), "accept-encoding": "identity", "user-agent": "insula"},
            extensions={"sni_hostname": target.raw_host.decode("ascii")},
        )
        try:
            return await client.send(request, stream=True)
        except httpx.ConnectError as error:
            if address is not addresses[-1]:
                continue
            reason = _tls_reason(error)
            raise UnavailableError(
                f"{target.host} cannot be reached{reason}", hint="is the server there up?"
            ) from error
        except httpx.HTTPError as error:
            raise UnavailableError(f"{target.host} did not answer: {type(error).__name__}") from error
    raise UnavailableError(f"the name {target.host} has no address")


def _tls_reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f": its certificate is refused ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return ""
