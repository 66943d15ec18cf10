"""Content of a support bundle: what is taken out of texts, and which members fit the archive. Pure.

Invariants: no payload and no secret passes `Redaction`. A name of a stream stays.

Secrets are taken out in three ways, each enough for most of them: by value (what is configured, on disk or in
the environment), by the form of a credential (`password=`, a URL with a user, `SharedAccessKey=`), and by
their look (a long random word). Payloads are bytes everywhere in the runtime: a text can show one only as the
literal of a bytes object, or as the value of a variable in a crash report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HIDDEN = "***"
SHORTEST_SECRET = 4
"""Shorter secrets are left to the patterns: taking them out by value would tear up every other word."""
_FORMS = re.compile(
    r"((?:password|passwd|pwd|secret|credential|authorization|sharedaccesskey|accountkey|sharedaccesssignature"
    r"|(?:registration|provisioning|access|device|sas)[-_ ]?token)[\w-]*\\?[\"']?\s*[:=]\s*\\?[\"']?)"
    r"(?!\*\*\*)[^\s\"',;&}\\]+",
    re.IGNORECASE,
)
_FORM_WORDS = ("passw", "pwd", "secret", "credential", "authorization", "sharedaccess", "accountkey", "token")
"""A line without any of them has none of the forms; to look for them takes a hundredth of the time."""
_USER_IN_URL = re.compile(r"(://)[^/@\s\"'\\]+@")
_LONG_WORD = re.compile(r"[\w+=-]{32,}", re.ASCII)
_RANDOM = re.compile(r"(?=(?:\D*\d){3})(?=.*[a-z])(?=.*[A-Z])")
"""A long word with digits, small and capital letters looks random, as a token or a key in base64 does."""
_BYTES = re.compile(r"""\bb(\\?)(["'])(?:\\.|(?!\1\2).)*(\1\2|$)""", re.MULTILINE)
_PROPERTIES = re.compile(r"(properties[\"'\\]*\s*[=:]\s*(?:mappingproxy\()?)\{[^}\n]*(?:\}|$)", re.IGNORECASE)
_HARMLESS = re.compile(r"None|True|False|-?\d{1,20}(?:\.\d{1,20})?")
"""Values of local variables that a bundle shows: the runtime never makes a number of a payload."""


@dataclass(frozen=True)
class Redaction:
    """Takes secrets and payloads out of texts."""

    secrets: tuple[str, ...]
    """Every secret that is known on this device, in each form in which it may be written."""
    names: frozenset[str] = frozenset()
    """Names of streams: they stay, also where one looks random."""

    @classmethod
    def of(cls, secrets: Iterable[str], names: Iterable[str] = ()) -> Redaction:
        """The redaction of these `secrets`, the longest first: one may be a part of another."""
        long_enough = {text for text in secrets if len(text) >= SHORTEST_SECRET}
        return cls(tuple(sorted(long_enough, key=lambda text: (-len(text), text))), frozenset(names))

    def text(self, text: str) -> str:
        """The text without secrets and payloads."""
        text = "\n".join(map(self._without_forms, text.split("\n")))
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        text = _USER_IN_URL.sub(rf"\1{HIDDEN}@", text)
        text = _BYTES.sub("b" + HIDDEN, text)
        text = _PROPERTIES.sub(rf"\1{HIDDEN}", text)
        return _LONG_WORD.sub(self._unless_name, text)

    def value(self, value: Any) -> Any:
        """The same for every text in a JSON value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(part) for key, part in value.items()}
        if isinstance(value, Sequence):
            return [self.value(part) for part in value]
        return value if value is None or isinstance(value, bool | int | float) else self.text(str(value))

    @staticmethod
    def _without_forms(line: str) -> str:
        folded = line.lower()
        has_form = any(word in folded for word in _FORM_WORDS)
        return _FORMS.sub(rf"\1{HIDDEN}", line) if has_form else line

    def _unless_name(self, found: re.Match[str]) -> str:
        word = found[0]
        return HIDDEN if _RANDOM.match(word) and word not in self.names else word


def without_locals(crash: Any) -> Any:
    """A crash report without the content of variables: one of them may be a payload."""
    if not isinstance(crash, Mapping):
        return {"unreadable": True}
    frames = crash.get("frames")
    shown = [
        _frame(frame) for frame in (frames if isinstance(frames, list) else []) if isinstance(frame, Mapping)
    ]
    return {**crash, "frames": shown}


def _frame(frame: Mapping[str, Any]) -> dict[str, Any]:
    variables = frame.get("locals")
    known = variables if isinstance(variables, Mapping) else {}
    return {"at": frame.get("at"), "locals": {name: _shown(value) for name, value in known.items()}}


def _shown(value: object) -> str:
    text = str(value)
    return text if _HARMLESS.fullmatch(text) else f"({len(text)} characters)"


def dropped_to_fit(sizes: Mapping[str, int], order: Sequence[str], max_bytes: int) -> list[str]:
    """Members to leave out, the first of `order` first, until the rest is not larger than `max_bytes`."""
    total_bytes, left_out = sum(sizes.values()), []
    for name in order:
        if total_bytes <= max_bytes:
            break
        if name in sizes:
            left_out.append(name)
            total_bytes -= sizes[name]
    return left_out
