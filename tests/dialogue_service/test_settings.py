"""What DIALOGUE_GENERATOR_URL changes, and how it may be written."""

import pytest

from dialogue_service.settings import DialogueSettings
from shared import settings
from shared.settings import SettingsFault


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in DialogueSettings.variables():
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("", None),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080/v1"),
        ("https://models.example/team/v3", "https://models.example/team/v3"),
    ],
)
def test_the_model_servers_url(monkeypatch: pytest.MonkeyPatch, written: str, used: str | None) -> None:
    monkeypatch.setenv("DIALOGUE_GENERATOR_URL", written)
    assert settings.load(DialogueSettings).generator_url == used


def test_a_model_server_names_its_models_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIALOGUE_MODEL", "llama3.2:3b")
    with pytest.raises(SettingsFault, match="neither a folder that exists nor a hub id"):
        settings.load(DialogueSettings)
    monkeypatch.setenv("DIALOGUE_GENERATOR_URL", "http://127.0.0.1:8080/v1")
    assert settings.load(DialogueSettings).model == "llama3.2:3b"


def test_a_model_server_must_be_told_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIALOGUE_GENERATOR_URL", "http://127.0.0.1:8080/v1")
    monkeypatch.setenv("DIALOGUE_MODEL", "")
    with pytest.raises(SettingsFault, match="must be told a model"):
        settings.load(DialogueSettings)


def test_neither_key_nor_password_of_the_model_server_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIALOGUE_GENERATOR_URL", "http://me:hush@127.0.0.1:8080/v1")
    monkeypatch.setenv("DIALOGUE_GENERATOR_KEY", "hush-too")
    assert "hush" not in repr(settings.load(DialogueSettings))
    monkeypatch.setenv("DIALOGUE_GENERATOR_KEY", "hush too")
    with pytest.raises(SettingsFault) as caught:
        settings.load(DialogueSettings)
    assert "hush" not in str(caught.value)
