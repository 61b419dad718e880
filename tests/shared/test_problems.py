"""Every error is a problem document that says where the fault is and never what the caller wrote."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Body, FastAPI, HTTPException
from pydantic import Discriminator, Field, Tag

from shared import problems, telemetry
from shared.contracts import MAX_TEXT_CHARS, Request, Text
from shared.problems import FORM_TAG, Problem
from tests.servers import serving

KINDS = sorted((k for k in Problem.__subclasses__() if not k.__name__.startswith("_")), key=lambda k: k.slug)
SECRET = "xyzzy-what-the-caller-wrote"  # noqa: S105


class Turn(Request):
    text: Text


class Talk(Request):
    turns: list[Turn]
    odd: int = Field(default=0, alias="a/b~c")


class ById(Request):
    exchange_id: str


class Free(Request):
    input: Text


def _form(body: Any) -> str:
    return FORM_TAG + ("free" if isinstance(body, dict) and "input" in body else "by-id")


Either = Annotated[
    Annotated[ById, Tag(f"{FORM_TAG}by-id")] | Annotated[Free, Tag(f"{FORM_TAG}free")], Discriminator(_form)
]


def _app() -> FastAPI:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(telemetry.RequestTelemetry, service="test")

    @app.post("/talk", responses=problems.responses(*KINDS))
    async def talk(body: Talk) -> int:
        return len(body.turns)

    @app.post("/either")
    async def either(body: Annotated[Either, Body()]) -> str:
        return type(body).__name__

    @app.get("/items/{number}")
    async def item(number: int, limit: int = 1) -> int:
        return number * limit

    @app.delete("/items/{number}")
    async def drop(number: int) -> int:
        return number

    @app.get("/raise/{slug}")
    async def throw(slug: str) -> None:
        raise next(kind for kind in KINDS if kind.slug == slug)

    @app.get("/teapot")
    async def teapot() -> None:
        raise HTTPException(418, "short and stout", headers={"X-Spout": "here"})

    @app.get("/bug")
    async def bug(word: str) -> None:
        raise RuntimeError(word)

    return app


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(_app()) as url, httpx.Client(base_url=url) as client:
        yield client


def _problem(answer: httpx.Response, status: int, slug: str) -> Any:
    document = answer.json()
    assert answer.status_code == document["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["type"] == f"urn:parley:problem:{slug}"
    assert SECRET not in answer.text
    return document


def test_every_kind_has_its_own_type() -> None:
    assert len({kind.slug for kind in KINDS}) == len(KINDS) > 10


def test_the_tree_that_opens_the_module_names_every_kind_and_status() -> None:
    tree = dict(line.split()[1:3] for line in str(problems.__doc__).splitlines() if "─ " in line)
    assert tree == {kind.__name__: str(kind.status) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.slug)
def test_the_documented_example_is_what_is_sent(client: httpx.Client, kind: type[Problem]) -> None:
    sent = _problem(client.get(f"/raise/{kind.slug}"), kind.status, kind.slug)

    documented = client.get("/openapi.json").json()["paths"]["/talk"]["post"]["responses"][str(kind.status)]
    assert documented["content"]["application/problem+json"]["examples"][kind.slug]["value"] == sent


@pytest.mark.parametrize(("seconds", "header"), [(0, "1"), (0.2, "1"), (1, "1"), (1.01, "2"), (60.0, "60")])
def test_retry_after_is_a_whole_number_of_seconds_from_1(seconds: float, header: str) -> None:
    assert problems.Overloaded(retry_after_s=seconds).response().headers["Retry-After"] == header


@pytest.mark.parametrize(
    "body",
    [
        SECRET.encode(),
        b"",
        b'{"turns": [',
        b"\xff\xfe",
        b'{"turns": "\xff"}',
        b"[" * 60_000,
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_a_body_that_is_not_json_is_malformed(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/talk", content=body, headers={"Content-Type": "application/json"})
    if body:
        _problem(answer, 400, "malformed-body")
    else:
        _problem(answer, 422, "invalid-body")


def test_a_body_without_its_content_type_is_refused(client: httpx.Client) -> None:
    _problem(client.post("/talk", content=b'{"turns": []}'), 415, "unsupported-media")


@pytest.mark.parametrize(
    ("path", "body", "pointers"),
    [
        ("/talk", {}, ["/turns"]),
        ("/talk", {"turns": SECRET}, ["/turns"]),
        ("/talk", {"turns": [{"text": "hi"}, {"text": 7}]}, ["/turns/1/text"]),
        ("/talk", {"turns": [{"text": " "}, {}]}, ["/turns/0/text", "/turns/1/text"]),
        ("/talk", {"turns": [{"text": f"{SECRET}\x00"}]}, ["/turns/0/text"]),
        ("/talk", {"turns": [], "a/b~c": SECRET}, ["/a~1b~0c"]),
        ("/talk", {"turns": [], "unknown": SECRET}, ["/unknown"]),
        ("/talk", [SECRET], [""]),
        ("/talk", SECRET, [""]),
        ("/talk", None, [""]),
        ("/either", {}, ["/exchange_id"]),
        ("/either", {"input": ""}, ["/input"]),
        ("/either", {"input": "hi", "unknown": SECRET}, ["/unknown"]),
        ("/either", {"exchange_id": [SECRET]}, ["/exchange_id"]),
        ("/either", SECRET, [""]),
    ],
)
def test_each_fault_in_a_body_is_pointed_at(
    client: httpx.Client, path: str, body: Any, pointers: list[str]
) -> None:
    document = _problem(
        client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"}),
        422,
        "invalid-body",
    )
    assert [error["pointer"] for error in document["errors"]] == pointers


def test_what_is_wrong_is_said_in_plain_words(client: httpx.Client) -> None:
    document = client.post("/talk", json={"turns": [{"text": " "}]}).json()
    assert document["errors"] == [{"pointer": "/turns/0/text", "detail": "must not be blank"}]


def test_a_wrong_parameter_is_named(client: httpx.Client) -> None:
    document = _problem(client.get(f"/items/{SECRET}?limit={SECRET}"), 422, "invalid-body")
    assert [error["pointer"] for error in document["errors"]] == ["number", "limit"]


def test_a_text_that_is_too_long_is_too_large(client: httpx.Client) -> None:
    text = (SECRET * MAX_TEXT_CHARS)[: MAX_TEXT_CHARS + 1]
    document = _problem(client.post("/talk", json={"turns": [{"text": text}]}), 413, "content-too-large")
    assert [error["pointer"] for error in document["errors"]] == ["/turns/0/text"]


def test_an_unknown_route_is_not_found(client: httpx.Client) -> None:
    _problem(client.get(f"/{SECRET}"), 404, "not-found")


def test_a_wrong_method_is_told_the_right_ones(client: httpx.Client) -> None:
    answer = client.put("/items/1")
    _problem(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == "DELETE, GET"


def test_other_errors_of_the_framework_keep_status_and_headers(client: httpx.Client) -> None:
    answer = client.get("/teapot")
    assert _problem(answer, 418, "http-error")["detail"] == "short and stout"
    assert answer.headers["X-Spout"] == "here"


def test_a_bug_is_a_problem_that_carries_the_request_id(client: httpx.Client) -> None:
    answer = client.get("/bug", params={"word": SECRET}, headers={"X-Request-ID": "find-me"})
    _problem(answer, 500, "internal-error")
    assert answer.headers["X-Request-ID"] == "find-me"
