"""A small model hub: as much of the Hugging Face hub's HTTP interface as a download needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789" * 4
HANG_UP = 0
"""In place of a status: end the connection without an answer."""


@dataclass
class Hub:
    """Serves `folders`, one a model id; one in `refusals` is answered with that status and error code.

    Of a file in `stalls` nothing comes after so many bytes. `fetched` are the files whose content was asked
    for, `tokens` the Authorization headers.
    """

    url: str = ""
    folders: dict[str, Path] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    stalls: dict[str, int] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def running() -> Iterator[Hub]:
    """Run a hub on a free port."""
    hub = Hub()

    class Handler(_Handler):
        serves = hub

    with _Server(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.over.set()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet about those who hang up."""


class _Handler(BaseHTTPRequestHandler):
    serves: Hub
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        owner, name, what, *rest = [*path.removeprefix("/api/models").strip("/").split("/"), "", ""]
        model = f"{owner}/{name}"
        if model in self.serves.folders or model in self.serves.refusals:
            self.serves.tokens.add(self.headers["Authorization"])
        if model in self.serves.refusals:
            self._refuse(*self.serves.refusals[model])
        elif model not in self.serves.folders:
            self._refuse(404, "RepoNotFound")
        elif rest[0] not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif what == "revision":
            self._send(json.dumps({"id": model, "sha": COMMIT, "siblings": []}).encode(), "application/json")
        elif what == "tree":
            self._send(self._tree(self.serves.folders[model]), "application/json")
        else:
            self._send_file(self.serves.folders[model] / rest[1])

    do_HEAD = do_GET

    def _send_file(self, file: Path) -> None:
        if self.command == "GET":
            self.serves.fetched.append(file.name)
        self._send(file.read_bytes(), "application/octet-stream", self.serves.stalls.get(file.name))

    def _tree(self, folder: Path) -> bytes:
        files = sorted(folder.iterdir())
        listed = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
        return json.dumps(listed).encode()

    def _refuse(self, status: int, code: str) -> None:
        if status == HANG_UP:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, kind: str, stall_after: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:stall_after])
            if stall_after is not None:
                self.serves.over.wait(30)
                self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
