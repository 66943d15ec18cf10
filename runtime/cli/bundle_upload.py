"""Sends a support bundle through the product itself: as a message that ingest stores and upload delivers.

Where there is a drop folder the archive is a file that ingest takes over; else it is the payload, which
upload sends as a file where it is too large for a message of the hub.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from runtime.config import Config
from runtime.errors import Retryable
from runtime.producer import Producer

CONTENT_TYPE = "application/gzip"


def send(config: Config, archive: bytes, stream: str, retry_for_s: float) -> int | None:
    """The id of the stored message. Raises NotStored, and Retryable where the drop folder takes no file."""
    folder = config.settings.ingest.drop_folder
    with Producer(config.producer_endpoint(), name="edgectl-bundle", retry_for_s=retry_for_s) as producer:
        if folder is None:
            return producer.put(archive, stream=stream, content_type=CONTENT_TYPE)
        dropped = folder / f"edge-bundle-{uuid.uuid4().hex[:12]}.tar.gz"
        try:
            _write(dropped, archive)
            return producer.put(b"", stream=stream, content_type=CONTENT_TYPE, file=dropped.name)
        except OSError as exc:
            raise Retryable(f"the drop folder {folder} takes no file: {exc.strerror}") from exc
        finally:
            with suppress(OSError):  # ingest has taken it over, or it was not stored
                dropped.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
