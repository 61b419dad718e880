"""The shapes refuse what a person did not mean to send, and their examples are true to them."""

import inspect
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared import contracts
from shared.contracts import MAX_TEXT_CHARS, Intent, IntentRequest, Label, Text

MODELS = [
    model
    for _, model in inspect.getmembers(contracts, inspect.isclass)
    if issubclass(model, BaseModel) and model not in (BaseModel, contracts.Request)
]
text = TypeAdapter(Text)


@pytest.mark.parametrize(
    "given", ["x", "tabs\tand\nline\r\nbreaks", "Grüße 👋🏽", "<|endoftext|>", "x" * MAX_TEXT_CHARS]
)
def test_what_a_person_writes_is_taken_as_it_is(given: str) -> None:
    assert text.validate_python(given) == given


@pytest.mark.parametrize(
    "given",
    [
        "",
        "  \n\t",
        "\u00a0\u2003",
        "a\x00b",
        "a\x1bb",
        "a\x7fb",
        "a\x85b",
        "\ud800",
        "x" * (MAX_TEXT_CHARS + 1),
        7,
        None,
    ],
)
def test_blank_control_characters_surrogates_and_overlong_texts_are_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        text.validate_python(given)


def test_a_lone_surrogate_in_json_is_refused() -> None:
    with pytest.raises(ValidationError):
        IntentRequest.model_validate_json(r'{"text": "\ud800"}')


@pytest.mark.parametrize(
    "labels", [[], [""], [" "], ["x" * 101], ["a\x00"], [1], "greeting", ["x"] * (contracts.MAX_LABELS + 1)]
)
def test_labels_are_a_bounded_list_of_names(labels: Any) -> None:
    with pytest.raises(ValidationError):
        IntentRequest.model_validate({"text": "hi", "labels": labels})


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="lables"):
        IntentRequest.model_validate({"text": "hi", "lables": ["greeting"]})


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_is_a_probability(score: float) -> None:
    with pytest.raises(ValidationError):
        Intent(label="greeting", score=score, ranking=[], model="m")


@pytest.mark.parametrize("model", MODELS)
def test_the_examples_in_the_documentation_have_the_documented_shape(model: type[BaseModel]) -> None:
    example = {name: field.examples[0] for name, field in model.model_fields.items() if field.examples}
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    nested = {"model"} if model is contracts.Readiness else set()

    assert required - example.keys() <= nested
    model.model_validate(example | {name: {"serving": None} for name in nested})


@pytest.mark.parametrize("kind", [Text, Label])
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(text=st.text(max_size=8) | st.text(" \n\t_\x0b\x1c\x7f\x85\xa0\u2003\ufeffab", max_size=8))
def test_the_schema_allows_what_the_service_takes(kind: Any, text: str) -> None:
    adapter = TypeAdapter(kind)
    schema = adapter.json_schema()
    allowed = bool(text) and re.search(schema["pattern"], text) is not None
    try:
        taken = bool(adapter.validate_python(text))
    except ValidationError:
        taken = False
    # That a label is more than underscores is the catalogue's to say.
    assert allowed == taken or (kind is Label and not text.strip().strip("_ "))
