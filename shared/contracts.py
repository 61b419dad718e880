"""The JSON that the dialogue service and the intent service exchange.

Callers of either service see the same shapes; their examples appear in OpenAPI.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, PlainSerializer, StrictBool

MAX_TEXT_CHARS = 4000
MAX_LABELS = 100
MAX_TEXTS = 256

_ALLOWED_CONTROLS = frozenset("\n\t\r")


def _printable(text: str) -> str:
    """Refuse control characters and blank text (pydantic itself refuses lone surrogates)."""
    if not text.strip():
        raise ValueError("must not be blank")
    if any((ord(c) < 0x20 and c not in _ALLOWED_CONTROLS) or 0x7F <= ord(c) < 0xA0 for c in text):
        raise ValueError("must not contain control characters other than tab and line breaks")
    return text


def _pattern(*, but: str = "") -> dict[str, Any]:
    """`_printable` for the schema alone, since its own words say better what is wrong.

    At least one character is neither white space nor one of `but`.
    """
    controls = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    return {"pattern": rf"^[^{controls}]*[^\s{but}{controls}][^{controls}]*$"}


Text = Annotated[
    str,
    Field(min_length=1, max_length=MAX_TEXT_CHARS, json_schema_extra=_pattern()),
    AfterValidator(_printable),
]
"""What a person writes: 1 to 4,000 characters, not blank, no control characters."""

Label = Annotated[
    str,
    Field(min_length=1, max_length=100, json_schema_extra=_pattern(but="_")),
    AfterValidator(_printable),
]

Score = Annotated[float, Field(ge=0.0, le=1.0), PlainSerializer(lambda score: round(score, 4), float)]
"""A probability; four digits of it are sent."""


class Request(BaseModel):
    """A request body: a field nobody knows is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")


Labels = Annotated[
    Annotated[
        list[Label], Field(min_length=1, max_length=MAX_LABELS, json_schema_extra={"uniqueItems": True})
    ]
    | None,
    Field(
        description="Classify among these labels instead of the catalogue (zero-shot), for this call only.",
        examples=[["greeting", "order_pizza", "complaint"]],
    ),
]


class IntentRequest(Request):
    """One message to classify."""

    text: Text = Field(examples=["Hi, how are you?"])
    labels: Labels = None


class IntentBatchRequest(Request):
    """Messages to classify, each on its own."""

    texts: list[Text] = Field(
        min_length=1, max_length=MAX_TEXTS, examples=[["Hi, how are you?", "Tell me a joke."]]
    )
    labels: Labels = None


class RankedLabel(BaseModel):
    """One label and the probability the classifier gives it."""

    label: str = Field(examples=["greeting"])
    score: Score = Field(examples=[0.93])


class Intent(BaseModel):
    """What a message is about, as far as the classifier can tell."""

    label: str = Field(
        description='The best label, or "unknown" when its score or its lead is too small.',
        examples=["greeting"],
    )
    score: Score = Field(description="The best label's probability.", examples=[0.93])
    ranking: list[RankedLabel] = Field(
        description="Every label with its probability, best first.",
        examples=[[{"label": "greeting", "score": 0.93}, {"label": "how_are_you", "score": 0.05}]],
    )
    model: str = Field(
        description="The model that classified.", examples=["sentence-transformers/all-MiniLM-L6-v2"]
    )


class IntentAnswer(Intent):
    """What the intent service says of a message."""

    reply: str | None = Field(
        default=None,
        description="The catalogue's fixed reply, present only when the classifier is sure enough to use it.",
        examples=[None],
    )


class IntentBatchAnswer(BaseModel):
    """What the intent service says of several messages."""

    results: list[IntentAnswer] = Field(
        description="One for each text, in the order of the texts.",
        examples=[
            [
                {
                    "label": "joke",
                    "score": 0.9,
                    "ranking": [{"label": "joke", "score": 0.9}],
                    "model": "my-model",
                }
            ]
        ],
    )


class LoadingModel(BaseModel):
    """A model on its way into service."""

    name: str = Field(examples=["microsoft/DialoGPT-medium"])
    stage: Literal["fetching", "loading", "warming-up"] = Field(examples=["fetching"])
    fetched_bytes: int = Field(default=0, examples=[104857600])
    total_bytes: int = Field(default=0, description="0 while it is not known yet.", examples=[862955157])
    percent: int | None = Field(default=None, description="Of the bytes; null: not known.", examples=[12])
    seconds_left: float | None = Field(
        default=None,
        description="Until it is fetched, at the speed so far; null: not known.",
        examples=[80.5],
    )


class FailedModel(BaseModel):
    """Why a model is not in service, and what to do about it."""

    name: str = Field(examples=["microsoft/DialoGPT-medium"])
    reason: str = Field(examples=["the model hub cannot be reached"])
    advice: str = Field(examples=["Check the network, or name a local folder in DIALOGUE_MODEL."])
    retry_in_s: float | None = Field(description="Seconds until the next try; null: none.", examples=[60.0])


class SlotStatus(BaseModel):
    """What a service serves now, what is loading, and what failed."""

    serving: str | None = Field(description="The model that answers now.", examples=["starter"])
    loading: LoadingModel | None = None
    failed: FailedModel | None = None


class ModelVersion(BaseModel):
    """A model that can be put into service by the name `version`."""

    version: str = Field(
        description='"configured" is the model that the settings name.', examples=["20270114-093000"]
    )
    model: str = Field(description="The name its answers carry.", examples=["20270114-093000"])
    configured: bool = Field(default=False, description="Whether it is the model that the settings name.")
    active: bool = Field(
        description="Whether it is the one to serve, now and after a restart.", examples=[True]
    )
    serving: bool = Field(description="Whether it answers now.", examples=[True])
    created: datetime | None = Field(default=None, description="When it was saved (UTC).")
    kind: str | None = Field(default=None, description="What it is.", examples=["head"])
    parent: str | None = Field(
        default=None, description="The version or model it was made from.", examples=["configured"]
    )
    scores: dict[str, JsonValue] = Field(
        default_factory=dict, description="How good it was when it was made.", examples=[{"accuracy": 0.94}]
    )
    fault: str | None = Field(default=None, description="Why it cannot serve, as far as is known.")


class Models(SlotStatus):
    """The versions there are, what serves now, what is loading, and what failed."""

    versions: list[ModelVersion] = Field(
        description="The configured model first, then the newest first.",
        examples=[
            [{"version": "configured", "model": "microsoft/DialoGPT-medium", "active": True, "serving": True}]
        ],
    )
    active: str = Field(description="The version to serve, now and after a restart.", examples=["configured"])
    previous: str | None = Field(
        description="The version that a rollback leads to; null: there is none.", examples=[None]
    )


Activate = Annotated[
    StrictBool | Literal["if_better"],
    Field(
        description="Whether the new version is put into service: if_better when the gate promotes it; "
        "true in any case; false never.",
        examples=["if_better"],
    ),
]


class TrainingJob(BaseModel):
    """A training job: how far it is, and what came of it."""

    id: str = Field(description="Also the name of the version that it makes.", examples=["20270114-093000"])
    method: str = Field(examples=["kto"])
    activate: Activate
    state: Literal["running", "succeeded", "failed", "cancelled", "interrupted"] = Field(
        description="interrupted: the service ended while it ran.", examples=["running"]
    )
    stage: str = Field(default="preparing", examples=["training"])
    step: int = Field(default=0, description="Of this stage.", examples=[40])
    total: int = Field(default=0, description="Steps of this stage; 0: not known yet.", examples=[120])
    seconds_left: float | None = Field(
        default=None,
        description="Until this stage ends, at the speed so far; null: not known.",
        examples=[80.5],
    )
    created: datetime = Field(description="When it began (UTC).", examples=["2027-01-14T09:30:00Z"])
    ended: datetime | None = Field(default=None, description="When it ended (UTC).")
    version: str | None = Field(
        default=None, description="The model version that it made.", examples=["20270114-093000"]
    )
    scores: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Measure by measure the model in service (before) and the new one (after).",
        examples=[{"agreement": {"before": 0.52, "after": 0.81, "holds": True}}],
    )
    promoted: bool | None = Field(default=None, description="What the gate said.")
    verdict: str | None = Field(
        default=None,
        description="Why, in a sentence.",
        examples=["Promoted: agreement 0.52 -> 0.81, and nothing else is worse than tolerated."],
    )
    activated: bool = Field(default=False, description="Whether this job put the version into service.")
    error: str | None = Field(default=None, description="What went wrong.")


class TrainingJobs(BaseModel):
    """The training jobs, the newest first; the oldest are dropped after a hundred."""

    jobs: list[TrainingJob] = Field(
        examples=[
            [
                {
                    "id": "20270114-093000",
                    "method": "kto",
                    "activate": "if_better",
                    "state": "running",
                    "created": "2027-01-14T09:30:00Z",
                }
            ]
        ]
    )


class Liveness(BaseModel):
    """The process runs and its event loop turns."""

    status: Literal["live"] = "live"


class Readiness(BaseModel):
    """Whether the service can do its job now; the reasons say why not."""

    status: Literal["ready", "not-ready"] = Field(examples=["ready"])
    reasons: list[str] = Field(default_factory=list, examples=[[]])
    model: SlotStatus


class Info(BaseModel):
    """What is running: service, version, model, limits."""

    service: str = Field(examples=["dialogue"])
    version: str = Field(examples=["0.1.0"])
    model: str | None = Field(examples=["starter"])
    limits: dict[str, Any] = Field(examples=[{"max_text_chars": MAX_TEXT_CHARS}])
