"""A running devcloud as a caller sees it: found by its folder, called over HTTPS."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from runtime.errors import Retryable, UsageError

CALL_TIMEOUT_S = 30.0


class Remote:
    """A running devcloud, found by its folder."""

    def __init__(self, folder: Path) -> None:
        facts = folder / "devcloud.json"
        try:
            self.facts: dict[str, Any] = json.loads(facts.read_text())
        except (OSError, ValueError):
            start = f"edgectl devcloud --dir {shlex.quote(str(folder))}"
            raise UsageError(f"no devcloud runs in {folder}; start it with: {start}") from None
        self.workspace = f"/workspaces/{self.facts['workspace']}"

    def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = 0.0, **query: Any) -> Any:
        """Call it; the decoded answer. `body` is sent as JSON, or where it is bytes as it is. Raises
        UsageError with the platform's reason, Retryable without any answer within `timeout_s` and some more.
        """
        import requests

        try:
            answer = requests.request(
                method,
                self.facts["admin_url"] + path,
                params=query,
                data=body if isinstance(body, bytes) else None,
                json=None if isinstance(body, bytes) else body,
                headers={"Authorization": f"Bearer {self.facts['operator_token']}"},
                verify=self.facts["ca_file"],
                timeout=CALL_TIMEOUT_S + timeout_s,
            )
        except requests.RequestException as exc:
            raise Retryable(f"devcloud at {self.facts['instance']} does not answer") from exc
        if not answer.ok:
            problem = answer.json()
            raise UsageError(problem.get("detail") or problem["title"])
        return answer.json() if answer.content else None
