from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from intent_service import catalog
from intent_service.catalog import Catalog, CatalogFault


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "intents.yaml"


def fault(file: Path, text: str | bytes) -> str:
    """What loading a catalogue of this text complains of, without the folder."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CatalogFault) as caught:
        catalog.load(file)
    return str(caught.value).removeprefix(f"{file.parent}/")


def test_the_shipped_catalogue_is_sound() -> None:
    shipped = catalog.load(catalog.SHIPPED)
    labels = [intent.label for intent in shipped.intents]
    assert {"greeting", "goodbye", "thanks", "forget", "self_harm"} <= set(labels)
    assert [intent.label for intent in shipped.intents if intent.replies] == ["forget", "self_harm"]
    assert all(intent.description for intent in shipped.intents)


def test_the_fixed_replies_say_what_matters() -> None:
    replies = {intent.label: intent.replies for intent in catalog.load(catalog.SHIPPED).intents}
    assert all("DELETE /memory" in reply for reply in replies["forget"])
    for reply in replies["self_harm"]:
        assert {"emergency", "helpline", "trust"} <= set(reply.replace(",", "").split())
        assert not any(sign.isdigit() for sign in reply)


def test_a_catalogue_is_read_whole(file: Path) -> None:
    file.write_text(
        "intents:\n"
        "  - label: order_pizza\n"
        "    description: wants pizza\n"
        "    examples: [A large one, Two of them]\n"
        "    replies:\n"
        "      - Coming\n",
        encoding="utf-8",
    )
    (intent,) = catalog.load(file).intents
    assert intent.label == "order_pizza"
    assert intent.phrase == "order pizza"
    assert intent.description == "wants pizza"
    assert intent.examples == ("A large one", "Two of them")
    assert intent.replies == ("Coming",)


@pytest.mark.parametrize(
    ("text", "line", "wrong"),
    [
        ("", 1, "the file: Input should be"),
        ("intents: []\n", 1, "intents: Tuple should have at least 1 item"),
        ("# nothing\nintent: []\n", 2, "intents: Field required"),
        ("intents:\n  - label: a\n  - description: d\n", 3, "intents.1.label: Field required"),
        (
            "intents:\n  - label: a\n    reply: no\n",
            3,
            "intents.0.reply: there is no such field; known are label",
        ),
        (
            "intents:\n  - label: a\n    examples:\n      - ok\n      - yes\n",
            5,
            "intents.0.examples.1: should be text; put it",
        ),
        ("intents:\n  - label: a\n    description: ' '\n", 3, "intents.0.description: must not be blank"),
        ("intents:\n  - label: a b\n  - label: c\n  - label: a_b\n", 4, '"a b" is there already'),
        ("intents:\n  - label: unknown\n", 2, '"unknown" is what the answer says when no label fits'),
        ("intents:\n  - label: ___\n", 2, "must hold more than underscores"),
        ("intents:\n  - label: a\n    label: b\n", 3, 'is not YAML: "label" is there twice'),
        ("intents:\n  - label: a\n  - label: 'b\n", 4, "is not YAML: found unexpected end of stream"),
        ("intents:\n\t- label: a\n", 2, "is not YAML: found character '\\t' that cannot start any token"),
        ("intents: *nobody\n", 1, "is not YAML: found undefined alias"),
        ("intents: !!python/object:os.system {}\n", 1, "is not YAML: could not determine a constructor"),
        ("{[a]: b}", 1, "is not YAML: found unhashable key"),
        (b"intents:\n  - label: \xff\n", 1, "is not UTF-8 text"),
        ("intents: \x00\n", 1, "is not YAML: unacceptable character"),
    ],
)
def test_a_mistake_is_reported_with_its_line(file: Path, text: str | bytes, line: int, wrong: str) -> None:
    message = fault(file, text)
    assert message.startswith(f"intents.yaml:{line}: {wrong}"), message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CatalogFault, match=r"nowhere\.yaml:1: cannot be read \(No such file or directory\)"):
        catalog.load(tmp_path / "nowhere.yaml")


def test_labels_alone_make_a_catalogue() -> None:
    assert [intent.phrase for intent in Catalog.of(["a_b", "c, d"]).intents] == ["a b", "c, d"]


@pytest.mark.parametrize(
    ("labels", "index"), [(["a", "a"], 1), (["x", "a_b", "a b"], 2), (["unknown"], 0), (["a", "__"], 1)]
)
def test_unusable_labels_are_found(labels: list[str], index: int) -> None:
    found = catalog.unusable(labels)
    assert found is not None
    assert found[0] == index


def test_a_file_that_is_too_large_is_refused(file: Path) -> None:
    assert "larger than 4 MiB" in fault(file, "# " + "x" * 2**22)


def test_usable_labels_pass() -> None:
    assert catalog.unusable(["a", "A", "unknown thing"]) is None


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(max_size=20),
    st.binary(max_size=9),
)
_ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | _SCALARS, inner, max_size=4)
    ),
    max_leaves=12,
)
_WORDS = st.text(max_size=12) | st.sampled_from(["unknown", "__", "a_b", "a b", " ", "\x07", "é" * 200])
_INTENTS = st.lists(
    st.fixed_dictionaries(
        {"label": _WORDS | _ANYTHING},
        optional={
            "description": _WORDS | _ANYTHING,
            "examples": st.lists(_WORDS, max_size=3) | _ANYTHING,
            "replies": st.lists(_WORDS, max_size=3) | _ANYTHING,
            "other": _ANYTHING,
        },
    ),
    max_size=4,
)
_CATALOGS = (
    _INTENTS.map(lambda intents: yaml.dump({"intents": intents}, allow_unicode=True))
    | _ANYTHING.map(yaml.dump)
    | st.text(alphabet="abc:- \n\t[]{}&*!|>'\"#%@`,?~\x00é", max_size=80)
    | st.text(max_size=60).map(lambda text: f"intents:\n  - label: {text}\n")
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(text=_CATALOGS)
def test_any_file_is_a_catalogue_or_is_refused_with_a_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "made-up.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found, said = catalog.load(file), ""
    except CatalogFault as fault:
        found, said = None, str(fault)
    if found:
        assert len({intent.phrase for intent in found.intents}) == len(found.intents) > 0
    else:
        line, _, wrong = said.removeprefix(f"{file}:").partition(": ")
        assert 1 <= int(line) <= len(text.splitlines()) + 1
        assert wrong.strip()
        assert "\n" not in said


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_refused_with_a_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(content)
    with pytest.raises(CatalogFault):
        catalog.load(file)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "intents: " + "[" * 5000 + "]" * 5000,
        "a: &a [x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{f'*{chr(97 + n)},' * 9}]\n" for n in range(20)),
        "&a [*a]",
        "intents: &a [*a]",
        "intents:\n- &a {label: x, examples: *a}",
        "intents: 12:30:45\n",
        "intents: 2026-99-99\n",
        "intents:\n- label: !!timestamp 2026-13-13\n",
        "intents:\n- label: !!int x\n",
        "intents:\n- label: !!float x\n",
        "intents:\n- label: !!bool x\n",
        "intents:\n- label: !!binary '*'\n",
        "intents: !!set {a, b}\n",
        "intents: !!omap [a]\n",
        "intents: !!pairs [a]\n",
        "? [a]\n: b\n",
        "<<: 7\nintents: []\n",
        "<<: [7]\n",
        "intents: 1_0:9\n",
        f"intents: 0x{'f' * 5000}\n",
        f"intents: {'9' * 5000}\n",
        f"intents: {'9' * 50}:1\n",
        "intents: =\n",
        "%YAML 9.9\n---\na\n",
        "a\n---\nb\n",
        'intents:\n- label: "\\ud800"\n',
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_means_harm_is_refused(file: Path, text: str) -> None:
    assert len(fault(file, text)) < 500
