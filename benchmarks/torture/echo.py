"""A model server that answers at once with what it heard, so that every reply can be checked."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def reply_to(message: str, earlier_turns: int) -> str:
    """What is said to a message after so many turns."""
    return f"After {earlier_turns} turns you say: {message}"


def wait(seconds: float, message: str) -> str:
    """A message that is answered after so long."""
    return f"wait {seconds} {message}"


def settings(url: str) -> dict[str, str]:
    """The environment of a dialogue service that asks this server, with all that it recalls."""
    return {
        "DIALOGUE_GENERATOR_URL": url,
        "DIALOGUE_MODEL": "echo",
        "DIALOGUE_STANDIN": "",
        "DIALOGUE_CONTEXT_TOKENS": "100000",
    }


@contextmanager
def serving() -> Iterator[str]:
    """Serve OpenAI's interface; yields the base URL."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(_talk, "127.0.0.1", 0, backlog=1024))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    talks = asyncio.all_tasks() - {asyncio.current_task()}
    for talk in talks:
        talk.cancel()
    await asyncio.gather(*talks, return_exceptions=True)


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line for line in head.splitlines() if line.startswith("content-length:"))
            *earlier, last = json.loads(await reader.readexactly(int(length.partition(":")[2])))["messages"]
            if last["content"].startswith("wait "):
                await asyncio.sleep(float(last["content"].split()[1]))
            said = {"message": {"content": reply_to(last["content"], len(earlier))}, "finish_reason": "stop"}
            body = json.dumps({"choices": [said]}).encode()
            kind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            writer.write(kind + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (OSError, EOFError):
        pass
    finally:
        writer.close()
