"""A wrong setting is one sentence that names key, value and rule; a right one says where it came from."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.config import load
from runtime.core.address import Address, IpcEndpoint, TcpEndpoint
from runtime.core.delivery.envelope import Compression
from runtime.core.delivery.link_budget import TimeWindow
from runtime.core.delivery.read_planner import DrainOrder
from runtime.core.identity.registration_route import IdentityMode
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy
from runtime.core.message import StreamName
from runtime.core.secret import Secret
from runtime.errors import ConfigError
from runtime.producer_config import load_as_producer
from runtime.setting_rule import Key, keys_of, spelled
from runtime.settings import StreamSettings, keys
from runtime.workers.store_manager import MAX_INT
from runtime.workers.store_manager import quota as storekeeper_quota


def written(folder: Path, text: str) -> Path:
    (folder / "edge.toml").write_text(text)
    return folder


def test_defaults_need_no_file(tmp_path: Path) -> None:
    config = load({}, home=tmp_path)
    assert config.settings.ingest.commit_messages == 500
    assert {origin.source for origin in config.origins.values()} == {"default"}


def test_environment_wins_over_the_file_and_says_so(tmp_path: Path) -> None:
    home = written(tmp_path, "[upload]\nwindow = 7\nretry_max_s = 3\n")
    config = load({"EDGE_UPLOAD_WINDOW": "9"}, home=home)
    assert (config.settings.upload.window, config.settings.upload.retry_max_s) == (9, 3.0)
    assert config.origins["upload.window"].source == "EDGE_UPLOAD_WINDOW"
    assert config.origins["upload.retry_max_s"].source.endswith("edge.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[upload]\nwindo = 7", ["unknown key upload.windo", "did you mean upload.window"]),
        ("[uplod]\nwindow = 7", ["unknown table uplod", "did you mean upload?"]),
        ("[uplod]\n", ["unknown table uplod", "did you mean upload"]),
        ("window = 7", ["window stands outside a table"]),
        ('[upload]\nwindow = "many"', ["upload.window = 'many'", "not a whole number"]),
        ("[upload]\nwindow = true", ["upload.window = True", "not a whole number"]),
        ("[upload]\nwindow = -1", ["upload.window = -1", "at least 0"]),
        ('[device]\nid = "a b"', ["device.id = 'a b'", "4 to 90"]),
        ('[log]\nlevel = "LOUD"', ["log.level = 'LOUD'", "one of DEBUG, INFO"]),
        ("[upload\nwindow = 1", ["not valid TOML"]),
        ("stream = 3", ["stream is not a table"]),
        ("[stream.logs]\ncompression = 'zip'", ["stream.logs.compression = 'zip'", "one of none"]),
        ("[stream.logs]\ncompresion = 'fastest'", ["unknown key stream.logs.compresion", "did you mean"]),
        ("[refresh]\nfraction = nan", ["refresh.fraction = nan", "not a number"]),
        ("[upload]\nbatch_s = inf", ["upload.batch_s = inf", "not a number"]),
        ("[ingest]\nmax_message_bytes = 9999999999", ["at most 900,000,000"]),
        ("[ingest]\nmax_message_bytes = 1_000_000_000", ["at most 900,000,000"]),  # SQLite's largest row
        ("[ingest]\nmemory_bytes = 100_000_000_000_000_000_000", ["at most 9,007,199,254,740,992"]),
        ("[ingest]\nmemory_bytes = 1e20", ["not a whole number"]),
        (f"[ingest]\nmemory_bytes = {'9' * 5000}", ["not valid TOML"]),
        (f"[upload]\nbatch_s = {'9' * 4000}", ["not a number"]),
        (f"[upload]\nwindow = {'[' * 5000}", ["not valid TOML"]),
        ("[ingest]\nmemory_bytes = 2_000_000", ["ingest.memory_bytes must be at least four times"]),
        ('[ingest]\ncurve_secret_file = "x"', ["curve_secret_file needs ingest.curve_clients"]),
        (
            '[ingest]\ntcp_endpoint = "tcp://0.0.0.0:5555"',
            ["can be reached from outside", "curve_secret_file"],
        ),
        ('[ingest]\nendpoint = "tcp://*:5555"', ["can be reached from outside"]),
        ('[ingest]\nendpoint = "tcp://127.0.0.1"', ["ingest.endpoint", "with a port from 1 to 65535"]),
        ('[ingest]\ntcp_endpoint = "tcp://127.0.0.1:99999"', ["with a port from 1 to 65535"]),
        ('[ingest]\ntcp_endpoint = "tcp://::1:5555"', ["an IPv6 address stands in [brackets]"]),
        ('[ingest]\nendpoint = "ipc://@edge"', ["must be ipc://PATH"]),
        ('[platform]\nproxy = "http://proxy:80800"', ["platform.proxy = ***", "host:port"]),
        ('[platform]\nproxy = "http://proxy:0"', ["platform.proxy = ***", "host:port"]),
        ('[upload]\nproxy = "http://a..b:80"', ["upload.proxy = ***", "host:port"]),
        ('[platform]\ninstance = "edge.example:84430"', ["platform.instance", "host or host:port"]),
        ('[platform]\ninstance = "::1"', ["an IPv6 address stands in [brackets]"]),
        ('[platform]\ninstance = "user@edge.example"', ["host or host:port"]),
        ('[platform]\ninstance = "a..b"', ["host or host:port"]),
        ('[identity]\ndps_host = "dps.example:443"', ["without a port"]),
        ('[upload]\nsite_id = "a\\nb"', ["1 to 128 printable characters"]),
        ('[platform]\nca_file = "~nobody-of-that-name/ca.pem"', ["platform.ca_file", "not a path"]),
        ('[platform]\nca_file = "a\\u0000b"', ["platform.ca_file", "not a path"]),
        ('[platform]\ninstance = "https://x/y"', ["platform.instance", "without https://"]),
        ('[platform]\ninstance = "https://u:pw@x/"', ["= 'https://***@x/'", "without https://"]),
        ('[identity]\nmode = "by-hand"', ["identity.mode = 'by-hand'", "one of platform, mtls, connection"]),
        ('[stream.a]\n[stream."/a"]\n', ["stream./a is the stream 'a' once more"]),
        ('[store]\npolicy = "drop-newest"', ["store.policy = 'drop-newest'", "one of reject, drop-oldest"]),
        ('[link]\nhours = ["25:00-26:00"]', ["link.hours = ['25:00-26:00']", "must read HH:MM-HH:MM"]),
        ("[link]\nhours = [22]", ["link.hours = [22] is not a list of texts"]),
        (
            '[identity]\nconnection_string = "HostName=h"',
            ["identity.connection_string = ***: the connection string has no DeviceId"],
        ),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(tmp_path: Path, text: str, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, home=written(tmp_path, text))
    sentence = str(caught.value)
    assert all(part in sentence for part in says), sentence
    assert "\n" not in sentence.replace(text, "")
    assert sentence.count(str(tmp_path / "edge.toml")) == 1, "one sentence, with its place"


def test_a_variable_that_is_no_setting_is_a_warning_and_nothing_else(tmp_path: Path) -> None:
    """Kubernetes names each Service of the namespace in every container: one called edge ended everything."""
    services = {"EDGE_PORT": "tcp://10.0.0.1:443", "EDGE_SERVICE_HOST": "10.0.0.1", "EDGE_PORT_443_TCP": "x"}
    config = load({**services, "EDGE_UPLOAD_WINDO": "9", "EDGE_CONFG": "edge.toml"}, home=tmp_path)
    (warning,) = config.warnings
    assert all(name in warning for name in services)
    assert "EDGE_UPLOAD_WINDO; did you mean EDGE_UPLOAD_WINDOW?" in warning
    assert "EDGE_CONFG; did you mean EDGE_CONFIG?" in warning
    assert load({"EDGE_UPLOAD_WINDOW": "9"}, home=tmp_path).warnings == ()
    of_a_service = load({"EDGE_UPLOAD_HTTPS_PORT": "tcp://10.0.0.1:8443"}, home=tmp_path)
    assert of_a_service.settings.upload.https_port == 443
    assert "EDGE_UPLOAD_HTTPS_PORT" in of_a_service.warnings[0]


def test_an_empty_variable_takes_no_value_away(tmp_path: Path) -> None:
    """An authority that was pinned in the file was gone: every one of the machine's was trusted."""
    home = written(tmp_path, '[platform]\nca_file = "ca.pem"\n[upload]\nwindow = 7\n')
    empty = {key.variable: "" for key in keys()} | {"EDGE_HOME": "", "EDGE_CONFIG": "", "EDGE_PORT": ""}
    config = load(empty, home=home)
    assert config.settings == load({}, home=home).settings
    assert config.settings.platform.ca_file == home / "ca.pem"
    assert config.warnings == ()
    assert str(load_as_producer(empty, home=home).endpoint) == f"ipc://{home}/ingest.sock"


@pytest.mark.parametrize(
    "text", ["edge.example", "edge.example:8443", "[::1]", "[::1]:8443", "127.0.0.1:1", "bücher.example"]
)
def test_an_instance_that_can_be_called_is_taken(tmp_path: Path, text: str) -> None:
    instance = load({}, home=written(tmp_path, f'[platform]\ninstance = "{text}"')).settings.platform.instance
    assert isinstance(instance, Address) and str(instance) == text


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("EDGE_IDENTITY_CERTIFICATE_FILE", "not a path"),
        ("EDGE_UPLOAD_SITE_ID", "not text"),
        ("EDGE_PLATFORM_PROVISIONING_TOKEN", "not text"),
    ],
)
def test_a_value_that_no_database_can_hold_is_refused_before_a_worker_ends_over_it(
    tmp_path: Path, variable: str, says: str
) -> None:
    """A name with other bytes than UTF-8, as of a certificate's file."""
    with pytest.raises(ConfigError, match=says):
        load({variable: b"/etc/caf\xe9.pem".decode(errors="surrogateescape")}, home=tmp_path)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_bytes(b"\xef\xbb\xbf[upload]\nwindow = 7\n")
    assert load({}, home=tmp_path).settings.upload.window == 7


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load({}, home=tmp_path, file=tmp_path / "nowhere.toml")


def test_a_folder_in_the_place_of_the_file_is_not_taken_for_no_file_at_all(tmp_path: Path) -> None:
    """A container engine makes one where the file to mount is missing: nobody noticed the defaults."""
    (tmp_path / "edge.toml").mkdir()
    with pytest.raises(ConfigError, match=r"edge\.toml: cannot be read: Is a directory"):
        load({}, home=tmp_path)


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    """Every worker, and every command, hung at its start."""
    os.mkfifo(tmp_path / "edge.toml")
    with pytest.raises(ConfigError, match=r"edge\.toml: cannot be read: not a regular file"):
        load({}, home=tmp_path)


def test_a_home_that_the_file_system_cannot_name_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        load({}, home=tmp_path / ("x" * 300))


def test_a_relative_path_hangs_on_the_file_that_names_it(tmp_path: Path) -> None:
    home = written(tmp_path, '[platform]\nca_file = "ca.pem"\n')
    assert load({}, home=home).settings.platform.ca_file == tmp_path / "ca.pem"


def test_a_secret_is_not_shown_even_where_it_is_wrong(tmp_path: Path) -> None:
    config = load({"EDGE_PLATFORM_PROVISIONING_TOKEN": "hush-hush"}, home=tmp_path)
    assert config.settings.platform.provisioning_token == Secret("hush-hush")
    assert "hush" not in repr(config)
    with pytest.raises(ConfigError) as caught:
        load({}, home=written(tmp_path, "[platform]\nprovisioning_token = 12345\n"))
    assert "12345" not in str(caught.value)


def test_streams_have_settings_by_group_and_name_or_by_name(tmp_path: Path) -> None:
    home = written(
        tmp_path,
        '[stream.logs]\ncompression = "fastest"\n[stream."plant/logs"]\ncompression = "smallest"\n',
    )
    settings = load({}, home=home).settings
    assert settings.of_stream(StreamName(None, "logs")).compression is Compression.FASTEST
    assert settings.of_stream(StreamName("plant", "logs")).compression is Compression.SMALLEST
    assert settings.of_stream(StreamName("plant", "other")).compression is Compression.NONE
    assert settings.of_stream(StreamName(None, None)).compression is Compression.NONE


def test_every_setting_has_a_meaning_and_a_default_that_keeps_its_own_rule() -> None:
    for key in keys():
        assert len(key.doc) > 10, key.dotted
        if key.default is not None:
            assert key.parse(spelled(key.default), Path()) == key.default, key.dotted


def test_the_limits_of_a_stream_stand_in_its_table_and_nowhere_else(tmp_path: Path) -> None:
    home = written(
        tmp_path,
        '[stream.a]\nmax_messages = 3\npolicy = "drop-oldest"\n[stream."g/b"]\ncompression = "fastest"\n',
    )
    quota = storekeeper_quota(load({}, home=home))
    assert quota.of(StreamName(None, "a")) == Limit(Amount(3, MAX_INT), OverflowPolicy.DROP_OLDEST)
    assert quota.of(StreamName("g", "a")) is None
    assert quota.of(StreamName("g", "b")) is None


def test_a_producer_starts_whatever_else_is_wrong_with_the_configuration(tmp_path: Path) -> None:
    home = written(
        tmp_path, '[upload]\nwindo = 7\n[ingest]\nendpoint = "ipc:///run/elsewhere.sock"\ngrup = "x"\n'
    )
    of_the_application = {"EDGE_OF_TABLE": "3 cm", "EDGE_UPLOAD_WINDOW": "many"}
    config = load_as_producer(of_the_application, home=home)
    assert str(config.endpoint) == "ipc:///run/elsewhere.sock"
    config = load_as_producer({"EDGE_INGEST_ENDPOINT": "ipc:///run/here.sock"}, home=home)
    assert str(config.endpoint) == "ipc:///run/here.sock"


@pytest.mark.parametrize("text", ["[ingest\nendpoint = ", "ingest = 3\n"])
def test_a_file_that_is_no_toml_leaves_a_producer_the_socket_in_the_home(tmp_path: Path, text: str) -> None:
    home = written(tmp_path, text)
    assert str(load_as_producer({}, home=home).endpoint) == f"ipc://{home}/ingest.sock"


def test_a_producer_is_told_what_is_wrong_with_its_endpoint_or_the_file_it_asked_for(tmp_path: Path) -> None:
    home = written(tmp_path, '[ingest]\nendpoint = "udp://x"\n')
    with pytest.raises(ConfigError, match="must be ipc://PATH or tcp://ADDRESS:PORT"):
        load_as_producer({}, home=home)
    written(tmp_path, "[ingest")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_as_producer({"EDGE_CONFIG": str(home / "edge.toml")}, home=home)


def test_a_producer_connects_to_an_endpoint_that_is_open_to_the_network(tmp_path: Path) -> None:
    """What guards it (CURVE) is ingest's, and none of the settings that a producer reads."""
    home = written(
        tmp_path,
        '[ingest]\nendpoint = "tcp://192.0.2.1:5555"\ncurve_secret_file = "k"\ncurve_clients = "c"\n'
        "max_message_bytes = 7\n",
    )
    config = load_as_producer({}, home=home)
    assert (config.endpoint, config.max_message_bytes) == (TcpEndpoint("192.0.2.1", 5555), 7)
    assert config.endpoint == load({}, home=home).endpoint()


def test_the_values_that_the_runtime_gets_are_parsed(tmp_path: Path) -> None:
    """Nothing below the configuration parses a setting again."""
    home = written(
        tmp_path,
        """
        [platform]
        instance = "edge.example:8443"
        proxy = "socks5h://me:p%20w@proxy.example:1080/"
        [identity]
        mode = "dps"
        dps_host = "[::1]"
        connection_string = "HostName=hub.example;DeviceId=dev-1;x509=true"
        [ingest]
        endpoint = "ipc:///run/in.sock"
        tcp_endpoint = "tcp://[::1]:5555"
        [store]
        policy = "drop-oldest"
        [link]
        hours = ["22:00-06:00"]
        [stream.a]
        drain = "fresh-first"
        """,
    )
    settings = load({}, home=home).settings
    proxy, known = settings.platform.proxy, settings.identity.connection_string
    assert proxy is not None and proxy.password is not None and known is not None
    assert (proxy.kind, proxy.host, proxy.port, proxy.password.reveal()) == (
        "socks5",
        "proxy.example",
        1080,
        "p w",
    )
    assert settings.platform.instance == Address("edge.example", 8443)
    assert (settings.identity.mode, settings.identity.dps_host) == (IdentityMode.DPS, "::1")
    assert (known.hub_host, known.device_id, known.x509) == ("hub.example", "dev-1", True)
    assert settings.ingest.endpoint == IpcEndpoint("/run/in.sock")
    assert settings.ingest.tcp_endpoint == TcpEndpoint("::1", 5555)
    assert str(settings.ingest.tcp_endpoint) == "tcp://[::1]:5555"
    assert settings.store.policy is OverflowPolicy.DROP_OLDEST
    assert settings.link.hours == (TimeWindow(22 * 60, 6 * 60),)
    assert settings.of_stream(StreamName(None, "a")).drain is DrainOrder.FRESH_FIRST
    assert "p w" not in repr(settings) and "p%20w" not in repr(settings)


def test_every_fault_is_named_and_each_with_its_place(tmp_path: Path) -> None:
    home = written(tmp_path, '[upload]\n# window\nwindow = -1\n\n[platform]\nproxy = "http://me:secret@"\n')
    with pytest.raises(ConfigError) as caught:
        load({"EDGE_LOG_LEVEL": "loud"}, home=home)
    first, second, third = str(caught.value).split("; ")
    assert first == f"{home}/edge.toml:3: upload.window = -1 must be at least 0"
    assert second.startswith(f"{home}/edge.toml:6: platform.proxy = *** must be http://")
    assert third == "EDGE_LOG_LEVEL: log.level = 'loud' must be one of DEBUG, INFO, WARNING, ERROR"
    assert "secret" not in str(caught.value)


def test_a_file_full_of_faults_is_no_page_of_them(tmp_path: Path) -> None:
    home = written(tmp_path, "[upload]\n" + "".join(f"odd_{number} = 1\n" for number in range(30)))
    with pytest.raises(ConfigError, match=r"; and 20 more$") as caught:
        load({}, home=home)
    assert str(caught.value).count("unknown key") == 10


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('device.id = "x"\nupload = { files = 3, window = -1 }\n', 2),
        ('[upload]\nsite_id = """\nwindow = 3\n"""\n"window" = -1\n', 5),
        ("[upload]\nfiles = 2\n\n[stream.logs]\nchunk_bytes = -1\n", 5),
        ('[stream."g/logs"]\nchunk_bytes = 1\n[stream.b]\nchunk_bytes = -1\n', 4),
    ],
)
def test_a_fault_is_found_in_its_line_however_the_key_is_written(
    tmp_path: Path, text: str, line: int
) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, home=written(tmp_path, text))
    assert f"edge.toml:{line}: " in str(caught.value).split("; ")[-1], str(caught.value)


def test_a_contradiction_names_both_sources(tmp_path: Path) -> None:
    home = written(tmp_path, "[ingest]\nmemory_bytes = 2_000_000\n")
    with pytest.raises(ConfigError) as caught:
        load({"EDGE_INGEST_MAX_REQUEST_BYTES": "1000000"}, home=home)
    assert str(caught.value).startswith(f"{home}/edge.toml and EDGE_INGEST_MAX_REQUEST_BYTES: ")
    assert "2,000,000 is less than four times 1,000,000" in str(caught.value)


def test_the_argument_or_variable_that_names_no_file_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone.toml"
    with pytest.raises(ConfigError, match=rf"^--config: configuration file {gone} does not exist$"):
        load({}, home=tmp_path, file=gone)
    with pytest.raises(ConfigError, match=rf"^EDGE_CONFIG: configuration file {gone} does not exist$"):
        load({"EDGE_CONFIG": str(gone)}, home=tmp_path)


def test_of_a_streams_settings_ingest_reads_its_limits_alone() -> None:
    """A new one that upload reads had `edgectl reload` restart ingest, and upload went on without it."""
    of_ingest = {key.name for key in keys_of("stream.s", StreamSettings) if "ingest" in key.readers.restart}
    assert of_ingest == {"max_messages", "max_bytes", "policy"}


def test_about_sixty_settings_are_a_users() -> None:
    every = [*keys(), *keys_of("stream.NAME", StreamSettings)]
    always = [key for key in every if key.table != "management"]  # which is off unless it is wanted
    assert 50 <= sum(not key.advanced for key in always) <= 84, "who has to read about the new one?"
    for key in every:
        assert not (key.advanced and key.default is None), f"{key.dotted}: what has no default is a user's"


CANARY = "canary-of-a-secret"
ODD: list[Any] = [
    *(True, -(10**30), 10**400, 1e300, float("nan"), [3], [CANARY], {"a": CANARY}, datetime.date(2026, 1, 2)),
    *(
        CANARY,
        f"{CANARY}\n{CANARY}",
        f"https://{CANARY}@x y/",
        "\0",
        "\udcff",
        "-",
        "x" * 5_000,
        "1.5e3",
        "é",
    ),
]
"""Values that TOML and the environment can bring, most of which suit no setting."""


@pytest.mark.parametrize(
    "key", [*keys(), *keys_of("stream.NAME", StreamSettings)], ids=lambda key: str(key.dotted)
)
def test_whatever_stands_there_a_setting_is_a_value_or_one_sentence_without_a_secret(key: Key) -> None:
    """An error of another kind, from a parser, ended every worker in a traceback."""
    refused = 0
    for odd in [*ODD, *(key.from_text(odd) for odd in ODD if isinstance(odd, str))]:
        try:
            key.parse(odd, Path("/"))
        except ValueError as exc:
            refused += 1
            sentence = f"{key.dotted} = {key.shown(odd)} {exc}"
            assert "\n" not in sentence and len(sentence) < 500, sentence
            assert not key.secret or CANARY not in sentence, sentence
    assert refused


def test_a_program_of_management_has_a_table_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(
        "[management]\nenabled = true\n"
        '[management.program.press]\nuser = "press"\nreport = ["/press", "/a~1b"]\n'
    )
    settings = load({}, home=tmp_path).settings
    assert settings.management.enabled and [*settings.program] == ["press"]
    press = settings.program["press"]
    assert [pointer.path for pointer in press.report] == [("press",), ("a/b",)]
    assert [pointer.path for pointer in press.desired] == [()]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('report = ["press"]', "must be a list of JSON pointers"),
        ("colour = 3", r"unknown key management\.program\.press\.colour"),
    ],
)
def test_a_mistake_in_a_programs_table_is_named(line: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(f"[management.program.press]\n{line}\n")
    with pytest.raises(ConfigError, match=sentence):
        load({}, home=tmp_path)


def test_settings_that_only_look_as_if_they_saved_are_warned_of(tmp_path: Path) -> None:
    """A file costs three units, and the properties of a chunk of 4,096 bytes begin a second one."""
    home = written(tmp_path, "[upload]\nfile_from_units = 2\n[stream.a]\nchunk_bytes = 4096\n")
    of_files, of_chunks = load({}, home=home).warnings
    assert "file_from_units = 2" in of_files and "from 4 on" in of_files
    assert "a.chunk_bytes = 4096 costs 2 x 4 KiB" in of_chunks and "with 3584" in of_chunks
    home = written(tmp_path, "[upload]\nfile_from_units = 4\n[stream.a]\nchunk_bytes = 3584\n")
    assert load({}, home=home).warnings == ()
