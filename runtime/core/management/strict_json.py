"""JSON as it came over a socket: strict, and with one error for everything that is none."""

from __future__ import annotations

import json
from typing import Any


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_repeats)


def decode_json(frame: bytes) -> Any:
    """The value of a frame. Raises ValueError, with the reason, for everything that is no JSON in UTF-8."""
    try:
        return _DECODER.decode(frame.decode())
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def encode_json(value: Any) -> bytes:
    """Compact JSON; broken Unicode is refused by the reader, with the reason."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
