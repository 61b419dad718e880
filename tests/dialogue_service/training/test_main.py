import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from dialogue_service.training import trainer
from dialogue_service.training.__main__ import main
from dialogue_service.training.settings import TrainingSettings
from shared.registry import About, Pointer, Registry
from shared.settings import REPOSITORY
from tests.dialogue_service.training.conftest import WriteRows, votes
from tests.dialogue_service.training.test_trainer import same_weights
from tests.servers import wait_until

TinyRun = Callable[..., TrainingSettings]


def arguments(settings: TrainingSettings) -> list[str]:
    return [
        "--data", str(settings.data[0]), "--from-scratch", str(settings.from_scratch),
        "--output", str(settings.output), "--max-steps", "4", "--max-length", "32", "--valid-fraction", "0.4",
    ]  # fmt: skip


def test_a_run_from_the_command_line(tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny_run()
    assert main(arguments(settings)) == 0
    assert "held-out loss" in capsys.readouterr().out
    assert (settings.output / "model.safetensors").exists()


def test_bad_data_stops_it_before_anything_is_made(
    tiny_run: TinyRun, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_rows("bad.jsonl", [{"input": "a", "response": "b"}, {"input": "a"}])
    settings = tiny_run(data=(bad,))
    assert main(arguments(settings)) == 2
    assert capsys.readouterr().err == f'{bad}:2: missing "response" (or "turns")\n'
    assert not settings.output.exists()


def test_contradicting_options_exit_with_2(tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(tiny_run()), "--model", "x", "--seed", "-1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_an_interrupted_run_says_how_to_go_on(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    settings = tiny_run()
    monkeypatch.setattr(trainer, "_save", interrupt)
    assert main(arguments(settings)) == 130
    assert "--resume" in capsys.readouterr().err
    assert settings.checkpoints.exists()


def test_a_run_killed_at_a_random_moment_ends_as_one_that_was_not(tiny_run: TinyRun) -> None:
    """Killed twice, once right after a checkpoint has begun to be written."""
    whole, killed = (tiny_run(name, max_steps=60, checkpoint_every=10) for name in ("whole", "killed"))

    def command(settings: TrainingSettings, *more: str) -> list[str]:
        options = {
            "data": settings.data[0],
            "valid-data": settings.data[0],
            "from-scratch": settings.from_scratch,
            "output": settings.output,
            "max-steps": settings.max_steps,
            "checkpoint-every": settings.checkpoint_every,
            "max-length": settings.max_length,
            "tokens-per-batch": settings.tokens_per_batch,
        }
        given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return [sys.executable, "-m", "dialogue_service.training", *given, *more]

    def started(*more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command(killed, *more), cwd=REPOSITORY, stderr=subprocess.DEVNULL)

    for first, more in ((10, ()), (30, ("--resume",))):
        with started(*more) as process:
            wait_until((killed.checkpoints / f"checkpoint-{first}").exists, 60)
            process.kill()
        assert not (killed.output / "model.safetensors").exists()
    for settings, again in ((killed, ("--resume",)), (whole, ())):
        subprocess.run(command(settings, *again), cwd=REPOSITORY, check=True, stderr=subprocess.DEVNULL)
    assert same_weights(whole.output, killed.output)


@pytest.fixture
def parley(
    client: httpx.Client, redis_url: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A Parley whose stand-in got sixty votes; the folder of its versions."""
    for vote in votes(60):
        message, reply = vote["turns"]
        body = {"input": message, "response": reply, "feedback": vote["rating"]}
        client.post("/feedback", json=body).raise_for_status()
    monkeypatch.setenv("DIALOGUE_MODEL", "")
    monkeypatch.setenv("DIALOGUE_STANDIN", str(base))
    monkeypatch.setenv("DIALOGUE_REGISTRY", str(tmp_path / "versions"))
    monkeypatch.setenv("DIALOGUE_PORT", str(client.base_url.port))
    monkeypatch.delenv("REDIS_URL", raising=False)
    return tmp_path / "versions"


def test_without_options_the_model_in_service_learns_from_the_votes_it_got(
    parley: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--method", "kto", "--max-length", "32", "--name", "first"]) == 0
    said = capsys.readouterr().out
    assert "agreement" in said
    assert said.splitlines()[-1].endswith("/models/first/activate")
    registry = Registry(parley)
    card = json.loads((registry.folder("first") / "card.json").read_text())
    assert (card["base_model"], card["data"][0]["file"]) == ("base", "votes.jsonl")
    assert not (parley / ".training").exists()

    registry.point(Pointer(active="first"))
    assert main(["--max-length", "32", "--name", "second", "--max-steps", "2"]) == 0
    about = registry.versions()["second"]
    assert isinstance(about, About)
    assert about.parent == "first", "the version in service is what the next one is made from"


def test_votes_can_be_read_from_redis(
    parley: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIALOGUE_PORT", "9")
    few = ["--max-length", "32", "--max-steps", "2"]
    assert main([*few, "--feedback", redis_url, "--output", str(tmp_path / "told")]) == 0
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert main([*few, "--output", str(tmp_path / "found")]) == 0


def test_a_resumed_run_goes_on_with_the_votes_it_began_with(
    parley: Path, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    few = ["--max-length", "32", "--max-steps", "2", "--name", "first"]
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_save", interrupt)
        assert main(few) == 130
    assert main(few) == 2
    assert "--resume" in capsys.readouterr().err
    client.post("/feedback", json={"input": "a", "response": "b", "feedback": "positive"}).raise_for_status()
    assert main([*few, "--resume"]) == 0
    assert list(Registry(parley).versions()) == ["first"]


def test_too_few_votes_leave_nothing_behind(
    parley: Path, client: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    for vote in client.get("/feedback", params={"limit": 50}).json()["votes"]:
        client.delete(f"/feedback/{vote['id']}").raise_for_status()
    assert main(["--name", "first"]) == 2
    assert "Missing: " in capsys.readouterr().err
    assert main(["--name", "first", "--resume"]) == 2
    assert Registry(parley).versions() == {}


def test_a_parley_that_does_not_run_is_told_at_once(
    parley: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIALOGUE_PORT", "9")
    assert main([]) == 2
    assert "make run" in capsys.readouterr().err


def test_defaults_live_in_the_settings_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"({TrainingSettings.epochs})" in capsys.readouterr().out
