"""A wrong setting is one sentence that names key, value and rule; a right one says where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.adapters.storekeeper import MAX_INT
from runtime.adapters.storekeeper import quota as storekeeper_quota
from runtime.config import keys, load, load_as_producer
from runtime.core.message import StreamName
from runtime.core.quota import Amount, Limit, Policy
from runtime.core.secret import Secret
from runtime.errors import ConfigError


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
        ("[uplod]\nwindow = 7", ["unknown key uplod.window"]),
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
        ("[ingest]\nmax_message_bytes = 9999999999", ["at most 1,073,741,824"]),
        ('[platform]\nca_file = "~nobody-of-that-name/ca.pem"', ["platform.ca_file", "not a path"]),
        ('[platform]\nca_file = "a\\u0000b"', ["platform.ca_file", "not a path"]),
        ('[platform]\ninstance = "https://x/y"', ["platform.instance", "without https://"]),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(tmp_path: Path, text: str, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, home=written(tmp_path, text))
    assert all(part in str(caught.value) for part in says), str(caught.value)
    assert "\n" not in str(caught.value).replace(text, "")


def test_an_unknown_variable_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="EDGE_UPLOAD_WINDO; did you mean EDGE_UPLOAD_WINDOW"):
        load({"EDGE_UPLOAD_WINDO": "9"}, home=tmp_path)
    with pytest.raises(ConfigError, match="EDGE_CONFG; did you mean EDGE_CONFIG"):
        load({"EDGE_CONFG": "edge.toml"}, home=tmp_path)


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load({}, home=tmp_path, file=tmp_path / "nowhere.toml")


def test_a_folder_in_the_place_of_the_file_is_not_taken_for_no_file_at_all(tmp_path: Path) -> None:
    """A container engine makes one where the file to mount is missing: nobody noticed the defaults."""
    (tmp_path / "edge.toml").mkdir()
    with pytest.raises(ConfigError, match=r"edge\.toml: cannot be read: Is a directory"):
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
    assert settings.of_stream(None, "logs").compression == "fastest"
    assert settings.of_stream("plant", "logs").compression == "smallest"
    assert settings.of_stream("plant", "other").compression == "none"
    assert settings.of_stream(None, None).compression == "none"


def test_every_setting_has_a_meaning_and_a_default_that_keeps_its_own_rule() -> None:
    for key in keys():
        assert len(key.doc) > 10, key.dotted
        assert key.rule.broken_by(key.default) is None, key.dotted


def test_the_limits_of_a_stream_stand_in_its_table_and_nowhere_else(tmp_path: Path) -> None:
    home = written(
        tmp_path,
        '[stream.a]\nmax_messages = 3\npolicy = "drop-oldest"\n[stream."g/b"]\ncompression = "fastest"\n',
    )
    quota = storekeeper_quota(load({}, home=home))
    assert quota.of(StreamName(None, "a")) == Limit(Amount(3, MAX_INT), Policy.DROP_OLDEST)
    assert quota.of(StreamName("g", "a")) is None
    assert quota.of(StreamName("g", "b")) is None


def test_a_producer_starts_whatever_else_is_wrong_with_the_configuration(tmp_path: Path) -> None:
    home = written(
        tmp_path, '[upload]\nwindo = 7\n[ingest]\nendpoint = "ipc:///run/elsewhere.sock"\ngrup = "x"\n'
    )
    of_the_application = {"EDGE_OF_TABLE": "3 cm", "EDGE_UPLOAD_WINDOW": "many"}
    config = load_as_producer(of_the_application, home=home)
    assert config.producer_endpoint() == "ipc:///run/elsewhere.sock"
    config = load_as_producer({"EDGE_INGEST_ENDPOINT": "ipc:///run/here.sock"}, home=home)
    assert config.producer_endpoint() == "ipc:///run/here.sock"


@pytest.mark.parametrize("text", ["[ingest\nendpoint = ", "ingest = 3\n"])
def test_a_file_that_is_no_toml_leaves_a_producer_the_socket_in_the_home(tmp_path: Path, text: str) -> None:
    home = written(tmp_path, text)
    assert load_as_producer({}, home=home).producer_endpoint() == f"ipc://{home}/ingest.sock"


def test_a_producer_is_told_what_is_wrong_with_its_endpoint_or_the_file_it_asked_for(tmp_path: Path) -> None:
    home = written(tmp_path, '[ingest]\nendpoint = "udp://x"\n')
    with pytest.raises(ConfigError, match="must be ipc://PATH or tcp://ADDRESS:PORT"):
        load_as_producer({}, home=home)
    written(tmp_path, "[ingest")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_as_producer({"EDGE_CONFIG": str(home / "edge.toml")}, home=home)
