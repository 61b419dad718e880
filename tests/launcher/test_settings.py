from pathlib import Path

import pytest

from launcher.settings import LauncherSettings
from shared.settings import REPOSITORY, SettingsFault, load


@pytest.fixture(autouse=True)
def _bare(monkeypatch):
    for name in LauncherSettings.variables():
        monkeypatch.delenv(name, raising=False)


def test_defaults():
    configured = load(LauncherSettings)

    assert configured.data == REPOSITORY / ".data"
    assert configured.redis_url is None
    assert configured.redis_server_bin is None


def test_every_setting_is_described():
    assert set(LauncherSettings.variables()) == {"PARLEY_DATA", "REDIS_URL", "REDIS_SERVER_BIN"}
    assert all(field.description and field.examples for field in LauncherSettings.model_fields.values())


def test_values_are_made_whole(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARLEY_DATA", "here")
    monkeypatch.setenv("REDIS_URL", "")
    monkeypatch.setenv("REDIS_SERVER_BIN", "sh")

    configured = load(LauncherSettings)

    assert configured.data == tmp_path / "here"
    assert configured.redis_url is None
    assert Path(configured.redis_server_bin).is_absolute()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", "http://here"),
        ("REDIS_URL", "redis://here:port"),
        ("REDIS_SERVER_BIN", "/no/such/server"),
    ],
)
def test_a_wrong_value_is_one_line(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsFault) as caught:
        load(LauncherSettings)

    # A Redis URL may hold a password, so it is not shown.
    shown = "" if variable == "REDIS_URL" else f"={value!r}"
    assert str(caught.value).startswith(f"{variable}{shown} is wrong: ")
    assert "\n" not in str(caught.value)


def test_a_misspelt_variable_is_noticed(monkeypatch):
    monkeypatch.setenv("PARLEY_DATTA", "here")

    with pytest.raises(SettingsFault, match="Did you mean PARLEY_DATA"):
        load(LauncherSettings)
