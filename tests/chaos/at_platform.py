"""Tokens that end, and a platform that answers badly or not at all. Seen where the platform answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.chaos.at_hub import connected, faults
from tests.chaos.plan import Fault
from tests.chaos.scene import Scene

REGISTER = "PUT /devices/register"
INIT = "POST /provisioning-operations/init"
REFRESH = "PUT /devices/registration-tokens/refresh"
HEALED_S = 120.0
"""Registered again, refused, provisioned again by a person, each with its pauses; under other blows."""
TIMES = 2
"""So often the platform answers badly."""
SHORT_SAS_S = 2.0
LONGER_THAN_PATIENCE_S = 5.0


def _registered_anew(scene: Scene) -> int:
    return scene.answered(REGISTER, "200")


def _sas_ends(scene: Scene) -> None:
    """The hub refuses the SAS from now on, so the device has to register."""
    scene.end_tokens("sas")


def _heals(scene: Scene, before: int) -> str:
    took_s = scene.until(lambda: _registered_anew(scene) > before, HEALED_S, "the device registered again")
    connected(scene)
    return f"registered again after {took_s:.1f} s"


def _answering(words: str, **fault_fields: Any) -> Callable[[Scene, Fault], str]:
    """The platform answers the next calls so, and the device has to call."""

    def way(scene: Scene, fault: Fault) -> str:
        before, healthy = scene.answered(REGISTER, words), _registered_anew(scene)
        with faults(scene, http={REGISTER: {**fault_fields, "times": TIMES}}):
            _sas_ends(scene)
            scene.until(
                lambda: scene.answered(REGISTER, words) >= before + TIMES, HEALED_S, f"answered {words}"
            )
        return f"{TIMES} calls were answered {words}; " + _heals(scene, healthy)

    return way


def _disabled(scene: Scene, fault: Fault) -> str:
    before, healthy = scene.answered(REGISTER, "423"), _registered_anew(scene)
    scene.cloud.call("POST", "/admin/workspace", {"enabled": False})
    try:
        _sas_ends(scene)
        scene.until(lambda: scene.answered(REGISTER, "423") > before, HEALED_S, "answered 423")
    finally:
        scene.cloud.call("POST", "/admin/workspace", {"enabled": True})
    return "a call was answered 423; " + _heals(scene, healthy)


def _registration_token(how: str) -> Callable[[Scene, Fault], str]:
    """No token of the device counts any more: a person has to approve it again."""

    def way(scene: Scene, fault: Fault) -> str:
        before, asked = scene.answered(REGISTER, "401"), scene.answered(INIT, "200")
        scene.end_tokens("registration-token", how)
        _sas_ends(scene)
        scene.until(lambda: scene.answered(REGISTER, "401") > before, HEALED_S, "a 401")
        scene.until(lambda: scene.answered(INIT, "200") > asked, HEALED_S, "it asked to be let in again")
        healthy = _registered_anew(scene)
        return "a call was answered 401, the device was approved again; " + _heals(scene, healthy)

    return way


def _provisioning_token(scene: Scene, fault: Fault) -> str:
    """The shared token is revoked too; a new one in its file is taken without a restart."""
    before, workspace = scene.answered(REFRESH, "401"), f"/workspaces/{scene.cloud.facts['workspace']}"
    tokens = scene.cloud.call("GET", f"{workspace}/provisioning-tokens")["provisioningTokens"]
    for token in tokens:
        if not token["isRevoked"]:
            scene.end_tokens("provisioning-token", provisioningTokenId=token["provisioningTokenId"])
    try:
        scene.end_tokens("registration-token")
        _sas_ends(scene)
        scene.until(
            lambda: scene.answered(REFRESH, "401") > before, HEALED_S, "a 401 for the provisioning token"
        )
    finally:
        fresh = scene.cloud.call("POST", f"{workspace}/provisioning-tokens/create", {})
        (scene.cloud.folder / "device-provisioning-token").write_text(fresh["provisioningToken"])
    healthy = _registered_anew(scene)
    return "refresh was answered 401 until a new token lay in its file; " + _heals(scene, healthy)


REFUSED = "code = 5"
"""CONNECTs that the hub did not authorize, whatever its reason: a revoked SAS may have expired meanwhile."""


def _sas_revoked(scene: Scene, fault: Fault) -> str:
    before, healthy = scene.connections(REFUSED), _registered_anew(scene)
    _sas_ends(scene)
    took_s = scene.until(lambda: scene.connections(REFUSED) > before, HEALED_S, "the hub refused the SAS")
    return f"refused by the hub after {took_s:.1f} s; " + _heals(scene, healthy)


def _sas_expired(scene: Scene, fault: Fault) -> str:
    """Short lives: the hub cuts a connection when its SAS expires."""
    ended = "end_reason = 'the SAS has expired'"
    before = scene.connections(ended)
    with faults(scene, sas_lifetime_s=SHORT_SAS_S):
        _sas_ends(scene)
        scene.until(lambda: scene.connections(ended) > before, HEALED_S, "the hub cut at the expiry")
    healthy = _registered_anew(scene)
    return "the hub cut the connection at the expiry; " + _heals(scene, healthy)


def _too_slow(scene: Scene, fault: Fault) -> str:
    before, healthy = scene.said("refresh", "timed out"), _registered_anew(scene)
    with faults(scene, http={REGISTER: {"delay_s": LONGER_THAN_PATIENCE_S}}):
        _sas_ends(scene)
        scene.until(lambda: scene.said("refresh", "timed out") > before, HEALED_S, "a call timed out")
    return "a call timed out; " + _heals(scene, healthy)


WAYS = {
    "503": _answering("503", status=503, retry_after=1),
    "429": _answering("429", status=429, retry_after=2),
    "423": _disabled,
    "platform cut off": _answering("cut", cut=True),
    "platform too slow": _too_slow,
    "registration token revoked": _registration_token("revoke"),
    "registration token expired": _registration_token("expire"),
    "provisioning token revoked": _provisioning_token,
    "sas revoked": _sas_revoked,
    "sas expired": _sas_expired,
}
