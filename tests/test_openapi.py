"""The committed OpenAPI documents: current, complete, and the same wherever they are made."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.problems import MEDIA_TYPE
from tools import openapi

DOCUMENTS = {file.stem: json.loads(text) for file, text in openapi.documents().items()}
OPERATIONS = {
    f"{name}: {method.upper()} {path}": operation
    for name, document in DOCUMENTS.items()
    for path, methods in document["paths"].items()
    for method, operation in methods.items()
}

each_document = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())
each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


def contents(responses: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for status, response in responses.items():
        for media_type, content in response.get("content", {}).items():
            yield status, media_type, content


def test_the_committed_documents_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert openapi.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_document_is_found_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(openapi, "FOLDER", tmp_path / "openapi")
    assert openapi.main([]) == 0
    assert openapi.main(["--check"]) == 0
    intent = tmp_path / "openapi" / "intent.json"
    intent.write_text(intent.read_text("utf-8") + " ", "utf-8")
    assert openapi.main(["--check"]) == 1
    assert "intent.json is out of date" in capsys.readouterr().err


def test_the_environment_and_the_machine_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    before = openapi.documents()
    monkeypatch.setenv("API_KEY", "secret")
    monkeypatch.setenv("DIALOGUE_PORT", "not a port")
    assert openapi.documents() == before
    for text in before.values():
        assert str(openapi.FOLDER.parent) not in text


@each_document
def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert used == set(document["components"]["schemas"])


@each_operation
def test_an_operation_says_what_it_does_and_what_it_answers(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    for status, _, content in contents(operation["responses"]):
        assert content.get("schema") or content.get("itemSchema"), f"{status} has no schema"


@each_document
def test_every_link_leads_to_an_operation_and_its_parameters(document: dict[str, Any]) -> None:
    operations = {op["operationId"]: op for path in document["paths"].values() for op in path.values()}
    for operation in operations.values():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                known = {
                    parameter["name"] for parameter in operations[link["operationId"]].get("parameters", [])
                }
                assert link.get("parameters", {}).keys() <= known


@each_operation
def test_an_error_is_a_problem_with_examples(operation: dict[str, Any]) -> None:
    for status, media_type, content in contents(operation["responses"]):
        if status < "400" or content["schema"]["$ref"].endswith("/Readiness"):
            continue  # not being ready is no error: the same document says why
        assert media_type == MEDIA_TYPE
        assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
        assert {str(example["value"]["status"]) for example in content["examples"].values()} == {status}


@each_document
def test_every_field_has_an_example_or_a_description(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    bare = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, details in schema.get("properties", {}).items()
        # A field of a model of its own is described there.
        if not details.keys() & {"examples", "description", "const"} and "$ref" not in json.dumps(details)
    ]
    assert bare == []
