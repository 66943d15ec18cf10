"""supervisord as seen from outside: XML-RPC over its unix socket, a deadline on every call."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import Rejected, Retryable

CALL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process as supervisord sees it now."""

    name: str
    state: str
    """STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN."""
    pid: int
    """0 where no process runs."""
    trouble: str
    """The reason why it could not be started, else empty."""
    started: int = 0
    """When it was started last, by supervisord's clock; 0: never."""


class Supervisor:
    """Client of one home's supervisord. Raises Retryable where it does not answer, Rejected where it
    refuses.
    """

    def __init__(self, path: Path, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._proxy = xmlrpc.client.ServerProxy("http://supervisor", _Transport(path, timeout_s))

    def programs(self) -> dict[str, Program]:
        """Every program by name, the sentinel included."""
        return {row["name"]: _program(row) for row in self._call("getAllProcessInfo")}

    def running(self) -> bool:
        """True if it works as usual, and neither shuts down nor restarts."""
        return bool(self._call("getState")["statename"] == "RUNNING")

    def pid(self) -> int:
        return int(self._call("getPID"))

    def start(self, name: str) -> None:
        """Start a program that is FATAL, EXITED or STOPPED, without waiting for it to be up."""
        self._call("startProcess", name, False)

    def stop(self, name: str, *, wait: bool = False) -> None:
        """Stop a program; `wait` returns only when it is gone (within the deadline of a call)."""
        self._call("stopProcess", name, wait)

    def signal(self, name: str, signal: str) -> None:
        """Send a signal to a running program (TERM, KILL, ...)."""
        self._call("signalProcess", name, signal)

    def restart_all(self) -> None:
        """Have supervisord stop every program, read its configuration again and start them all again."""
        self._call("restart")

    def shutdown(self) -> None:
        """Stop every program in reverse order of start, then supervisord itself."""
        self._call("shutdown")

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as exc:
            raise Rejected(f"supervisord refuses {method}: {exc.faultString}", code=exc.faultString) from exc
        except PermissionError as exc:
            raise Retryable(
                "supervisord may not be asked by this user; be root or the runtime's user"
            ) from exc
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            raise Retryable("supervisord does not run here") from exc
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as exc:
            raise Retryable(f"supervisord does not answer: {exc or type(exc).__name__}") from exc
        finally:
            self._proxy("close")()  # left to the collector, it swallows a Ctrl-C that falls into its warning


def _program(row: dict[str, Any]) -> Program:
    return Program(row["name"], row["statename"], row["pid"], row["spawnerr"], row["start"])


class _Transport(xmlrpc.client.Transport):
    """XML-RPC over a unix socket, with a connection for each call: by the next,
    supervisord may be another process.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        self.close()
        connection = _UnixConnection(self._path, self._timeout_s)
        self._connection = host, connection
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
