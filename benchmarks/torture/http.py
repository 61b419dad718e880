"""An HTTP client that costs little, for many clients beside what they load: one connection, kept open."""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

_READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """One client's connection to a port of this machine, opened when it is needed."""

    def __init__(self, port: int, timeout_s: float = 30.0) -> None:
        self.port = port
        self._timeout_s = timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the next request opens another connection."""
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Ask once. Raises OSError (TimeoutError included) when there is no whole answer."""
        content = b"" if body is None else json.dumps(body).encode()
        given = {"Host": "parley", "Content-Type": "application/json", "Content-Length": str(len(content))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in (given | headers).items())
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = self._streams or await self._open()
                writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + content)
                answer = await _read(reader)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise OSError(f"no answer: {error!r}") from error
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        return self._streams


class Anywhere:
    """Connections to several ports, of which each request takes one by chance."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._connections = [Connection(port) for port in ports]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """As Connection's."""
        return await random.choice(self._connections).request(method, path, body, **headers)  # noqa: S311


async def _read(reader: asyncio.StreamReader) -> Answer:
    """Raises EOFError when the connection ends within the answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join([chunk async for chunk in _chunks(reader)])
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(head[0].split()[1]), headers, body)


async def _chunks(reader: asyncio.StreamReader) -> Any:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
