"""What the intent service can be told. Imports nothing heavy: the launcher checks settings with it."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from intent_service import bundled, catalog
from shared.contracts import MAX_LABELS, MAX_TEXT_CHARS, MAX_TEXTS
from shared.settings import (
    REPOSITORY,
    HttpAddress,
    ModelName,
    Port,
    RegistryFolder,
    Revision,
    ServiceSettings,
)


def _catalog(path: Path) -> Path:
    """Refuse a catalogue with mistakes in it before anything starts."""
    try:
        path = path.expanduser().resolve()
    except RuntimeError as error:  # a home that nobody has, a link that leads to itself
        raise ValueError(str(error)) from None
    catalog.load(path)
    return path


def _hypothesis(template: str) -> str:
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise ValueError("it must hold {} once, where the label goes, and no other braces")
    return template


class IntentSettings(ServiceSettings):
    """Settings of the intent service."""

    model_config = SettingsConfigDict(env_prefix="INTENT_")
    service: ClassVar[str] = "intent"

    port: Port = Field(default=8001, description="the TCP port to listen on, 1 to 65535.", examples=[8001])
    model: ModelName = Field(
        default=bundled.NAME,
        min_length=1,
        description="a hub id, or a folder with a model: a sentence encoder or an NLI model.",
        examples=[bundled.NAME, "facebook/bart-large-mnli"],
    )
    revision: Revision = Field(
        default=None,
        description="the branch, tag or commit of INTENT_MODEL on the hub.",
        examples=["main"],
    )
    registry: RegistryFolder = Field(
        default=REPOSITORY / ".data" / "models" / "intent",
        description="the folder of the trained versions that can be activated.",
        examples=[".data/models/intent"],
    )
    catalog: Annotated[Path, AfterValidator(_catalog)] = Field(
        default=catalog.SHIPPED,
        description="the path of a YAML file with the intents, made like intent_service/intents.yaml.",
        examples=["./my-intents.yaml"],
    )
    hypothesis: Annotated[str, AfterValidator(_hypothesis)] = Field(
        default="This example is {}.",
        description="the sentence an NLI model judges, with {} where the label goes.",
        examples=["This message is about {}."],
    )
    nli_known: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="the least score at which an NLI model names a label, 0 to 1; "
        "python -m intent_service.training.nli_rule fits it.",
        examples=[0.3],
    )
    nli_lead: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="the least distance of that score from the next label's, 0 to 1; fitted likewise.",
        examples=[0.05],
    )
    precision: Literal["auto", "float32"] = Field(
        default="auto",
        description="auto: a model computes with fewer bits if that keeps its results; float32: never.",
        examples=["float32"],
    )
    feedback_url: HttpAddress = Field(
        default="http://127.0.0.1:8000/feedback/export",
        description="where POST /training finds corrected intents: the dialogue service's feedback export.",
        examples=["http://127.0.0.1:8000/feedback/export"],
    )
    queue: int = Field(
        default=32,
        ge=1,
        le=1000,
        description="how many requests may wait for the model, 1 to 1000; more are refused at once.",
        examples=[32],
    )
    deadline: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="the seconds after which a request is given up, up to 600.",
        examples=[10],
    )

    def limits(self) -> dict[str, Any]:
        """What GET /info says of the bounds a caller meets."""
        return {
            "max_text_chars": MAX_TEXT_CHARS,
            "max_labels": MAX_LABELS,
            "max_texts": MAX_TEXTS,
            "queue": self.queue,
            "deadline_s": self.deadline,
        }
