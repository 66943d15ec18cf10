"""The codes of refusals that programs get from the management worker, and the error that carries one."""

from __future__ import annotations

from enum import StrEnum

from runtime.errors import Rejected


class ManagementCode(StrEnum):
    """The reason why a program's request was refused. Programs branch on these words: never change one.

    The first group has the words of the producer protocol, with the same meaning.
    """

    BAD_ENVELOPE = "bad_envelope"
    BAD_HEADER = "bad_header"
    BAD_VERSION = "bad_version"
    UNKNOWN_OPERATION = "unknown_operation"
    UNKNOWN_FIELD = "unknown_field"
    BAD_FIELD = "bad_field"
    WRONG_PAYLOADS = "wrong_payloads"
    HEADER_TOO_LARGE = "header_too_large"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    DISK_FULL = "disk_full"
    STORE_UNAVAILABLE = "store_unavailable"
    INTERNAL = "internal"

    BAD_VALUE = "bad_value"
    NOT_GRANTED = "not_granted"
    NO_SUCH_PATH = "no_such_path"
    TWIN_TOO_LARGE = "twin_too_large"
    CHANGE_MOVED = "change_moved"
    LEASE_LOST = "lease_lost"
    UNKNOWN_COMMAND = "unknown_command"
    UNKNOWN_CALL = "unknown_call"
    TOO_LATE = "too_late"
    TOO_MANY_WAITING = "too_many_waiting"
    UNKNOWN_LEAF = "unknown_leaf"
    LOOP = "loop"


class RequestRefused(Rejected):
    """The request is refused, and nothing of it took effect. `code` is one of ManagementCode."""

    def __init__(self, code: ManagementCode, message: str) -> None:
        super().__init__(message, code=code)
