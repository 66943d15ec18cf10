"""A hub, a line to it, a disk and programs, for the tests of `twin_sync`: nothing happens by itself.

Rules are methods; `random_run` draws them, and so does the state machine. A wrong rule of the design has to
end in a failed assertion here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runtime.core.management.replies import AnswerProgram, Kept
from runtime.core.management.twin import ReportMode, merged
from runtime.core.management.twin_record import (
    AskTwin,
    DesiredPatch,
    ReportMade,
    SaveTwin,
    SendReported,
    TwinAction,
    TwinEvent,
    TwinLinkDown,
    TwinLinkUp,
    TwinRecord,
    TwinRefreshAsked,
    TwinResponse,
    TwinTick,
)
from runtime.core.management.twin_rules import same
from runtime.core.management.twin_sync import TwinLimits, TwinPhase, TwinSync, after, due_s

DAY_S = 86_400.0
LIMITS = TwinLimits(report_every_s=1.0, silence_s=30.0, refresh_s=DAY_S)
REFUSED_VALUE, ALTERED_VALUE = 13, 7
"""The hub answers 400 to the one in section `bad`, and takes the other as one more in section `alt`."""


@dataclass
class Half:
    document: dict[str, Any] = field(default_factory=dict)
    version: int = 1

    def body(self) -> dict[str, Any]:
        return copied({**self.document, "$version": self.version})

    def patch(self, patch: Any) -> None:
        self.document = merged(self.document, patch)
        self.version += 1


@dataclass
class Request:
    rid: str
    patch: Any = None
    """None: a GET."""
    life: int = 0
    """The process that asked."""


class Crash(Exception):
    """SIGKILL between two actions."""


class TwinWorld:
    """The worker keeps `sync` in memory and `disk` on disk; everything else is the world's."""

    def __init__(self, *, sibling_bug: bool = False, earlier: bool = False) -> None:
        self.now_s = 1000.0
        self.draw = 0.5
        self.sibling_bug = sibling_bug
        self.desired = Half()
        self.reported = Half({"old": {"a": 1}} if earlier else {})
        self.disk = TwinRecord()
        self.lives = 0
        self.connected = False
        self.asked_by: dict[int, int] = {}  # by answer the process that asked
        self.to_hub: list[Request] = []
        self.to_device: list[TwinEvent] = []
        self.model: dict[str, Any] = {}  # what programs were told is kept
        self.untold: ReportMade | None = None
        self.cut: int | None = None  # actions until a crash
        self.full_disk = False
        self.foreign = 0  # the version that another client wrote, while no answer since could say so
        self.missed = 0  # the version of a desired patch that was lost, while nothing since could say so
        self.sent_at_s = -1e9
        self.patches = 0
        self.last_seen = 0
        self.start()

    # -- the worker --

    def start(self) -> None:
        self.lives += 1
        self.sync = TwinSync(self.disk, f"life{self.lives}", LIMITS)
        self.outstanding = NOTHING
        self.last_seen = self.disk.desired_version or 0
        self.sent_at_s = -1e9

    def turn(self, *events: TwinEvent, grouped: bool = False) -> None:
        """Decide, then perform in order; `grouped` takes the commits of several events first."""
        sync, actions = self.sync, list[TwinAction]()
        for event in events:
            sync, more = after(sync, event, self.now_s, self.draw)
            actions += more
        if self.full_disk and any(isinstance(action, SaveTwin) for action in actions):
            self.missed = self.desired.version
            return  # the commit failed: the state from before stands
        self.sync = sync
        if grouped:
            actions.sort(key=lambda action: not isinstance(action, SaveTwin))
        try:
            for action in actions:
                self.count_down()
                self.perform(action)
        except Crash:
            self.crash()

    def count_down(self) -> None:
        if self.cut is not None:
            self.cut -= 1
            if self.cut < 0:
                raise Crash

    def perform(self, action: TwinAction) -> None:
        match action:
            case SaveTwin(record):
                assert record.change >= self.disk.change, "a number of a change was used again"
                if not self.disk.device_id and record.device_id:  # the first GET of a life
                    untouched = set(SECTIONS) - self.disk.touched
                    self.model |= {name: v for name, v in record.confirmed.items() if name in untouched}
                self.disk = record
            case AskTwin(rid):
                self.publish(Request(rid))
            case SendReported(rid, patch):
                assert patch, "an empty patch"
                check_removals(patch, self.sync.record.confirmed)
                assert self.now_s - self.sent_at_s >= LIMITS.report_every_s, "two patches within the interval"
                self.sent_at_s = self.now_s
                self.patches += 1
                self.publish(Request(rid, copied(patch)))
            case AnswerProgram(_, Kept()):
                assert self.untold is not None
                self.model = expected(self.model, self.untold.mode, self.untold.path, self.untold.value)
                self.untold = None
                for name in SECTIONS:
                    assert same(self.disk.wanted.get(name), self.model.get(name)), "kept, and not on disk"

    def publish(self, request: Request) -> None:
        """A GET may go out beside a PATCH, whose answer counts for nothing then; nothing else may overlap."""
        rid, is_get, since_s = self.outstanding
        over = rid == "" or self.now_s - since_s >= LIMITS.silence_s
        assert over or (request.patch is None and not is_get), "two requests in flight"
        self.outstanding = (request.rid, request.patch is None, self.now_s)
        request.life = self.lives
        if self.connected:
            self.to_hub.append(request)

    def crash(self) -> None:
        self.cut = None
        self.start()
        if self.connected:  # another process holds the connection, and says so again
            self.turn(TwinLinkUp("device"))

    # -- rules --

    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            self.turn(TwinLinkUp("device"))

    def drop(self, reached: int = 0) -> None:
        """The connection ends; the hub still works on the first `reached` requests; nothing comes back."""
        if self.connected:
            self.hub_works(reached)
            self.connected = False
            self.to_hub.clear()
            self.to_device.clear()
            self.outstanding = NOTHING
            self.turn(TwinLinkDown())

    def report(self, mode: ReportMode, path: tuple[str, ...], value: Any) -> None:
        """A program reports; one that was not answered says the same again first."""
        if self.untold is None:
            event = ReportMade("program", mode, path, value)
            self.untold = event
        self.turn(self.untold)

    def set_back(self, section: str) -> None:
        """A program reports again what the hub is known to have."""
        held = self.sync.record.confirmed.get(section)
        self.report(ReportMode.REMOVE if held is None else ReportMode.SET, (section,), held)

    def change_desired(self, patch: Any) -> None:
        self.desired.patch(patch)
        if self.connected:
            self.to_device.append(DesiredPatch(self.desired.version, copied(patch)))

    def lose_patch(self) -> None:
        """A desired patch is lost on the way."""
        for event in self.to_device:
            if isinstance(event, DesiredPatch):
                self.to_device.remove(event)
                self.missed = max(self.missed, event.version)
                return

    def hub_works(self, count: int = 1, outcome: str = "ok", *, mute: bool = False) -> None:
        for request in self.to_hub[:count]:
            response = self.answer(request, outcome)
            if not mute:
                self.to_device.append(response)
                self.asked_by[id(response)] = request.life
        del self.to_hub[:count]

    def lose_answers(self) -> None:
        """The hub does what it is asked, its answer is lost, and time passes."""
        self.hub_works(len(self.to_hub), mute=True)
        self.pass_time(LIMITS.silence_s)

    def overtake(self, patch: Any) -> None:
        """A desired patch comes before the answer to a GET that says less."""
        self.hub_works(len(self.to_hub))
        self.change_desired(patch)
        self.deliver(len(self.to_device), late=True)

    def skip(self, lost: Any, patch: Any) -> None:
        """A desired patch is lost, and the next one comes."""
        self.deliver(len(self.to_device))
        self.change_desired(lost)
        self.lose_patch()
        self.change_desired(patch)
        self.deliver(len(self.to_device))

    def compete(self, foreign: str, section: str) -> None:
        """Another client writes, and then a program of ours reports."""
        self.write_elsewhere({foreign: {"x": 9}})
        self.report(ReportMode.SET, (section, "y"), self.patches + 20)
        self.pass_time(LIMITS.report_every_s)
        self.hub_works(len(self.to_hub))
        self.deliver(len(self.to_device))

    def restart_while_asking(self, foreign: str) -> None:
        """The answer to a GET is on its way, another client writes, and the worker is killed."""
        self.drop()
        self.connect()
        self.hub_works(len(self.to_hub))
        self.write_elsewhere({foreign: {"x": 9}})
        self.crash()

    def undo(self, section: str) -> None:
        """A program reports, the hub's answer is lost, and the program sets it back."""
        held = self.sync.record.confirmed.get(section)
        self.report(ReportMode.SET, (section,), {"x": self.patches + 20})
        self.pass_time(LIMITS.report_every_s)
        self.lose_answers()
        self.report(ReportMode.REMOVE if held is None else ReportMode.SET, (section,), held)

    def answer(self, request: Request, outcome: str) -> TwinResponse:
        if outcome in ("429", "403", "500"):
            return TwinResponse(request.rid, int(outcome))
        if request.patch is None:
            body = {"desired": self.desired.body(), "reported": self.reported.body()}
            return TwinResponse(request.rid, 200, body if outcome == "ok" else "nonsense")
        if REFUSED_VALUE in (request.patch.get("bad") or {}).values():
            return TwinResponse(request.rid, 400, reason="unlucky")
        self.reported.patch(self.spoilt(altered(request.patch)))
        if outcome == "500 after all":
            return TwinResponse(request.rid, 500)
        return TwinResponse(request.rid, 204, version=self.reported.version)

    def spoilt(self, patch: Any) -> Any:
        """With the sibling bug a null for a name that is not there removes the others of that section."""
        for name, inner in patch.items() if self.sibling_bug else ():
            held = self.reported.document.get(name)
            if not isinstance(inner, dict) or not isinstance(held, dict):
                continue
            if any(value is None and key not in held for key, value in inner.items()):
                return {**patch, name: {**dict.fromkeys(held), **inner}}
        return patch

    def deliver(self, count: int = 1, *, late: bool = False, grouped: bool = False) -> None:
        """The first events reach the worker; `late` puts answers behind the patches that came meanwhile."""
        if late:
            self.to_device.sort(key=lambda event: isinstance(event, TwinResponse))
        events = self.to_device[:count]
        del self.to_device[:count]
        for event in events:
            own = self.asked_by.pop(id(event), 0) == self.lives
            if isinstance(event, TwinResponse) and own and event.rid == self.outstanding[0]:
                self.outstanding = NOTHING
                self.learn(event)
            elif isinstance(event, DesiredPatch) and event.version > self.missed and not self.full_disk:
                self.missed = 0
        if events and grouped:
            self.turn(*events, grouped=True)
        else:
            for event in events:
                self.turn(event)
        self.look()

    def learn(self, answer: TwinResponse) -> None:
        """An answer says so much of what was missed, unless its commit fails."""
        body = answer.body if isinstance(answer.body, dict) else {}
        desired = body.get("desired", {}).get("$version", 0)
        reported = body.get("reported", {}).get("$version", answer.version or 0)
        if not self.full_disk:
            self.missed = 0 if desired >= self.missed else self.missed
            self.foreign = 0 if reported >= self.foreign else self.foreign

    def look(self) -> None:
        """A program looks at desired: never older than before, within one life of the device."""
        version = self.sync.record.desired_version or 0
        if version < self.last_seen:
            assert self.desired.version <= version or self.recreated, "desired went back"
        self.last_seen = version

    recreated = False

    def recreate(self) -> None:
        """The device is deleted and created again, which ends its connection."""
        self.drop()
        self.recreated = True
        self.desired, self.reported = Half(), Half()
        self.foreign = self.missed = 0

    def write_elsewhere(self, patch: Any) -> None:
        """Another client of the same device reports, too."""
        self.reported.patch(patch)
        self.foreign = self.reported.version

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.turn(TwinTick())

    def refresh(self) -> None:
        self.turn(TwinRefreshAsked())

    # -- the end --

    def settle(self) -> None:
        """All is well now: are both sides equal? Again after reconnecting, and after a day."""
        self.cut, self.full_disk = None, False
        if self.untold is not None:
            self.turn(self.untold)
        self.connect()
        self.quiet()
        self.check(reported=not self.foreign, desired=not self.missed)
        for _ in range(2):
            self.drop()
            self.connect()
            self.quiet()
            self.check(reported=True, desired=True)
        self.pass_time(1.3 * DAY_S)
        self.quiet()
        self.check(reported=True, desired=True)

    def quiet(self) -> None:
        for _ in range(200):
            if self.to_hub or self.to_device:
                self.hub_works(len(self.to_hub))
                self.deliver(len(self.to_device))
            elif due_s(self.sync) - self.now_s > DAY_S / 2:
                return
            else:
                self.pass_time(max(0.0, due_s(self.sync) - self.now_s))
        raise AssertionError("no end: it asks or sends for ever")

    def check(self, *, reported: bool, desired: bool) -> None:
        record = self.disk
        assert self.sync.record == record, "what is in memory is not on disk"
        assert self.sync.phase is TwinPhase.LEVEL
        if desired:
            assert same(record.desired, self.desired.document), "desired differs"
            assert record.desired_version == self.desired.version
        for name in SECTIONS:
            assert same(record.wanted.get(name), self.model.get(name))
        withheld = record.withheld()
        assert withheld <= {"bad", "alt"}, f"an innocent section is withheld: {withheld}"
        if reported:
            for name in {*record.wanted, *self.reported.document} - withheld - {"alt"}:
                assert same(record.wanted.get(name), self.reported.document.get(name)), f"{name} differs"


SECTIONS = ("a", "b", "bad", "alt")
NOTHING = ("", False, 0.0)
"""Nothing is in flight: (request id, is it a GET, since when)."""


def copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


def altered(patch: Any) -> Any:
    section = patch.get("alt")
    if isinstance(section, dict):
        inner = {name: value + 1 if value == ALTERED_VALUE else value for name, value in section.items()}
        return {**patch, "alt": inner}
    return patch


def expected(model: dict[str, Any], mode: ReportMode, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """What the programs' document is afterwards, in the plainest words; sections are objects or absent."""
    model = copied(model)
    section, *inner = path
    if mode is ReportMode.REMOVE:
        (model if not inner else model.get(section, {})).pop(path[-1], None)
    elif mode is ReportMode.SET:
        (model if not inner else model.setdefault(section, {}))[path[-1]] = value
    else:
        held = model.setdefault(section, {})
        for name, part in value.items():
            held.pop(name, None)
            if part is not None:
                held[name] = part
    return model


def check_removals(patch: Any, held: Any) -> None:
    for name, value in patch.items():
        there = isinstance(held, dict) and name in held
        assert value is not None or there, f"a null for {name}, which is not there"
        if isinstance(value, dict):
            check_removals(value, held.get(name) if there else None)


# -- chance --


def draw_report(rng: random.Random) -> tuple[ReportMode, tuple[str, ...], Any]:
    section = rng.choice(SECTIONS)
    value = rng.choice([1, 2, ALTERED_VALUE, REFUSED_VALUE])
    name = rng.choice("xyz")
    return rng.choice(
        [
            (ReportMode.SET, (section, name), value),
            (ReportMode.SET, (section,), {name: value}),
            (ReportMode.PATCH, (section,), {name: value, rng.choice("xyz"): None}),
            (ReportMode.REMOVE, (section, name), None),
            (ReportMode.REMOVE, (section,), None),
        ]
    )


def draw_patch(rng: random.Random) -> dict[str, Any]:
    inner = {rng.choice("xyz"): rng.choice([None, 1, 2])}
    return {rng.choice("ab"): rng.choice([None, inner, inner, inner, 5])}


OUTCOMES = ("ok", "ok", "ok", "ok", "429", "403", "500", "500 after all", "garbled")
RULES: list[Callable[[TwinWorld, random.Random], None]] = [
    *[lambda world, rng: world.report(*draw_report(rng))] * 5,
    *[lambda world, rng: world.hub_works(rng.randint(1, 3), rng.choice(OUTCOMES))] * 3,
    *[lambda world, rng: world.deliver(rng.randint(1, 3), grouped=rng.random() < 0.3)] * 4,
    *[lambda world, rng: world.connect()] * 2,
    *[lambda world, rng: world.pass_time(rng.choice([0.3, 1.0, 1.0, 5.0, 31.0, 700.0]))] * 3,
    lambda world, rng: world.deliver(rng.randint(1, 3), late=True),
    lambda world, rng: world.hub_works(1, mute=True),
    lambda world, rng: world.change_desired(draw_patch(rng)),
    lambda world, rng: world.change_desired(draw_patch(rng)),
    lambda world, rng: world.set_back(rng.choice("ab")),
    lambda world, rng: world.set_back(rng.choice("ab")),
    lambda world, rng: world.lose_patch(),
    lambda world, rng: world.lose_answers(),
    *[lambda world, rng: world.overtake(draw_patch(rng))] * 2,
    *[lambda world, rng: world.skip(draw_patch(rng), draw_patch(rng))] * 2,
    lambda world, rng: world.compete(rng.choice("ab"), rng.choice("ab")),
    lambda world, rng: world.restart_while_asking(rng.choice("ab")),
    *[lambda world, rng: world.undo(rng.choice("ab"))] * 3,
    lambda world, rng: world.drop(rng.randint(0, 2)),
    lambda world, rng: setattr(world, "cut", rng.randint(0, 3)),
    lambda world, rng: world.crash(),
    lambda world, rng: setattr(world, "full_disk", rng.random() < 0.3),
    lambda world, rng: world.refresh(),
    lambda world, rng: world.write_elsewhere({rng.choice("ab"): {rng.choice("xyz"): rng.choice([None, 9])}}),
    lambda world, rng: world.recreate() if rng.random() < 0.3 else None,
]


def random_run(seed: int) -> None:
    """One life drawn from `seed`, ended by `settle`. Raises AssertionError where a promise is broken."""
    rng = random.Random(seed)
    world = TwinWorld(sibling_bug=seed % 2 == 1, earlier=seed % 3 == 0)
    for _ in range(rng.randint(4, 50)):
        world.draw = rng.random()
        rng.choice(RULES)(world, rng)
    world.settle()
