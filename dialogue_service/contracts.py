"""The JSON of the dialogue service: what callers send and get, and what Redis keeps."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from shared.contracts import Activate, Intent, Request, Text
from shared.problems import FORM_TAG

DEFAULT_CONVERSATION = "default"
EXCHANGE_ID_PATTERN = r"^[1-9][0-9]{0,14}-(0|[1-9][0-9]{0,14})$"  # one way to write each
MAX_SEED = 2**53 - 1  # what every JSON library reads exactly (RFC 7493)
_EXAMPLE_ID = "1795334400000-1"

ConversationName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9._:@-]+$",
        description="Keeps conversations apart; without it there is the one default conversation.",
        examples=[DEFAULT_CONVERSATION],
    ),
]
ExchangeId = Annotated[
    str,
    Field(
        pattern=EXCHANGE_ID_PATTERN,
        description="Unix time in ms, a dash, and the conversation's number: unique, and in order of time.",
        examples=[_EXAMPLE_ID],
    ),
]


def _whole(number: Any) -> Any:
    """To JSON 7 and 7.0 are the same number."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Rating = Literal["positive", "negative"]
Seed = Annotated[
    Annotated[int, Field(strict=True, ge=0, le=MAX_SEED), BeforeValidator(_whole)] | None,
    Field(
        description="Makes the same reply again where history, model and route are the same. "
        "Without one it is random.",
        examples=[7],
    ),
]
Key = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        description="The same key and body get the stored reply again, so a retry is safe.",
        examples=["7d1f2c9e-first-hello"],
    ),
]


class ChatRequest(Request):
    """One message of the person who talks."""

    message: Text = Field(examples=["Hi, how are you?"])
    conversation: ConversationName = DEFAULT_CONVERSATION
    seed: Seed = None


class SocketRequest(ChatRequest):
    """The same over the WebSocket, which has no headers for each message."""

    key: Key | None = None


class Timings(BaseModel):
    """Where the time of one turn went, in milliseconds."""

    waiting_ms: float = Field(description="For the conversation's turn before this one.", examples=[0.1])
    recall_ms: float = Field(description="Reading the newest exchanges from Redis.", examples=[0.8])
    intent_ms: float = Field(
        description="Until the intent service answered. It is asked at once, and all else goes on beside it.",
        examples=[11.2],
    )
    reply_ms: float = Field(
        description="From the end of the reading until the reply was there: the model does not wait for the "
        "intent, but what it says is not used before.",
        examples=[182.5],
    )


class Said(BaseModel):
    """A reply and how it came about."""

    reply: str = Field(examples=["I'm doing well, thanks! How about you?"])
    intent: Intent | None = Field(description="null: the intent service gave no answer in time.")
    model: str = Field(
        description='The model that made the reply; "catalog" for a fixed reply of the intent catalogue.',
        examples=["starter"],
    )
    degraded: list[Literal["intent"]] = Field(
        default_factory=list, description="What the reply had to do without.", examples=[[]]
    )
    timings: Timings


class Turn(Said):
    """What Redis keeps of an exchange; the stream entry's id is the exchange's id and time."""

    conversation: ConversationName
    message: str


class _Identified(BaseModel):
    id: ExchangeId
    conversation: ConversationName


class ChatReply(Said, _Identified):
    """The reply, once it is stored."""


class IntentEvent(BaseModel):
    """The first event of a streamed turn."""

    intent: Intent | None = Field(description="null: the intent service gave no answer in time.")


class TokenEvent(BaseModel):
    """A piece of a streamed reply; the pieces joined are the reply."""

    text: str = Field(examples=["I'm doing"])


class Feedback(BaseModel):
    """What somebody thinks of one reply."""

    id: ExchangeId = Field(description="The exchange's id; a vote without an exchange gets one of its own.")
    rating: Rating | None = Field(examples=["positive"])
    comment: str | None = Field(default=None, examples=["Friendly and short."])
    better_reply: str | None = Field(default=None, examples=["I'm well, thank you. And you?"])
    correct_intent: str | None = Field(default=None, examples=["how_are_you"])
    at: datetime = Field(description="When it was given (UTC).")


class _Heard(_Identified):
    message: str = Field(examples=["Hi, how are you?"])


class Exchange(Said, _Heard):
    """A remembered exchange."""

    at: datetime = Field(description="When it was stored (UTC).")
    feedback: Feedback | None = None


class MemoryPage(BaseModel):
    """A page of a conversation, newest exchange last."""

    conversation: ConversationName
    exchanges: list[Exchange]
    next: str | None = Field(
        description="Send it as `before` to get the page of older exchanges; null: there are none.",
        examples=[None],
    )


class Forgotten(BaseModel):
    """What was forgotten."""

    forgotten: int = Field(description="Exchanges.", examples=[3])
    feedback_forgotten: int = Field(description="Votes on them.", examples=[1])


class ExchangeFeedback(Request):
    """A vote on a remembered exchange; another one replaces it."""

    exchange_id: ExchangeId
    rating: Rating = Field(examples=["positive"])
    comment: Text | None = Field(default=None, examples=["Friendly and short."])
    better_reply: Text | None = Field(default=None, examples=["I'm well, thank you. And you?"])
    correct_intent: Text | None = Field(default=None, examples=["how_are_you"])


class FreeFeedback(Request):
    """A vote on any input and response; `feedback` is a rating, or words that are kept as comment.

    Another one on the same two texts replaces it.
    """

    input: Text = Field(examples=["What can you do?"])
    response: Text = Field(examples=["I can chat with you."])
    feedback: Text = Field(examples=["positive"])


_EXCHANGE, _FREE = FORM_TAG + "exchange", FORM_TAG + "free"


def _form(body: Any) -> str:
    given = body if isinstance(body, dict) else {}
    return _FREE if given.keys() & {"input", "response", "feedback"} else _EXCHANGE


FeedbackRequest = Annotated[
    Annotated[ExchangeFeedback, Tag(_EXCHANGE)] | Annotated[FreeFeedback, Tag(_FREE)],
    Discriminator(_form),
]


class FeedbackExport(Feedback):
    """A vote and what it is about: one line of the export, as the training command reads it."""

    turns: list[str] = Field(
        description="What was said before (32 exchanges at most), oldest first; then message and reply.",
        examples=[["Hi, how are you?", "I'm doing well, thanks! How about you?"]],
    )
    intent: Intent | None = Field(default=None, description="The message's intent, if it had one.")
    model: str | None = Field(default=None, description="The model that made the reply.")


class FeedbackPage(BaseModel):
    """A page of the votes, the newest exchange first."""

    votes: list[FeedbackExport]
    next: str | None = Field(
        description="Send it as `before` to get the votes on older exchanges; null: there are none.",
        examples=[None],
    )


class GenerateRequest(Request):
    """A text for the bare model."""

    input: Text = Field(examples=["Tell me a joke."])
    seed: Seed = None


class GenerateReply(BaseModel):
    """What the bare model says to it, without memory."""

    response: str = Field(examples=["Why did the tomato blush? It saw the salad dressing."])
    model: str = Field(examples=["starter"])


class TrainingRequest(Request):
    """What a training job is to do. It learns from the feedback, and begins with the model that serves."""

    method: Literal["sft", "kto"] = Field(
        default="kto",
        description="kto learns from thumbs up and down; sft to say replies with thumbs up and better ones.",
        examples=["kto"],
    )
    activate: Activate = "if_better"
