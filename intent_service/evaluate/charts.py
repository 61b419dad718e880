"""Pictures of an evaluation as SVG, which every browser shows: written by hand, it takes no library."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from intent_service import metrics
from intent_service.metrics import Answer

_PLOT = 480  # the width and height of what is plotted, in pixels
_MARGIN = 50
_LARGEST_CELL = 24
_LONGEST_NAME = 28  # characters
_STYLE = "<style>text{font:11px sans-serif}.t{font-size:14px}.l{stroke:#999;fill:none}</style>"


def write(folder: Path, answers: Sequence[Answer]) -> list[Path]:
    """Write `reliability.svg` and `confusion.svg` into `folder`, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"reliability.svg": reliability(answers), "confusion.svg": confusion(answers)}
    for name, picture in pictures.items():
        (folder / name).write_text(picture, encoding="utf-8")
    return [folder / name for name in pictures]


def reliability(answers: Sequence[Answer]) -> str:
    """Accuracy over score in bins; where the scores mean what they say the bars end on the diagonal."""
    low, high = _MARGIN, _MARGIN + _PLOT
    parts = [
        f'<text class="t" x="{low}" y="30">Accuracy over score, ECE {metrics.ece(answers) or 0:.3f}</text>'
    ]
    for bin in metrics.reliability(answers):
        left, width = low + bin.low * _PLOT, (bin.high - bin.low) * _PLOT
        height = bin.accuracy * _PLOT
        said = f"score {bin.score:.3f}, accuracy {bin.accuracy:.3f}, {bin.count} messages"
        parts.append(
            f'<rect x="{left:.1f}" y="{high - height:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' fill="#4878a8" stroke="white"><title>{said}</title></rect>'
            f'<circle cx="{low + bin.score * _PLOT:.1f}" cy="{high - height:.1f}" r="3"/>'
        )
    parts.append(f'<path class="l" d="M{low} {low}V{high}H{high}M{low} {high}L{high} {low}"/>')
    for tick in range(0, 11, 2):
        at = tick / 10 * _PLOT
        parts.append(f'<text x="{low + at:.0f}" y="{high + 15}" text-anchor="middle">{tick / 10}</text>')
        parts.append(f'<text x="{low - 5}" y="{high - at + 4:.0f}" text-anchor="end">{tick / 10}</text>')
    return _svg(high + _MARGIN, high + _MARGIN, parts)


def confusion(answers: Sequence[Answer]) -> str:
    """True intents in rows, best labels in columns, the darker the more of a row's messages."""
    pairs = Counter((answer.truth, answer.best) for answer in answers if answer.truth is not None)
    totals = Counter(answer.truth for answer in answers if answer.truth is not None)
    labels = sorted({label for pair in pairs for label in pair if label is not None})
    cell = max(4, min(_LARGEST_CELL, 1200 // max(1, len(labels))))
    left = 40 + 6 * min(_LONGEST_NAME, max((len(label) for label in labels), default=0))
    place = {label: index * cell for index, label in enumerate(labels)}
    parts = [f'<text class="t" x="{left}" y="30">True intent (rows), best label (columns)</text>']
    for (truth, best), count in sorted(pairs.items(), key=str):
        share = count / totals[truth]
        color = "#4878a8" if truth == best else "#c03020"
        parts.append(
            f'<rect x="{left + place[best]}" y="{_MARGIN + place[str(truth)]}" width="{cell}" height="{cell}"'
            f' fill="{color}" fill-opacity="{0.1 + 0.9 * share:.2f}">'
            f"<title>{escape(str(truth))} taken for {escape(best)}: {count} of {totals[truth]}</title></rect>"
        )
    for label, at in place.items():
        parts.append(
            f'<text x="{left - 5}" y="{_MARGIN + at + cell / 2 + 4:.1f}" text-anchor="end"'
            f' style="font-size:{min(11, cell + 1)}px">{escape(label[:_LONGEST_NAME])}</text>'
        )
    size = len(labels) * cell
    parts.append(f'<rect class="l" x="{left}" y="{_MARGIN}" width="{size}" height="{size}"/>')
    return _svg(left + size + _MARGIN, size + 2 * _MARGIN, parts)


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}">\n{_STYLE}\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
