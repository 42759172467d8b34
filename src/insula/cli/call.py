"""`insula call`: one unary call over Connect JSON, the way that any client makes it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from insula.cli import options, output
from insula.cli.failures import CallFailedError, UnreachableError, UsageError
from insula.errors import code_named

_METHOD = re.compile(r"/?(?P<service>[A-Za-z_][\w]*(?:\.[A-Za-z_][\w]*)+)/(?P<method>[A-Za-z_]\w*)", re.ASCII)
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*([\t\x20-\x7e]*)")
MAX_INPUT = 64 << 20


@click.command("call")
@click.argument("method", metavar="SERVICE/METHOD")
@click.argument("message", metavar="[JSON]", required=False)
@click.option("--data", "-d", metavar="JSON", help="The input, as curl takes it.")
@click.option("--header", "-H", "headers", metavar="NAME:VALUE", multiple=True, help="A header; may be repeated.")
@options.timeout(30)
@options.as_json
@options.url
def call(
    method: str,
    message: str | None,
    data: str | None,
    headers: tuple[str, ...],
    timeout: float,
    as_json: bool,
    url: str | None,
) -> None:
    """Call a method of a deployed service and print its answer.

    SERVICE/METHOD is shop.Orders/place, or with a version shop.Orders.v1/place. JSON is the input; @FILE reads a file, -
    reads stdin, and without any it is {}. An error of the service goes to stderr, and the exit code is 20 plus the
    number of its code: 25 for not_found.
    """
    match = _METHOD.fullmatch(method)
    if match is None:
        raise UsageError(f"{method} is not SERVICE/METHOD", hint='insula call shop.Orders/place \'{"item": "book"}\'')
    if message is not None and data is not None:
        raise UsageError("the input is there twice, as an argument and as --data", hint="keep one of them")
    given = message if message is not None else data
    body = _input(given) if given is not None else b"{}"
    base = options.target(url=url).public()
    answer = _post(base, f"/{match['service']}/{match['method']}", body, _headers(headers), timeout)
    if not sys.stdout.isatty():
        output.as_it_came(answer)
    elif as_json:
        output.lines(answer.decode("utf-8", "replace"))
    else:
        _print_answer(answer)


def _input(given: str) -> bytes:
    try:
        if given == "-":
            text = sys.stdin.buffer.read(MAX_INPUT + 1)
        elif given.startswith("@"):
            with Path(given[1:]).open("rb") as file:
                text = file.read(MAX_INPUT + 1)
        else:
            return given.encode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{given[1:]} cannot be read: {error.strerror}") from None
    if len(text) > MAX_INPUT:
        raise UsageError(f"the input is larger than {MAX_INPUT >> 20} MB")
    return text


def _headers(given: tuple[str, ...]) -> list[tuple[str, str]]:
    headers = []
    for text in given:
        match = _HEADER.fullmatch(text)
        if match is None:
            raise UsageError("a header is NAME: VALUE", hint='-H "Accept-Language: de"')
        headers.append((match[1], match[2]))
    return headers


def _post(base: str, path: str, body: bytes, extra: list[tuple[str, str]], timeout: float) -> bytes:
    from insula.cli.client import http_client, reaching, read_answer

    headers = [
        ("content-type", "application/json"),
        ("connect-protocol-version", "1"),
        ("connect-timeout-ms", str(max(1, int(timeout * 1000)))),
        *extra,
    ]
    # The server answers deadline_exceeded by itself; the two seconds more are for that answer to arrive.
    with (
        reaching(base, "where the public port was looked for", timeout, "--url"),
        http_client(base, timeout + 2) as client,
        client.stream("POST", path, content=body, headers=headers) as response,
    ):
        answer = read_answer(response)
    if response.status_code == 200:
        return answer
    raise _error(base, response.status_code, answer)


def _error(base: str, status: int, answer: bytes) -> Exception:
    try:
        error: Any = json.loads(answer)
    except (ValueError, RecursionError):
        error = None
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        return UnreachableError(f"what answers at {base} does not speak Connect (HTTP {status})", hint="look at --url")
    hint = error.get("hint")
    details = error.get("details")
    kinds = [str(one.get("type")) for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    said = f"{error['code']}: {error.get('message', '')}" + (f" [{', '.join(kinds)}]" if kinds else "")
    return CallFailedError(said, code=code_named(error["code"]), hint=hint if isinstance(hint, str) else None)


def _print_answer(answer: bytes) -> None:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        output.line(answer.decode("utf-8", "replace"))
        return
    output.lines(json.dumps(value, indent=2, ensure_ascii=False))
