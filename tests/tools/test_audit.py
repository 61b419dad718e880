"""The audit by the real pip-audit, of a stand-in for OSV that knows one bad version."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from tests.servers import serving
from tools import audit

FAULT = {
    "id": "PYSEC-2999-1",
    "modified": "2999-01-01T00:00:00Z",
    "summary": "It lets everybody in.",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "leaky", "purl": "pkg:pypi/leaky"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


@pytest.fixture(scope="module")
def osv() -> Iterator[str]:
    app = FastAPI()

    @app.post("/query")
    async def query(request: Request) -> dict[str, Any]:
        asked = await request.json()
        leaky = asked["package"]["name"] == "leaky" and asked["version"] == "1.0"
        return {"vulns": [FAULT]} if leaky else {}

    with serving(app) as url:
        yield f"{url}/query"


def _audit(folder: Path, url: str, *pins: str) -> int:
    file = folder / "constraints.txt"
    file.write_text("".join(f"{pin}\n" for pin in pins))
    return audit.main(["--constraints", str(file), "--osv-url", url])


def test_a_version_with_a_known_vulnerability_fails(
    osv: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _audit(tmp_path, osv, "leaky==1.0", "tight==1.0") == 1
    said = capsys.readouterr().out
    assert "2 versions audited by osv, 1 vulnerabilities known" in said
    assert "leaky 1.0: PYSEC-2999-1 (corrected in 1.1)" in said


def test_versions_without_one_pass(osv: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _audit(tmp_path, osv, "leaky==1.1", "tight==1.0") == 0
    assert "2 versions audited by osv, 0 vulnerabilities known" in capsys.readouterr().out


def test_a_service_that_cannot_be_reached_is_told_and_is_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        assert _audit(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}/query", "leaky==1.0") == 0
    said = capsys.readouterr().out
    assert "osv does not answer: " in said
    assert "NOT AUDITED" in said
