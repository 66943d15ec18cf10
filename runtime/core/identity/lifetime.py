"""The platform's notation of times and durations, and their values in seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LEAST_LIFE_S = 10.0
"""A token that was issued this moment has at least so long left: a clock that says less is wrong."""
DOUBTED_LIFE_S = 300.0, 3600.0
"""Where the server's clock is wrong, ours counts, within these bounds: it may be wrong, too."""

_DURATION = re.compile(r"(-)?(?:(\d{1,8})\.)?(\d{1,2}):(\d{2}):(\d{2})(\.\d{1,7})?", re.ASCII)
_RFC3339 = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


def duration_s(text: str) -> float:
    """The seconds in `[-][d.]hh:mm:ss[.fffffff]`. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("a duration is written [-][d.]hh:mm:ss[.fffffff]")
    sign, days, hours, minutes, seconds, fraction = match.groups()
    if int(hours) > 23 or int(minutes) > 59 or int(seconds) > 59:
        raise ValueError("a duration has at most 23 hours, 59 minutes, 59 seconds")
    whole_s = int(days or 0) * 86_400 + int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return (-1.0 if sign else 1.0) * (whole_s + float(fraction or 0))


def instant_s(text: str) -> float:
    """Unix seconds of an RFC 3339 instant. Raises ValueError."""
    match = _RFC3339.fullmatch(text.strip())
    if match is None:
        raise ValueError("an instant is written as in RFC 3339, with its zone")
    date, clock, fraction, zone = match.groups()
    # datetime keeps 6 digits of a second; the platform sends 7
    whole = datetime.fromisoformat(f"{date}T{clock}{zone.upper().replace('Z', '+00:00')}")
    return whole.timestamp() + float(fraction or 0)


def http_date_s(text: str) -> float:
    """Unix seconds of an HTTP `Date`. Raises ValueError."""
    try:
        stamp = parsedate_to_datetime(text)
    except OverflowError as exc:
        raise ValueError("a date is within the calendar") from exc
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()


def left_s(ends_s: float, server_s: float, wall_s: float) -> float:
    """Seconds left of a token received just now that ends at `ends_s`, by the server's clock, else by ours.

    Never below LEAST_LIFE_S: a token that is over on receipt would be requested without end, by every device.
    """
    by_server_s = ends_s - server_s
    if by_server_s >= LEAST_LIFE_S:
        return by_server_s
    least_s, most_s = DOUBTED_LIFE_S
    return min(max(ends_s - wall_s, least_s), most_s)


def retry_after_s(text: str | None, server_s: float | None) -> float | None:
    """The seconds that a `Retry-After` header asks for (a number or a date), or None where it has neither."""
    if not text:
        return None
    text = text.strip()
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return float(text)
    try:
        until_s = http_date_s(text)
    except ValueError:
        return None
    return None if server_s is None else max(0.0, until_s - server_s)


def spoken(seconds: float | None) -> str:
    """A duration in words: `3 d 4 h`, `12 min`, `45 s`; None is `never`."""
    if seconds is None:
        return "never"
    if seconds < 0:
        return f"{spoken(-seconds)} ago"
    whole = int(seconds)
    for unit_s, unit, part_s, part in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // part_s} {part}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
