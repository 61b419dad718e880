import subprocess
import sys
from pathlib import Path

import pytest

from intent_service import catalog
from intent_service.settings import IntentSettings
from shared import settings
from shared.settings import SettingsFault


def refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsFault) as caught:
        settings.load(IntentSettings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults() -> None:
    configured = settings.load(IntentSettings)
    assert (configured.host, configured.port) == ("127.0.0.1", 8001)
    assert configured.model == "sentence-transformers/all-MiniLM-L6-v2"
    assert configured.catalog == catalog.SHIPPED
    assert configured.limits()["queue"] == configured.queue


def test_a_bad_catalogue_is_refused_with_its_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("intents:\n  - label: a\n  - label: a\n", encoding="utf-8")
    message = refused(monkeypatch, "INTENT_CATALOG", str(file))
    assert message.startswith("INTENT_CATALOG=")
    assert f'{file}:3: "a" is there already' in message


@pytest.mark.parametrize("path", ["", "~nobody-has-this-name/a.yaml", "/dev/null/a.yaml", "x" * 5000])
def test_a_catalogue_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    assert refused(monkeypatch, "INTENT_CATALOG", path).startswith("INTENT_CATALOG=")


@pytest.mark.parametrize("template", ["", "no place", "{} and {}", "{label}", "{0}", "{} {", "{}}"])
def test_a_hypothesis_needs_one_place_for_the_label(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    assert "it must hold {} once" in refused(monkeypatch, "INTENT_HYPOTHESIS", template)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INTENT_MODEL", ""),
        ("INTENT_QUEUE", "0"),
        ("INTENT_DEADLINE", "0"),
        ("INTENT_DEADLINE", "nan"),
        ("INTENT_NLI_KNOWN", "1.1"),
        ("INTENT_NLI_KNOWN", "nan"),
        ("INTENT_NLI_LEAD", "-0.1"),
    ],
)
def test_values_out_of_bounds_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert refused(monkeypatch, name, value).startswith(f"{name}=")


def test_checking_settings_does_not_import_torch() -> None:
    program = "import sys, intent_service.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
