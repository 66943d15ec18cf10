"""The stand-in as one process: HTTPS and hub in one loop, ready when DIR/devcloud.json is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.adapters.process import logs
from runtime.adapters.process.process import Lock
from runtime.devcloud import addresses, dps
from runtime.devcloud.files import write_whole
from runtime.devcloud.http import (
    admin,
    approval_page,
    blobs,
    device_management,
    devices,
    dps_api,
    file_upload,
    https_commands,
    https_messages,
    hub_https,
    operators,
    platform_api,
)
from runtime.devcloud.http.fault_injection import FaultInjection
from runtime.devcloud.http.web import now_s, render_http_exception, render_problem
from runtime.devcloud.mqtt import broker
from runtime.devcloud.mqtt.websocket import WebSocket
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.problems import Problem
from runtime.devcloud.tls import server_context
from runtime.errors import UsageError

PARTS = (
    *(platform_api, operators, devices, device_management, dps_api, file_upload),
    *(https_messages, https_commands, blobs),
    *(admin, approval_page),
)


@dataclass(frozen=True)
class ServerOptions:
    """The options of the command line."""

    folder: Path
    address: str = "auto"
    """A loopback address, or `auto`: the one of last time, else one that is not in use."""
    https_port: int = 0
    """0: the port of last time, else a free one."""
    name: str = ""
    """The host name by which devices reach it; empty: its address."""
    workspace: str = "demo"
    lifetimes: Mapping[str, Any] | None = None
    """The lifetimes that differ from last time's."""


def run(options: ServerOptions, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises UsageError where it cannot start."""
    logs.configure("devcloud")
    if not re.fullmatch(r"[0-9a-zA-Z\-_.]{1,64}", options.workspace):
        raise UsageError(f"workspace {options.workspace!r} must be 1 to 64 of 0-9 a-z A-Z - _ .")
    if not re.fullmatch(r"[0-9a-zA-Z\-.]*", options.name):
        raise UsageError(f"name {options.name!r} must be a host name, of 0-9 a-z A-Z - and .")
    os.umask(0o077)  # devcloud.db holds keys, also in a folder that other users may enter
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = Lock(options.folder / "devcloud.lock", ours=options.folder)
    try:
        asyncio.run(_serve(options, say))
    finally:
        lock.release()


async def _serve(options: ServerOptions, say: Callable[[str], None]) -> None:
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    facts = options.folder / "devcloud.json"
    facts.unlink(missing_ok=True)
    here = addresses.bind_addresses(options.folder, options.address, options.https_port)
    cloud = Cloud(options.folder, options.name or here.address, now_s(), options.workspace)
    try:
        cloud.change_lifetimes(options.lifetimes or {})
    except Problem as exc:
        raise UsageError(exc.detail) from exc
    names = filter(None, [options.name])
    context = server_context(options.folder, here.address, here.dps_address, *names)
    switch = HubSwitch(cloud, here.address, context)
    https = Https(application(cloud, switch), context, lambda: switch.hub)
    port = here.https.getsockname()[1]
    beside = addresses.standard_port(here.address, port)
    try:
        await switch(True)
        assigning = await _serve_dps(cloud, here.dps_address, context)
        serving = asyncio.create_task(https.serve(sockets=[here.https, *beside]))
        await https.ready(serving)
        known = write_facts(facts, cloud, here, addresses.HTTPS_PORT if beside else port)
        for sentence in welcome(options.folder, known):
            say(sentence)
        stopping = asyncio.create_task(asked_to_stop.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        await switch(False)  # connections over WebSockets are also those of the HTTPS server
        assigning.close()
        await https.end(serving)
    finally:
        facts.unlink(missing_ok=True)
        await switch(False)
        cloud.close()


async def _serve_dps(cloud: Cloud, address: str, context: ssl.SSLContext) -> asyncio.Server:
    try:
        return await dps.serve(cloud, address, addresses.HUB_PORT, context)
    except OSError as exc:
        raise UsageError(f"cannot listen on {address}:{addresses.HUB_PORT}: {exc.strerror}") from exc


class HubSwitch:
    """Closes the hub's listener and opens it again."""

    def __init__(self, cloud: Cloud, address: str, context: ssl.SSLContext) -> None:
        self._cloud = cloud
        self._address = address
        self._context = context
        self.hub: broker.Broker | None = None

    async def __call__(self, up: bool) -> None:
        """Open the hub, or close it. Raises UsageError where its port is taken."""
        if up and self.hub is None:
            host, port = self._address, addresses.HUB_PORT
            try:
                self.hub = await broker.serve(self._cloud, host, port, self._context)
            except OSError as exc:
                raise UsageError(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
            self._cloud.drop = self.hub.drop
        elif not up and self.hub is not None:
            stopping, self.hub = self.hub, None
            self._cloud.drop = lambda mode, device_id: 0
            await stopping.stop()


def application(cloud: Cloud, switch_hub: HubSwitch) -> Starlette:
    """The application that answers all HTTPS requests."""
    app = Starlette(
        routes=[route for part in PARTS for route in part.routes],
        exception_handlers={
            Problem: render_problem,
            HTTPException: render_http_exception,
            **blobs.handlers,
            **hub_https.handlers,
        },
    )
    app.state.cloud = cloud
    app.state.switch_hub = switch_hub
    app.add_middleware(FaultInjection, cloud=cloud)
    return app


class _Connection(H11Protocol):
    """Passes the transport to the application, which may have to cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class Https(uvicorn.Server):
    """uvicorn with our TLS context, our signals, and an end that does not wait for connected clients."""

    def __init__(
        self, app: Starlette, context: ssl.SSLContext, find_hub: Callable[[], broker.Broker | None]
    ) -> None:
        config = uvicorn.Config(
            app, http=_Connection, ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, timeout_keep_alive=60,
        )  # fmt: skip
        config.load()
        config.ws_protocol_class = lambda **_: WebSocket(find_hub)  # type: ignore[assignment]  # it is only called
        config.ssl = context
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_serve`."""
        yield

    async def ready(self, serving: asyncio.Task[None]) -> None:
        """Return once connections are accepted."""
        while not self.started and not serving.done():
            await asyncio.sleep(0.01)

    async def end(self, serving: asyncio.Task[None]) -> None:
        """Close all connections now; raises what ended the server before we asked."""
        self.should_exit = self.force_exit = True
        await serving


PROVISIONING_FILE = "devcloud-provisioning-token"
"""A name of its own: in a folder that is a device's home, too, `provisioning-token` may be an operator's."""
WRITTEN_BY_US = "# Written by `edgectl devcloud` at each start"


def _write_configuration(path: Path, text: str) -> None:
    """Write the device's configuration. A file of the same name that is not ours stays: the folder
    may be a device's home, too.
    """
    if not path.exists() or path.read_text(errors="replace").startswith(WRITTEN_BY_US):
        write_whole(path, text)


def device_configuration(folder: Path, known: Mapping[str, Any]) -> str:
    """A complete edge.toml for a device on this machine, for any user to run."""
    return (
        f"{WRITTEN_BY_US}: a device on this machine reaches the stand-in with it.\n"
        "[platform]\n"
        f"instance = {json.dumps(known['instance'])}\n"
        f"ca_file = {json.dumps(known['ca_file'])}\n"
        f"provisioning_token_file = {json.dumps(str(folder.absolute() / PROVISIONING_FILE))}\n\n"
        "[provisioning]\npoll_s = 1.0  # approved by the person at this desk\n\n"
        "[upload]\n"
        f"https_port = {known['https_port']}  # 443 at a real hub; an ordinary user may not listen there\n"
    )


def welcome(folder: Path, known: Mapping[str, Any]) -> list[str]:
    """The greeting with all that a person needs to go on."""
    here, port = folder.absolute(), known["https_port"]
    host = known["admin_url"].removeprefix("https://")
    config = shlex.quote(str(folder / "edge.toml"))
    return [
        f"devcloud is ready at {known['instance']}; this link opens its page once: {known['page_url']}",
        "  The browser will warn: the certificate is signed by this stand-in's own authority. Go on, or",
        f"  first import {here / 'ca.pem'} as an authority for websites.",
        f"  A browser on another machine: ssh -L {port}:{host} HERE there, and 127.0.0.1 in the link.",
        f"  For a device here: mkdir -p edge; cp {config} edge/; edgectl --home edge up",
    ]


def write_facts(
    path: Path, cloud: Cloud, here: addresses.ListenAddresses, websocket_port: int
) -> dict[str, Any]:
    """Write the addresses and tokens for the process that started us: whole or not
    at all, for the owner only.
    """
    https_port = here.https.getsockname()[1]
    operators_host = f"{here.address}:{https_port}"
    known = {
        "instance": f"{cloud.hub_host}:{https_port}",
        "hub_host": cloud.hub_host,
        "address": here.address,
        "dps_host": here.dps_address,
        "dps_id_scope": cloud.dps.id_scope,
        "https_port": https_port,
        "websocket_port": websocket_port,
        "ca_file": str(cloud.folder.absolute() / "ca.pem"),
        "admin_url": f"https://{operators_host}",
        "page_url": approval_page.one_time_url(cloud, operators_host),
        "workspace": cloud.workspace,
        "operator_token": cloud.operator_token,
        "provisioning_token": cloud.provisioning_token,
        "pid": os.getpid(),
    }
    write_whole(cloud.folder / PROVISIONING_FILE, f"{cloud.provisioning_token}\n")
    _write_configuration(cloud.folder / "edge.toml", device_configuration(cloud.folder, known))
    write_whole(path, json.dumps(known, indent=2))  # the last: its waiters find the others there
    return known
