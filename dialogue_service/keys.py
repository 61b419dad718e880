"""What lies where in Redis.

parley:conversations        hash: conversation name → its number
parley:numbers              the last number given; numbers are never used twice
parley:conversation:<n>     stream: one entry per exchange, id `<unix ms>-<n>`, one field `turn` (JSON)
parley:feedback:<n>         hash: exchange id → vote (JSON); n = 0 holds the votes without an exchange
parley:idempotency:<hash>   `<hash of the body>:<exchange id>`; while it is running, its ticket's id instead
parley:line:<conversation>  list: ids of the tickets of the turn that is under way and of those that wait
parley:lease:<ticket>       there while the turn is alive

The number makes an exchange id name its conversation. It also fences off what is forgotten: a forgotten
conversation that begins again has a new number, so a reply made for the old one cannot be appended.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime

CONVERSATIONS = "parley:conversations"
NUMBERS = "parley:numbers"
STREAM = "parley:conversation:"
FEEDBACK = "parley:feedback:"
IDEMPOTENCY = "parley:idempotency:"
LINE = "parley:line:"
LEASE = "parley:lease:"

NO_CONVERSATION = "0"


def sha256(text: str) -> str:
    """Hash of what a caller chose, in hexadecimal: a key of known length and alphabet."""
    return hashlib.sha256(text.encode()).hexdigest()


def number_of(exchange_id: str) -> str:
    """The conversation's number in an exchange id."""
    return exchange_id.partition("-")[2]


def free_vote_id(message: str, reply: str) -> str:
    """The id of a vote that belongs to no exchange: always the same for the same two texts."""
    return f"{int(sha256(json.dumps([message, reply])), 16) % 10**15}-{NO_CONVERSATION}"


def time_of(exchange_id: str) -> datetime:
    """The time in an exchange id (UTC)."""
    return datetime.fromtimestamp(int(exchange_id.partition("-")[0]) / 1000, UTC)


@dataclass(frozen=True)
class IdempotencyKey:
    """A caller's key for one request: the Redis key that stands for it, and its body's hash."""

    key: str
    body: str

    @classmethod
    def of(cls, key: str, request: str) -> "IdempotencyKey":
        """From the header and the request's canonical JSON."""
        return cls(IDEMPOTENCY + sha256(key), sha256(request))

    def claimed_by(self, ticket_id: str) -> str:
        """What the Redis key holds while the turn with this ticket goes on."""
        return f"{self.body}:{ticket_id}"
