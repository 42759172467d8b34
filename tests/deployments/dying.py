"""A server whose process dies when it stages some services: `python -m tests.deployments.dying FOLDER [die=ID] [hold=ID]`.

It prints `staging ID PUBLIC ADMIN` before each staging and `ready` at the end of the start. A service to `die` at kills the
process; one to `hold` waits for a line on stdin.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from insula import assembly
from insula.server import Server
from insula.settings import load

stage = assembly.__dict__["stage"]


def main(folder: Path, *words: str) -> None:
    def ready(_: Server) -> None:
        print("ready", flush=True)

    async def dying(package: Any, *more: Any, **options: Any) -> Any:
        name = str(package.service_id)
        urls = ("http://{}:{}".format(*address) for address in (server.address, server.admin_address))
        print("staging", name, *urls, flush=True)
        if f"hold={name}" in words:
            await asyncio.to_thread(sys.stdin.readline)
        if f"die={name}" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        return await stage(package, *more, **options)

    vars(assembly)["stage"] = dying
    server = Server(load(flags={"server.port": 0, "server.admin_port": 0}, environ={}, cwd=folder), ready=ready)
    sys.exit(server.run())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
