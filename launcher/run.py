"""Everything that the launcher does, from the settings to the last signal."""

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from dialogue_service.settings import DialogueSettings
from intent_service.settings import IntentSettings
from launcher import banner, redis_server, services
from launcher.children import Children, GaveUp, StartFault, Stopped
from launcher.prefork import Zygote
from launcher.services import Service
from launcher.settings import LauncherSettings
from shared import settings, telemetry
from shared.settings import SettingsFault

logger = logging.getLogger("launcher")


def run(zygote: Zygote) -> int:
    """Run until told to stop: exit status 0; 1 when a child keeps dying, 2 when Parley cannot be started."""
    try:
        with redis_server.socket_folder() as sockets, Children() as children:
            _serve(children, Path(sockets), zygote)
    except (SettingsFault, StartFault) as fault:
        print(fault, file=sys.stderr)
        return 2
    except GaveUp as reason:
        logger.error("%s", reason)
        return 1
    except Stopped:
        return 0


def _serve(children: Children, sockets: Path, zygote: Zygote) -> NoReturn:
    if sys.stderr.isatty():
        os.environ.setdefault("LOG_FORMAT", "text")
    configured = settings.load(LauncherSettings)
    for name in ("intent", "dialogue"):
        os.environ.setdefault(f"{name.upper()}_REGISTRY", str(configured.data / "models" / name))
    intent = Service.load(IntentSettings)
    os.environ.setdefault("DIALOGUE_INTENT_URL", intent.url)
    dialogue = Service.load(DialogueSettings)
    os.environ.setdefault("INTENT_FEEDBACK_URL", f"{dialogue.url}/feedback/export")
    telemetry.configure_logging(dialogue.configured.log_format)
    services.check_ports([dialogue, intent], children)
    with redis_server.started(configured, children, sockets) as store:
        os.environ["REDIS_URL"] = store.url
        if store.folder:
            os.environ["DIALOGUE_MEMORY_FOLDER"] = str(store.folder)
        intent_state, dialogue_state = services.start([intent, dialogue], children, zygote)
        facts = banner.Facts(
            dialogue_url=dialogue.url,
            intent_url=intent.url,
            dialogue=dialogue_state.model,
            intent=intent_state.model,
            memory=store.place,
            needs_key=dialogue.configured.api_key is not None,
            exposed=[s.exposure for s in (dialogue, intent) if s.configured.is_exposed],
        )
        banner.show(facts, Console())
        while True:
            children.pause(60.0)
