"""Parts of statements of the writing side; every name in them is our own."""

from runtime.core.admission import Row
from runtime.core.description import Details

_FIELDS = (*Row._fields, *Details._fields)
_NEVER_NULL = ("stream", "kind", "priority", "stored_boot_s", "boot", "bytes", "payload")

COLUMNS = ", ".join(_FIELDS)
SOUND_COLUMNS = ", ".join(f"coalesce({name}, 0)" if name in _NEVER_NULL else name for name in _FIELDS)
"""The columns of a row that may be damaged, as the schema takes them."""
IN = "(SELECT value FROM json_each(?))"
"""A list of ids, given as JSON."""


def _insert(fields: tuple[str, ...], rows: int = 1) -> str:
    row = f"({', '.join('?' * len(fields))})"
    return f"INSERT INTO messages ({', '.join(fields)}) VALUES {', '.join([row] * rows)}"  # noqa: S608  # our own names


INSERT = _insert(Row._fields)
"""Only what every message has: SQLite takes half the time for it."""
INSERT_DETAILED = _insert(_FIELDS)
AT_ONCE = 50
INSERT_MANY = _insert(Row._fields, AT_ONCE)
"""The same for so many: a sixth less for each. SQLite keeps a copy of the last ones until the next come."""
