"""upload is killed with packs on their way, at random moments and under changing settings.

The platform drops repeats by name. So each message is there once, in a pack or alone, as is the completion of
each batch, and the batch files are, byte for byte, those of single delivery. `UPLOAD_KILLS=200` in the
environment kills it that often.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.packing import unpack
from tests.support.harness import Arrived, Cloud, Home, eventually
from tests.support.upload import backlog, put, put_in_force, register

KILLS = int(os.environ.get("UPLOAD_KILLS", "5"))
SETTINGS = (
    'pack = "lines"\nfold_completion = true\n',
    'pack = "lines"\n',
    'pack = "lines"\npack_units = 1\nlinger_s = 0.2\n',
    'pack = "lines"\npack_units = 3\ncompression = "fastest"\nfold_completion = true\n',
    "",
)


@pytest.mark.timeout(120 + 6 * KILLS)
def test_no_kill_of_upload_loses_a_message_or_brings_one_twice(home: Home, cloud: Cloud) -> None:
    chance = random.Random(KILLS)
    cloud.faults(ack_delay_ms=30)

    def configure(settings: str) -> None:
        home.write_config(cloud.config_toml(upload="window = 4") + "[stream.s]\n" + settings)

    configure(SETTINGS[0])
    put_in_force(home.layout, register(cloud))
    home.start_worker("ingest")
    eventually(lambda: home.layout.messages_db.exists())
    stored, newest = dict[str, list[bytes]](), 0
    for kill in range(KILLS):
        newest = max((message.seq for message in cloud.messages(newest)), default=newest)
        upload = home.start_worker("upload")
        payloads = [b"%d:" % (kill * 120 + n) + b"." * chance.randrange(300) for n in range(120)]
        for at in range(0, len(payloads), 30):
            put(home, {"stream": "s", "batch_id": f"b{kill}"}, *payloads[at : at + 30])
        put(home, {"operation": "complete_batch", "stream": "s", "batch_id": f"b{kill}"})
        stored[f"s/b{kill}"] = payloads
        eventually(lambda after=newest: cloud.messages(after), 60)
        time.sleep(chance.random() * 0.08)
        upload.kill()
        configure(chance.choice(SETTINGS))
    configure(SETTINGS[0])
    home.start_worker("upload")
    eventually(lambda: backlog(home) == 0, 60)

    arrived = cloud.messages()
    times = Counter(id for name in {m.message_id: m for m in arrived}.values() for id in ids_of(name))
    assert max(times.values()) == 1, "a message came under two names"
    assert len(times) == KILLS * 121, "120 messages and the completion of each batch"
    assert cloud.batch_files() == {name: b"\n".join(payloads) for name, payloads in stored.items()}
    assert len(arrived) < len(times)
    assert any("complete-batch" in message.properties and message.payload for message in arrived)


def ids_of(message: Arrived) -> list[str]:
    if "#" not in message.message_id:
        return [message.message_id]
    telemetry = Telemetry(message.message_id, message.payload, tuple(message.properties.items()))
    return [one.mid for one in unpack(telemetry)]
