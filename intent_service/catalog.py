"""The catalogue: which intents there are, what they mean, and the few replies that are fixed.

It is a YAML file that its owner edits, so every mistake in it is reported with file and line.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from shared.contracts import Label, Text

SHIPPED = Path(__file__).with_name("intents.yaml")
UNKNOWN = "unknown"
_MAX_BYTES = 4 * 2**20


class CatalogIntent(BaseModel):
    """One intent: its name, what it means, how people put it, and what to answer if that must not vary."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Label = Field(examples=["forget"])
    description: Text | None = Field(default=None, examples=["the user wants the conversation deleted"])
    examples: tuple[Text, ...] = Field(default=(), examples=[["Delete everything I told you."]])
    replies: tuple[Text, ...] = Field(
        default=(),
        description="Fixed replies, for what must not be left to a model; one is chosen by the message.",
        examples=[["Send DELETE /memory and the conversation is gone."]],
    )

    @property
    def phrase(self) -> str:
        """The label as people would write it."""
        return phrase(self.label)


class Catalog(BaseModel):
    """The intents a message is classified among; hashable, so that work on it can be kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    intents: tuple[CatalogIntent, ...] = Field(min_length=1)
    _hash: int = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        """Hash once: every request looks something up by its catalogue."""
        self._hash = hash(self.intents)

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def of(cls, labels: Sequence[str]) -> Self:
        """A catalogue of bare labels. Check them with `unusable` first."""
        return cls(intents=tuple(CatalogIntent(label=label) for label in labels))


class CatalogFault(ValueError):
    """A catalogue that cannot be used; the message is `path:line: what is wrong`."""

    def __init__(self, path: Path, line: int, wrong: str) -> None:
        super().__init__(f"{path}:{line}: {wrong}")


def phrase(label: str) -> str:
    """A label with its underscores as spaces."""
    return label.replace("_", " ").strip()


def unusable(labels: Sequence[str]) -> tuple[int, str] | None:
    """Where the first label that cannot stand is, and why; None when all can."""
    seen: set[str] = set()
    for index, label in enumerate(labels):
        this = phrase(label)
        if not this:
            return index, "must hold more than underscores"
        if this == UNKNOWN:
            return index, f'"{UNKNOWN}" is what the answer says when no label fits, so it cannot be one'
        if this in seen:
            return index, f'"{this}" is there already'
        seen.add(this)
    return None


def load(path: Path) -> Catalog:
    """Read the catalogue at `path`. Raises CatalogFault."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CatalogFault(path, 1, "is larger than 4 MiB")
        reader = _Reader(path.read_text(encoding="utf-8"))
        root = reader.get_single_node()
        content = reader.construct_document(root) if root else None
        catalog = Catalog.model_validate(content)
    except OSError as error:
        raise CatalogFault(path, 1, f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise CatalogFault(path, 1, "is not UTF-8 text") from None
    except RecursionError:
        raise CatalogFault(path, 1, "is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CatalogFault(path, line, f"is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise CatalogFault(path, 1, f"is not YAML: {error}".splitlines()[0]) from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise CatalogFault(path, _line(root, fault["loc"]), _explain(fault["loc"], fault["msg"])) from None
    if found := unusable([intent.label for intent in catalog.intents]):
        index, wrong = found
        raise CatalogFault(path, _line(root, ("intents", index, "label")), wrong)
    return catalog


class _Reader(yaml.SafeLoader):
    """Says where a mistake is that YAML's own loader overlooks or only stumbles over.

    It silently takes the last of two equal keys, and lets the error of a date that there is not escape.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                problem=f"this is no {kind}; put it in quotes if it is text", problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f'"{key.value}" is there twice', problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _line(node: yaml.Node | None, location: Sequence[int | str]) -> int:
    """The line of what `location` names, or of the nearest thing around it that exists."""
    line = node.start_mark.line + 1 if node else 1
    for step in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == step]
            if not found:
                break
            key, node = found[0]
            line = key.start_mark.line + 1
    return line


def _explain(location: Sequence[int | str], message: str) -> str:
    where = ".".join(str(step) for step in location) or "the file"
    wrong = message.removeprefix("Value error, ")
    if wrong == "Extra inputs are not permitted":
        wrong = f"there is no such field; known are {', '.join(CatalogIntent.model_fields)}"
    if wrong == "Input should be a valid string":
        wrong = "should be text; put it in quotes"
    return f"{where}: {wrong}"
