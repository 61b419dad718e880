"""What the dialogue service can be told by environment variables."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    HttpUrl,
    RedisDsn,
    TypeAdapter,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import SettingsConfigDict

from shared.contracts import MAX_TEXT_CHARS
from shared.settings import (
    REPOSITORY,
    BearerToken,
    HttpAddress,
    ModelName,
    Port,
    RegistryFolder,
    Revision,
    ServiceSettings,
    model_name,
)


def _redis_url(value: str) -> str:
    if not value.startswith("unix://"):
        TypeAdapter(RedisDsn).validate_python(value)
    return value


def _generator_url(value: str | None) -> str | None:
    """The base that OpenAI's clients take, which ends in /v1 unless it says otherwise."""
    if not value:
        return None
    url = TypeAdapter(HttpUrl).validate_python(value)
    return str(url).rstrip("/") + ("/v1" if url.path in (None, "/") else "")


class DialogueSettings(ServiceSettings):
    """Settings of the dialogue service."""

    model_config = SettingsConfigDict(env_prefix="DIALOGUE_", validate_default=True)
    service: ClassVar[str] = "dialogue"

    port: Port = Field(default=8000, description="the TCP port to listen on, 1 to 65535.", examples=[8000])
    generator_url: Annotated[str | None, AfterValidator(_generator_url)] = Field(
        default=None,
        repr=False,
        description="the model server (with OpenAI's interface) that runs DIALOGUE_MODEL; empty: none does.",
        examples=["http://127.0.0.1:8080/v1"],
    )
    generator_api: Literal["chat", "completions"] = Field(
        default="chat",
        description="how to ask that server: chat, or completions for a model without a chat template.",
        examples=["chat"],
    )
    generator_key: BearerToken = Field(
        default=None,
        repr=False,
        description="the bearer token that the model server wants.",
        examples=["a-long-random-secret"],
    )
    model: str = Field(
        default="microsoft/DialoGPT-medium",
        description="the model that talks: a hub id or a folder (or what the model server calls it); "
        "empty: the stand-in is the model.",
        examples=["microsoft/DialoGPT-medium"],
    )
    revision: Revision = Field(
        default=None,
        description="the branch, tag or commit of DIALOGUE_MODEL on the hub.",
        examples=["main"],
    )
    registry: RegistryFolder = Field(
        default=REPOSITORY / ".data" / "models" / "dialogue",
        description="the folder of the trained versions that can be activated.",
        examples=[".data/models/dialogue"],
    )
    standin: ModelName = Field(
        default=str(REPOSITORY / "models" / "starter"),
        description="the folder of the model that answers until DIALOGUE_MODEL can; empty: none.",
        examples=["models/starter"],
    )
    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        default="redis://127.0.0.1:6379/0",
        validation_alias="REDIS_URL",
        repr=False,
        description="where the memory is kept, as redis://, rediss:// or unix:// URL.",
        examples=["redis://127.0.0.1:6379/0"],
    )
    memory_folder: Annotated[Path | None, BeforeValidator(lambda folder: folder or None)] = Field(
        default=None,
        description="where Redis keeps its files, if on this machine: its disk then explains a failure.",
        examples=[".data/valkey-9"],
    )
    intent_url: HttpAddress = Field(
        default="http://127.0.0.1:8001",
        description="where the intent service listens.",
        examples=["http://127.0.0.1:8001"],
    )
    intent_timeout: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="seconds to wait for the intent; then the reply is made without one.",
        examples=[2.0],
    )
    deadline: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="seconds a reply may take, waiting included; then 504 and nothing is stored.",
        examples=[60.0],
    )
    queue: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="how many turns may wait at once; one more is answered 429.",
        examples=[32],
    )
    sockets: int = Field(
        default=200,
        ge=1,
        le=10_000,
        description="how many WebSockets may be open at once; one more is answered 503.",
        examples=[200],
    )
    context_tokens: int = Field(
        default=384,
        ge=16,
        le=100_000,
        description=(
            "how many tokens of the conversation the model reads at most; a model's own smaller limit wins. "
            "DialoGPT repeats itself and loses the thread with long histories: stay well under 500 for it."
        ),
        examples=[384],
    )
    reply_tokens: int = Field(
        default=48,
        ge=4,
        le=1024,
        description="how many tokens a reply may have at most.",
        examples=[48],
    )
    candidates: int = Field(
        default=4,
        ge=1,
        le=16,
        description="how many replies are made at once, of which the best is said; a streamed one is alone.",
        examples=[4],
    )
    dtype: Literal["auto", "fp32", "int8", "bf16", "fp16"] = Field(
        default="auto",
        description="the precision of the model: fp32, int8, bf16, fp16; auto: int8, half on a GPU.",
        examples=["auto"],
    )
    cache_mb: int = Field(
        default=512,
        ge=0,
        le=1_000_000,
        description="megabytes for what was computed for earlier turns, so that it is not computed again.",
        examples=[512],
    )

    @field_validator("model")
    @classmethod
    def _model(cls, value: str, others: ValidationInfo) -> str:
        if not others.data.get("generator_url"):
            return model_name(value)
        if not value.strip() or not value.isprintable():
            raise ValueError("the server at DIALOGUE_GENERATOR_URL must be told a model")
        return value

    def generation(self) -> dict[str, Any]:
        """How a model of this machine makes replies: the options of a LocalGenerator."""
        options = ("context_tokens", "reply_tokens", "candidates", "dtype", "queue", "cache_mb")
        return {option: getattr(self, option) for option in options}

    def limits(self) -> dict[str, Any]:
        """The bounds a caller meets."""
        return {
            "max_message_chars": MAX_TEXT_CHARS,
            "deadline_s": self.deadline,
            "queue": self.queue,
            "sockets": self.sockets,
            "context_tokens": self.context_tokens,
            "reply_tokens": self.reply_tokens,
            "candidates": self.candidates,
        }
