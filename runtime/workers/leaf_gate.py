"""The half of ingest that knows which leaves may come in, and how this device is called. It is no worker."""

from __future__ import annotations

from collections.abc import Collection

from loguru import logger

from runtime.adapters.process.clock import Clock
from runtime.config import Config
from runtime.core.ingest.new_names import LeafTerms, NewLeaves
from runtime.core.leaf import gateway_id
from runtime.core.timer import Timer
from runtime.errors import NeedsHuman, Retryable

LOOK_AT_IDENTITY_S = 10.0
"""A device gets another id once in a blue moon; a loop that is found so much later has done little harm."""


class LeafGate:
    """The terms on which the messages of leaves are taken, and the rate of leaves that no list names."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._clock = clock
        self._layout = config.layout
        self._new = NewLeaves()
        self._looking = Timer(LOOK_AT_IDENTITY_S)
        self._own_id: str | None = None
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Take the settings that count while ingest runs."""
        settings = config.settings.gateway
        self._settings = settings
        self._listed = frozenset(settings.leaves)
        self._is_gateway = bool(self._listed) or settings.auto

    def terms(self) -> LeafTerms:
        """The terms for the next commit."""
        settings = self._settings
        if not self._is_gateway:
            return LeafTerms(max_leaves=settings.max_leaves)
        now_s = self._clock.boot_s()
        if self._looking.restart_if_due(now_s):
            self._look_at_identity()
        return LeafTerms(
            self._listed, settings.auto, settings.max_leaves, self._new.allowed(now_s), self._own_id
        )

    def stored(self, met: Collection[str]) -> None:
        """A commit is on disk that holds these leaves for the first time."""
        self._new.met(len(set(met) - self._listed))

    def _look_at_identity(self) -> None:
        from runtime.adapters.identity.database import IdentityReader  # late: most devices are no gateways

        try:
            hub = IdentityReader(self._layout, busy_s=0.0).read().hub
        except (Retryable, NeedsHuman) as error:
            logger.debug("the own id is not known to the gateway now: {}", error)
            return
        if hub is not None:
            self._own_id = gateway_id(hub.device_id)
