"""One law: what upload counts, by stream, is what the stand-in bills."""

from __future__ import annotations

from runtime.adapters.hub.usage_file import UsageFile
from runtime.core.delivery.unit_counts import MANAGEMENT, PROBES
from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import backlog, put, put_in_force, register

STREAMS = (
    '[stream.packed]\npack = "lines"\ncompression = "fastest"\n'
    "[stream.cut]\nchunk_bytes = 5000\n"
    '[stream.small]\ncompression = "smallest"\n'
)


def test_the_meter_of_the_stand_in_says_what_was_counted(home: Home, cloud: Cloud) -> None:
    home.write_config(cloud.config_toml() + STREAMS)
    put_in_force(home.layout, register(cloud))
    home.start_worker("ingest")
    eventually(lambda: home.layout.messages_db.exists())
    put(home, {"stream": "packed"}, *[b'{"n": %d, "state": "running"}' % n for n in range(300)])
    put(home, {"stream": "cut"}, b"x" * 23_000)
    put(home, {"stream": "small", "content_type": "text/plain"}, b"x" * 9_000, bytes(range(256)) * 40)
    put(home, {"stream": "plain", "properties": {"unit": "°C"}}, b"", b"x" * 4_060, b"x" * 4_090)
    upload = home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    assert upload.terminate() == 0
    usage = UsageFile(home.layout).load()
    by_stream = {name: one.day.units for name, one in usage.streams.items()}
    assert set(by_stream) == {"-/packed", "-/cut", "-/small", "-/plain"} and PROBES not in by_stream
    assert MANAGEMENT not in by_stream
    billed = cloud.call("GET", "/admin/metering")["units"]
    assert sum(by_stream.values()) == usage.day_units == usage.month_units == billed
    packed = usage.streams["-/packed"].day
    assert packed.messages == 300 and packed.units == packed.sends <= 3 and not packed.repeat_units
    assert packed.compressed is not None and packed.compressed > 0.5
