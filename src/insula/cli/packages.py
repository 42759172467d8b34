"""`deploy`, `list`, `show`, `undeploy`, `rollback`, `retry`: the admin API for people."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from insula.cli import options, output
from insula.cli.failures import UsageError
from insula.cli.target import Target

#: A digest in a table for people; --json has all of it.
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|depot:", re.ASCII)


def is_url(text: str) -> bool:
    """Whether the server is to fetch it; anything else is a file of this machine."""
    return _URL.match(text) is not None


@click.command("deploy")
@click.argument("package", metavar="PACKAGE", type=options.Package())
@click.option("--override", is_flag=True, help="Replace the service if it is deployed already.")
@options.plan
@options.timeout(300)
@options.admin
def deploy(
    package: str,
    override: bool,
    plan: bool,
    timeout: float,
    as_json: bool,
    admin_url: str | None,
    token: str | None,
) -> None:
    """Deploy a package, and show its steps and their time.

    PACKAGE is a file of this machine, which is uploaded, or a file://, s3://, https:// or depot: URL, which the server
    fetches. With --override the new version is ready before the old one drains: no request fails.
    """
    file = None if is_url(package) else Path(package)
    if file is not None and not file.is_file():
        raise _no_package(file)
    with _client(options.target(admin_url=admin_url, token=token), timeout) as client:
        if file is not None:
            done = client.upload(file, override=override, plan=plan)
        else:
            done = client.deploy(package, override=override, plan=plan)
    output.as_json(done) if as_json else _print_deployed(done)


@click.command("rollback")
@options.service
@options.plan
@options.timeout(300)
@options.admin
def rollback(service: str, plan: bool, timeout: float, as_json: bool, admin_url: str | None, token: str | None) -> None:
    """Deploy the package that a service had before the present one."""
    with _client(options.target(admin_url=admin_url, token=token), timeout) as client:
        done = client.rollback(service, plan=plan)
    output.as_json(done) if as_json else _print_deployed(done)


@click.command("retry")
@options.service
@options.timeout(300)
@options.admin
def retry(service: str, timeout: float, as_json: bool, admin_url: str | None, token: str | None) -> None:
    """Start a service that is stopped.

    One that failed to start, or one during whose start the process died three times. `insula list` says why. A successful
    start clears the count.
    """
    with _client(options.target(admin_url=admin_url, token=token), timeout) as client:
        done = client.retry(service)
    output.as_json(done) if as_json else _print_deployed(done)


@click.command("undeploy")
@options.service
@options.timeout(300)
@options.admin
def undeploy(service: str, timeout: float, as_json: bool, admin_url: str | None, token: str | None) -> None:
    """Take a service away, once its calls in flight have ended."""
    with _client(options.target(admin_url=admin_url, token=token), timeout) as client:
        client.undeploy(service)
    if as_json:
        output.as_json({"service_id": service, "status": "undeployed"})
    else:
        output.line(f"{service} undeployed")


@click.command("list")
@options.admin
def list_services(as_json: bool, admin_url: str | None, token: str | None) -> None:
    """List the deployed services, in the order of deployment."""
    with _client(options.target(admin_url=admin_url, token=token)) as client:
        answer = client.list()
    if as_json:
        output.as_json(answer)
        return
    services = [one for one in answer.get("services", []) if isinstance(one, dict)]
    if not services:
        output.line("no service is deployed; deploy one with: insula deploy NAME.okra.pkg")
        return
    fields = ("id", "state", "version", "deployed_at", "source")
    rows = [[_DIGEST.sub(r"\1…", str(one.get(field, ""))) for field in fields] for one in services]
    output.table(("SERVICE", "STATE", "VERSION", "DEPLOYED", "SOURCE"), rows)
    for one in services:
        if one.get("state") == "stopped":
            output.line(f"{one.get('id')} is stopped: {one.get('last_error') or 'the log of the server says why'}")


@click.command("show")
@options.service
@options.admin
def show(service: str, as_json: bool, admin_url: str | None, token: str | None) -> None:
    """Show one service: methods, limits, what it may do, how it is."""
    with _client(options.target(admin_url=admin_url, token=token)) as client:
        shown = client.show(service)
    output.as_json(shown) if as_json else print_shown(shown)


def _no_package(file: Path) -> UsageError:
    if not file.is_dir():
        return UsageError(
            f"there is no file {file}", hint="insula build makes one, in dist/; a URL begins with https:// or s3://"
        )
    built = sorted((*file.glob("*.okra.pkg"), *file.glob("dist/*.okra.pkg")), key=lambda one: one.stat().st_mtime)
    said = f"insula deploy {built[-1]}" if built else f"insula build {file} makes its package, in {file / 'dist'}"
    return UsageError(f"{file} is a folder, not a package", hint=said)


def _client(where: Target, timeout: float = 60.0) -> Any:
    from insula.cli.client import AdminClient

    url, token = where.admin()
    return AdminClient(url, token, timeout=timeout)


def _print_deployed(done: dict[str, Any]) -> None:
    output.line(f"{done.get('service_id')} {done.get('status')}, version {done.get('version')}")
    steps = [(str(step.get("name")), output.milliseconds(step.get("ms", 0))) for step in done.get("steps", [])]
    width = max((len(name) for name, _ in steps), default=0)
    for name, time in steps:
        output.line(f"  {name.ljust(width)}  {time}")
    for change in done.get("changes", []):
        output.line(f"  - {change}")
    for endpoint in done.get("endpoints", []):
        output.line(f"  {endpoint}")


def print_shown(shown: dict[str, Any]) -> None:
    """One service for people."""
    facts = [("service", shown.get("id")), ("state", shown.get("state")), ("version", shown.get("version"))]
    facts += [("latest", "yes: paths without a version lead here" if shown.get("latest") else "no")]
    facts += [(name.replace("_", " "), shown.get(name)) for name in ("deployed_at", "source", "digest")]
    facts += [("may use", ", ".join(shown.get("host_apis", [])) or "nothing of the host")]
    facts += [("limits", _pairs(shown.get("limits", {})))]
    facts += [(f"  {name}", f"by {place}") for name, place in shown.get("limits_from", {}).items()]
    facts += [("  memory", sentence) for sentence in _large_memory(shown)]
    facts += [(name, _pairs(shown.get(name, {}))) for name in ("instances", "mailbox")]
    if shown.get("previous"):
        facts.append(("rolls back to", str(shown["previous"][0])))
    if shown.get("last_error"):
        facts.append(("last error", shown["last_error"]))
    output.facts([(name, str(value)) for name, value in facts])
    output.line("methods")
    methods = shown.get("methods", [])
    width = max((len(method["endpoint"]) for method in methods), default=0)
    for method in methods:
        marks = [
            mark for mark, on in (("only reads", "read_only"), ("needs an identity", "authenticated")) if method[on]
        ]
        said = f"  ({', '.join(marks)})" if marks else ""
        types = f"{method['input'] or '{}'} -> {method['output'] or 'nothing'}"
        output.line(f"  {method['endpoint'].ljust(width)}  {types}{said}")


def _large_memory(shown: dict[str, Any]) -> list[str]:
    from insula.packages.describe import large_memory

    return large_memory(shown.get("limits", {}).get("memory_mb", 0))


def _pairs(values: dict[str, Any]) -> str:
    words = {True: "yes", False: "no"}
    said = ((name, words[value] if isinstance(value, bool) else value) for name, value in values.items())
    return ", ".join(f"{name} {value}" for name, value in said) or "none"
