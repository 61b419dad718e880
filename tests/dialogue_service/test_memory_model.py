"""Any sequence of what people do to a memory equals a model of it, though its server is killed in between."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run
from pydantic import TypeAdapter, ValidationError

from dialogue_service import connection
from dialogue_service.contracts import ExchangeFeedback, FreeFeedback, Timings, Turn
from dialogue_service.feedback import FeedbackStore
from dialogue_service.keys import IdempotencyKey
from dialogue_service.memory import Memory
from dialogue_service.turns import Ticket, Turns
from shared.contracts import Text
from shared.problems import ConversationForgotten, KeyReused, NotFound
from tests.outside import redis_program
from tests.servers import RedisServer

_TIMINGS = Timings(waiting_ms=0, recall_ms=0, intent_ms=0, reply_ms=0)
_CONVERSATIONS = st.sampled_from(["default", "a", "A"])
_KEYS = st.sampled_from(["k", "K"])


Work = Callable[[Ticket], Awaitable[Any]]


def _is_text(text: str) -> bool:
    try:
        TypeAdapter(Text).validate_python(text)
    except ValidationError:
        return False
    return True


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), min_size=1)
TEXTS = TEXTS.filter(_is_text)


class Remembering(RuleBasedStateMachine):
    """The model: a list of [id, message] for each conversation, a dict of votes, a dict of answered keys."""

    server: RedisServer

    @initialize()
    def begin(self) -> None:
        self.server.empty()
        self.loop = asyncio.new_event_loop()
        self.connect()
        self.said: dict[str, list[tuple[str, str]]] = {}
        self.stale: dict[str, list[str]] = {}  # numbers that conversations had when they were forgotten
        self.votes: dict[str, str] = {}
        self.free: set[tuple[str, ...]] = set()
        self.answered: dict[str, tuple[str, str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.disconnect()
            self.loop.close()

    def connect(self) -> None:
        self.client = connection.connect(self.server.url)
        self.turns = Turns(self.client, 1)
        self.memory = Memory(self.client)
        self.feedback = FeedbackStore(self.client, self.memory)

    def disconnect(self) -> None:
        self.do(self.client.aclose())

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def _take(self, conversation: str, key: IdempotencyKey | None, do: Work) -> Any:
        async with self.turns.admit(conversation, key) as ticket, self.turns.take(ticket, 5):
            return await do(ticket)

    def take(self, conversation: str, do: Work, key: IdempotencyKey | None = None) -> Any:
        """Have a turn and do something in it."""
        return self.do(self._take(conversation, key, do))

    async def _say(self, turn: Turn, ticket: Ticket, key: IdempotencyKey | None = None) -> str:
        if key:
            assert await self.memory.claim(ticket, key) is None
        recalled = await self.memory.recall(turn.conversation, 2)
        said = [message for _, message in self.said.get(turn.conversation, [])]
        kept = [turn.message for turn in recalled.turns]
        assert kept == said[len(said) - len(kept) :]
        assert len(kept) == len(said) or 2 <= len(kept) < 4
        return await self.memory.append(turn, recalled.number, ticket)

    @rule(conversation=_CONVERSATIONS, message=TEXTS)
    def chat(self, conversation: str, message: str) -> None:
        turn = _turn(conversation, message)
        exchange = self.take(conversation, lambda ticket: self._say(turn, ticket))
        self.said.setdefault(conversation, []).append((exchange, message))

    @rule(conversation=_CONVERSATIONS, message=TEXTS, key=_KEYS)
    def chat_with_a_key(self, conversation: str, message: str, key: str) -> None:
        body = f"{conversation} {message}"
        claimed = IdempotencyKey.of(key, body)
        if key not in self.answered:
            turn = _turn(conversation, message)
            exchange = self.take(conversation, lambda ticket: self._say(turn, ticket, claimed), claimed)
            self.said.setdefault(conversation, []).append((exchange, message))
            self.answered[key] = body, exchange
            return
        used_for, exchange = self.answered[key]
        if used_for != body:
            with pytest.raises(KeyReused):
                self.claim(conversation, claimed)
        elif exchange in dict(self.said.get(conversation, [])):
            again = self.claim(conversation, claimed)
            assert (again.id, again.message) == (exchange, message)
        else:
            with pytest.raises(ConversationForgotten):
                self.claim(conversation, claimed)

    def claim(self, conversation: str, key: IdempotencyKey) -> Any:
        """Ask for what was answered to a key."""
        return self.take(conversation, lambda ticket: self.memory.claim(ticket, key), key)

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.answered)))
        conversation, _, message = self.answered[key][0].partition(" ")
        self.chat_with_a_key(conversation, message, key)

    @rule(conversation=_CONVERSATIONS)
    def forget(self, conversation: str) -> None:
        number = self.do(self.memory.recall(conversation, 1)).number
        gone = [exchange for exchange, _ in self.said.pop(conversation, [])]
        voted = [exchange for exchange in gone if self.votes.pop(exchange, None)]
        forgotten = self.take(conversation, self.memory.forget)
        assert (forgotten.forgotten, forgotten.feedback_forgotten) == (len(gone), len(voted))
        self.stale.setdefault(conversation, []).append(number)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def answer_too_late(self, data: st.DataObject) -> None:
        """A reply that was being made when its conversation was forgotten."""
        conversation = data.draw(st.sampled_from(sorted(self.stale)))
        number = data.draw(st.sampled_from(self.stale[conversation]))
        if number == self.do(self.memory.recall(conversation, 1)).number:
            return  # it was forgotten before it began, and has not begun since
        late = _turn(conversation, "late")
        with pytest.raises(ConversationForgotten):
            self.take(conversation, lambda ticket: self.memory.append(late, number, ticket))

    @precondition(lambda self: any(self.said.values()))
    @rule(data=st.data(), rating=st.sampled_from(["positive", "negative"]))
    def vote(self, data: st.DataObject, rating: Any) -> None:
        exchanges = [exchange for said in self.said.values() for exchange, _ in said]
        exchange = data.draw(st.sampled_from(exchanges))
        self.do(self.feedback.put(ExchangeFeedback(exchange_id=exchange, rating=rating)))
        self.votes[exchange] = rating

    @rule(text=TEXTS)
    def vote_freely(self, text: str) -> None:
        self.do(self.feedback.put_free(FreeFeedback(input=text, response=text, feedback="positive")))
        self.free.add((text, text))

    @precondition(lambda self: self.votes)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        exchange = data.draw(st.sampled_from(sorted(self.votes)))
        self.do(self.feedback.delete(exchange))
        del self.votes[exchange]
        with pytest.raises(NotFound):
            self.do(self.feedback.get(exchange))

    @rule()
    def kill(self) -> None:
        self.disconnect()
        self.server.kill()
        self.server.start()
        self.connect()

    @rule(conversation=_CONVERSATIONS, limit=st.integers(1, 3))
    def read_by_pages(self, conversation: str, limit: int) -> None:
        read: list[tuple[str, str]] = []
        before = None
        while True:
            page = self.do(self.memory.page(conversation, limit, before))
            read = [(exchange.id, exchange.message) for exchange in page.exchanges] + read
            if (before := page.next) is None:
                break
        assert read == self.said.get(conversation, [])

    @invariant()
    def all_is_there_once_and_in_order(self) -> None:
        if not hasattr(self, "memory"):
            return
        for conversation in ("default", "a", "A"):
            found = self.do(_all(self.memory.everything(conversation)))
            assert [(exchange.id, exchange.message) for exchange in found] == self.said.get(conversation, [])
            rated = {exchange.id: exchange.feedback.rating for exchange in found if exchange.feedback}
            assert rated == {e.id: self.votes[e.id] for e in found if e.id in self.votes}
        lines = self.do(_all(self.feedback.export()))
        free = [tuple(line.turns) for line in lines if line.id.endswith("-0")]
        assert (len(free), set(free)) == (len(self.free), self.free)
        assert {line.id: line.rating for line in lines if not line.id.endswith("-0")} == self.votes
        for line in lines:
            if not line.id.endswith("-0"):
                said = next(said for said in self.said.values() if line.id in dict(said))
                assert line.turns[-2] == dict(said)[line.id]


def _turn(conversation: str, message: str) -> Turn:
    return Turn(
        conversation=conversation, message=message, reply="re", intent=None, model="m", timings=_TIMINGS
    )


async def _all(lines: Any) -> list[Any]:
    return [line async for line in lines]


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(redis_program("bundled"), tmp_path_factory.mktemp("memory")) as server:
        yield server


def test_a_memory_equals_its_model(killable: RedisServer, tmp_path: Path) -> None:
    Remembering.server = killable
    few = settings(
        max_examples=8,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run(Remembering, settings=few)
