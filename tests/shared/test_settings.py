"""A wrong variable is answered with one line: which one, what is wrong with it, what to write."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from dialogue_service.settings import DialogueSettings
from intent_service.settings import IntentSettings
from launcher.settings import LauncherSettings
from shared import settings
from shared.settings import ModelName, Port, ServiceSettings, Settings, SettingsFault

ALL: list[type[Settings]] = [LauncherSettings, IntentSettings, DialogueSettings]
FIELDS = [(kind, field) for kind in ALL for field in kind.model_fields]


class Example(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")
    service: ClassVar[str] = "example"

    port: Port = Field(default=9000, description="the TCP port to listen on, 1 to 65535.", examples=[9000])
    model: ModelName = Field(default="", description="a hub id or a folder.", examples=["owner/model"])
    wait: float = Field(default=1.0, gt=0, le=60, description="seconds to wait, up to 60.", examples=[2.5])


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[type[Settings]] = [*ALL, Example]
    for kind in kinds:
        for variable in kind.variables():
            monkeypatch.delenv(variable, raising=False)


def _fault(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> str:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsFault) as caught:
        settings.load(Example)
    return str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "wrong", "example"),
    [
        ("EXAMPLE_PORT", "http", "valid integer", "EXAMPLE_PORT=9000"),
        ("EXAMPLE_PORT", "", "valid integer", "EXAMPLE_PORT=9000"),
        ("EXAMPLE_PORT", "0", "greater than or equal to 1", "EXAMPLE_PORT=9000"),
        ("EXAMPLE_PORT", "65536", "less than or equal to 65535", "EXAMPLE_PORT=9000"),
        ("EXAMPLE_WAIT", "61", "less than or equal to 60", "EXAMPLE_WAIT=2.5"),
        ("EXAMPLE_WAIT", "nan", "less than or equal to 60", "EXAMPLE_WAIT=2.5"),
        ("EXAMPLE_HOST", "", "at least 1 character", "EXAMPLE_HOST=127.0.0.1"),
        (
            "EXAMPLE_MODEL",
            "./nowhere",
            "neither a folder that exists nor a hub id",
            "EXAMPLE_MODEL=owner/model",
        ),
        (
            "EXAMPLE_MODEL",
            "/no/where",
            "neither a folder that exists nor a hub id",
            "EXAMPLE_MODEL=owner/model",
        ),
        ("EXAMPLE_MODEL", "a/b/c", "neither a folder that exists nor a hub id", "EXAMPLE_MODEL=owner/model"),
        (
            "EXAMPLE_MODEL",
            "a model",
            "neither a folder that exists nor a hub id",
            "EXAMPLE_MODEL=owner/model",
        ),
        ("EXAMPLE_MODEL", "~nobody-here/x", "neither a folder that exists nor a hub id", "=owner/model"),
        (
            "EXAMPLE_MODEL",
            "/" + "x" * 5000,
            "neither a folder that exists nor a hub id",
            "EXAMPLE_MODEL=owner/model",
        ),
        ("LOG_FORMAT", "xml", "match", "LOG_FORMAT=json"),
    ],
)
def test_a_fault_names_the_variable_what_is_wrong_and_what_to_write(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, wrong: str, example: str
) -> None:
    said = _fault(monkeypatch, variable, value)
    assert said.startswith(f"{variable}={value!r} is wrong: ")
    assert wrong in said
    assert said.endswith(example)
    assert "\n" not in said


def test_a_name_with_a_slip_is_answered_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _fault(monkeypatch, "EXAMPLE_PROT", "9000") == (
        "EXAMPLE_PROT is not a setting. Did you mean EXAMPLE_PORT?"
    )


def test_variables_of_others_are_none_of_its_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_PORT", "nonsense")
    assert settings.load(Example).port == 9000


def test_a_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXAMPLE_MODEL", "models/mine")
    assert settings.load(Example).model == str(tmp_path / "models" / "mine")


@pytest.mark.parametrize("name", ["gpt2", "microsoft/DialoGPT-medium", "a1/b_c.d-e", ""])
def test_a_hub_id_or_nothing_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("EXAMPLE_MODEL", name)
    assert settings.load(Example).model == name


@pytest.mark.parametrize(("value", "key"), [("", None), ("a-secret", "a-secret")])
def test_an_empty_key_is_no_key(monkeypatch: pytest.MonkeyPatch, value: str, key: str | None) -> None:
    monkeypatch.setenv("API_KEY", value)
    assert settings.load(Example).api_key == key


@pytest.mark.parametrize("key", ["schlüssel", "two words", "line\nbreak"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    said = _fault(monkeypatch, "API_KEY", key)
    assert said.startswith("API_KEY is wrong: ")
    assert key not in said


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_setting_says_what_to_write(kind: type[Settings], field: str) -> None:
    info = kind.model_fields[field]
    assert info.description
    assert info.description.endswith(".")
    assert (info.examples or [info.default])[0] not in (None, "")


@pytest.mark.parametrize("value", ["", "no such\nthing \u2028!"])
@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_whatever_stands_in_a_variable_is_taken_or_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: type[Settings], field: str, value: Any
) -> None:
    monkeypatch.setenv("DIALOGUE_STANDIN", "")
    monkeypatch.setenv(kind.variable(field), value)
    said = kind.variable(field)
    try:
        settings.load(kind)
    except SettingsFault as fault:
        said = str(fault)
    assert said.startswith(kind.variable(field))
    assert len(said.splitlines()) == 1
