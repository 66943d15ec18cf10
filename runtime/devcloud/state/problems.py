"""Refusals of the platform, as RFC 9457 has them: raised where noticed, rendered in one place (`web.py`)."""

from __future__ import annotations

from runtime.errors import Rejected


class Problem(Rejected):
    """The platform will not do this."""

    def __init__(self, status: int, kind: str, title: str, detail: str = "", **headers: str) -> None:
        super().__init__(f"{title}: {detail}" if detail else title, code=kind)
        self.status = status
        self.kind = kind
        """Path of the problem's `type`, below `/problems/`."""
        self.title = title
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def bad_request(detail: str) -> Problem:
    return Problem(400, "common/invalidRequest", "The request is not valid", detail)


def unauthorized(title: str) -> Problem:
    return Problem(401, "common/unauthorized", title, WWW_Authenticate="DeviceToken")


def not_found(what: str) -> Problem:
    return Problem(404, "common/notFound", f"{what} does not exist")


def closed(kind: str, title: str) -> Problem:
    """The problem of a provisioning operation that is closed and yields nothing more."""
    return Problem(410, f"deviceProvisioning/{kind}", title)


def workspace_disabled() -> Problem:
    return Problem(423, "common/workspaceDisabled", "The workspace is disabled")
