"""The admin API from the other side: every answer is decoded here, and every way to get none has its own error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from insula.cli.failures import TooLateError, UnreachableError, UsageError
from insula.cli.output import Progress
from insula.errors import InsulaError, code_named
from insula.loopback import is_loopback

#: Seconds: to connect, and for an answer to a small request.
CONNECT = 5.0
QUICK = 30.0
PIECE = 256 * 1024
MAX_ANSWER = 64 << 20


def http_client(url: str, timeout: float, headers: dict[str, str] | None = None) -> httpx.Client:
    """A client for one server. Proxies of the environment are not for a server on this machine."""
    local = is_loopback(urlsplit(url).hostname or "")
    limits = httpx.Timeout(timeout, connect=CONNECT)
    return httpx.Client(base_url=url, headers=headers, timeout=limits, trust_env=not local)


@contextmanager
def reaching(url: str, what: str, timeout: float, option: str) -> Iterator[None]:
    """Turns every way to get no answer into an error that says where it was looked for and what to do."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise UnreachableError(
            f"no server answers at {url}, {what}", hint=f"start one with: insula serve; or give {option} another URL"
        ) from None
    except httpx.TimeoutException:
        raise TooLateError(
            f"{url} did not answer within {timeout:g} s", hint="give it longer with --timeout, or look at its log"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnreachableError(
            f"the connection to {url} broke: {type(error).__name__}", hint="look at the server's log"
        ) from None


def read_answer(response: httpx.Response) -> bytes:
    """The body of a streamed response, bounded."""
    pieces, size = [], 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > MAX_ANSWER:
            raise InsulaError(f"the answer is larger than {MAX_ANSWER >> 20} MB")
        pieces.append(piece)
    return b"".join(pieces)


class AdminClient:
    """The admin API of one server. `timeout` in seconds is for the answer to a change."""

    def __init__(self, url: str, token: str | None, *, timeout: float = 300.0) -> None:
        self._url, self._timeout = url, timeout
        try:
            self._http = http_client(url, timeout, {"authorization": f"Bearer {token}"} if token else None)
        except (ValueError, httpx.InvalidURL):
            raise UsageError("the token cannot be sent: it holds characters that no header may have") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def list(self) -> dict[str, Any]:
        """`{"services": […]}`."""
        return self._ask("GET", "/api/v1/packages", quick=True)

    def show(self, service_id: str) -> dict[str, Any]:
        """One service in full."""
        return self._ask("GET", f"/api/v1/packages/{quote(service_id, safe='')}", quick=True)

    def undeploy(self, service_id: str) -> None:
        """Takes a service away; returns once it is gone."""
        self._ask("DELETE", f"/api/v1/packages/{quote(service_id, safe='')}")

    def rollback(self, service_id: str, *, plan: bool) -> dict[str, Any]:
        """Back to the package before."""
        return self._ask("POST", f"/api/v1/packages/{quote(service_id, safe='')}/rollback", params=_query(plan=plan))

    def retry(self, service_id: str) -> dict[str, Any]:
        """Starts one that is stopped."""
        return self._ask("POST", f"/api/v1/packages/{quote(service_id, safe='')}/retry")

    def deploy(self, source: str, *, override: bool, plan: bool) -> dict[str, Any]:
        """Deploys a package that the server fetches."""
        body = {"source": source, "override": override}
        return self._ask("POST", "/api/v1/packages/deploy", params=_query(plan=plan), json=body)

    def upload(self, file: Path, *, override: bool, plan: bool) -> dict[str, Any]:
        """Deploys a package of this machine, sent piece by piece."""
        try:
            size = file.stat().st_size
            progress = Progress(f"uploading {file.name}", size)
            with file.open("rb") as stream:

                def pieces() -> Iterator[bytes]:
                    while piece := stream.read(PIECE):
                        progress.add(len(piece))
                        yield piece

                headers = {"content-type": "application/gzip", "content-length": str(size)}
                params = _query(override=override, plan=plan)
                try:
                    return self._ask(
                        "POST", "/api/v1/packages/deploy", params=params, headers=headers, content=pieces()
                    )
                finally:
                    progress.close()
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror}") from None

    def _ask(self, method: str, path: str, *, quick: bool = False, **request: Any) -> dict[str, Any]:
        timeout = min(QUICK, self._timeout) if quick else self._timeout
        with (
            reaching(self._url, "where the admin port was looked for", timeout, "--admin-url"),
            self._http.stream(method, path, timeout=httpx.Timeout(timeout, connect=CONNECT), **request) as response,
        ):
            body = read_answer(response)
        if response.status_code == 204:
            return {}
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        raise _refusal(self._url, response.status_code, answer)


def _query(**flags: bool) -> dict[str, str]:
    return {name: "true" for name, on in flags.items() if on}


def _refusal(url: str, status: int, answer: Any) -> InsulaError:
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        hint = answer.get("hint")
        return InsulaError(
            answer["error"], code=code_named(answer.get("code")), hint=hint if isinstance(hint, str) else None
        )
    return UnreachableError(
        f"what answers at {url} is not the admin port of Insula (HTTP {status})",
        hint="give --admin-url the URL of the admin port; the public port is another one",
    )
