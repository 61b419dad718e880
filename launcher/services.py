"""The two services as the launcher sees them: a port, a child process, and what /health/ready says."""

import contextlib
import errno
import logging
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from launcher.children import Child, Children, StartFault
from launcher.prefork import Zygote
from shared import settings
from shared.contracts import Readiness
from shared.settings import ServiceSettings

logger = logging.getLogger(__name__)

_PORT_S = 3.0
_PATIENCE_S = 120.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where to reach what listens everywhere


@dataclass(frozen=True)
class Service:
    """One service with its settings."""

    configured: ServiceSettings

    @classmethod
    def load(cls, kind: type[ServiceSettings]) -> "Service":
        """Read its settings from the environment. Raises SettingsFault."""
        return cls(settings.load(kind))

    @property
    def name(self) -> str:
        """What people call it."""
        return f"the {self.configured.service} service"

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        host = _EVERYWHERE.get(self.configured.host, self.configured.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.configured.port}"

    @property
    def exposure(self) -> str:
        """The setting of the address it listens on."""
        return f"{self.configured.variable('host')}={self.configured.host}"

    def child(self) -> Child:
        """The process that serves it."""
        return Child(self.name, [sys.executable, "-m", f"{self.configured.service}_service"])

    def listen(self) -> socket.socket:
        """A socket that listens where the service will. Raises OSError."""
        family, kind, protocol, _, address = socket.getaddrinfo(
            self.configured.host, self.configured.port, type=socket.SOCK_STREAM
        )[0]
        probe = socket.socket(family, kind, protocol)
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
        except OSError:
            probe.close()
            raise
        return probe

    def why_not(self, error: OSError) -> str:
        """What a person should do about an OSError of `listen`."""
        host, port = self.configured.host, self.configured.port
        host_variable, port_variable = (self.configured.variable(field) for field in ("host", "port"))
        if error.errno == errno.EADDRINUSE:
            return f"Port {port} on {host} is taken (by another Parley?). Set {port_variable} to a free one."
        if error.errno == errno.EACCES:
            return f"Port {port} on {host} needs privileges. Set {port_variable} to one above 1023."
        return f"{host_variable}={host} is no address of this machine ({error.strerror}). Write 127.0.0.1."

    def readiness(self, client: httpx.Client) -> Readiness | None:
        """What /health/ready says; None while nobody answers."""
        try:
            return Readiness.model_validate_json(client.get(f"{self.url}/health/ready").content)
        except (httpx.HTTPError, ValidationError):
            return None


def check_ports(services: Sequence[Service], children: Children) -> None:
    """Raises StartFault if a port cannot be used. A taken one is given a moment to become free."""
    deadline = time.monotonic() + _PORT_S
    # All at once, so that two services on one port are noticed as well.
    with contextlib.ExitStack() as probes:
        for service in services:
            while True:
                try:
                    probes.enter_context(service.listen())
                    break
                except OSError as error:
                    # Services of a launcher that was just killed may need a moment to end.
                    if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                        raise StartFault(service.why_not(error)) from None
                children.pause(0.1)


def start(services: Sequence[Service], children: Children, zygote: Zygote) -> list[Readiness]:
    """Start all, wait until all are ready however long it takes, and say meanwhile what is waited for."""
    zygote.start([service.child() for service in services], children)
    said: list[str] = []
    speak_at = time.monotonic() + _PATIENCE_S
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while True:
            states = [service.readiness(client) for service in services]
            ready = [state for state in states if state and state.status == "ready"]
            if len(ready) == len(services):
                return ready
            missing = list(filter(None, map(_missing, services, states)))
            for news in missing:
                if news not in said:
                    logger.info("waiting for %s", news)
            said = missing
            if time.monotonic() > speak_at:
                logger.warning("not ready after %d s, waiting on for %s", _PATIENCE_S, "; ".join(missing))
                speak_at = float("inf")
            children.pause(0.2)


def _missing(service: Service, state: Readiness | None) -> str | None:
    """What a service still lacks, in words that change only when the stage does."""
    if state is None:
        return service.name
    if state.status == "ready":
        return None
    why = []
    if loading := state.model.loading:
        why.append(f"{loading.name}: {loading.stage}")
    if failed := state.model.failed:
        why.append(f"{failed.name}: {failed.reason}. {failed.advice}")
    return f"{service.name} ({', '.join(why or state.reasons)})"
