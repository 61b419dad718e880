"""What becomes of the words of a model before somebody reads them."""

import re

from dialogue_service.generation import OnText

_SENTENCE_END = re.compile(r"[.!?…][\"')\]]*(?=\s|$)")
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # how a character whose bytes are not all there is decoded


def whole_sentences(text: str) -> str:
    """A text that was cut off, without its unfinished last sentence, unless that is all there is."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


class Stream:
    """Hands out a growing text in pieces that, joined, are the whole text without the white space around
    it."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._shown = ""

    def show(self, text: str) -> None:
        """The text so far. What may still change, or turn out to be its end, is held back."""
        self._send(text.lstrip().rstrip(_UNFINISHED).rstrip())

    def end(self, text: str) -> str:
        """The whole text. Returns what was handed out."""
        self._send(text.strip())
        return self._shown

    def _send(self, text: str) -> None:
        # A tokenizer that rewrites what it had decoded before cannot take back what was said.
        if len(text) > len(self._shown) and text.startswith(self._shown):
            piece = text[len(self._shown) :]
            self._shown = text
            self._on_text(piece)
