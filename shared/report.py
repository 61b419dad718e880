"""The report on a candidate: one HTML file for a browser that needs nothing else, in light and dark."""

from collections.abc import Sequence
from html import escape

from shared.gate import Measure, Verdict

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6472; --paper: #ffffff; --card: #f4f6f9;
  --line: #d9dee6; --old: #8a94a3; --new: #2f6fd0; --good: #1a7f45; --bad: #c0362c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b2; --paper: #14171c;
  --card: #1d2229; --line: #333b46; --old: #77818f; --new: #6ea8ff; --good: #4cc27f; --bad: #ff7b6e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem; font: 15px/1.5 system-ui, sans-serif;
  background: var(--paper); color: var(--ink); }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; max-width: 50rem; }
.soft { color: var(--soft); font-size: .87rem; }
.verdict { border-left: .35rem solid var(--bad); background: var(--card); padding: .9rem 1.1rem;
  border-radius: .3rem; }
.verdict.yes { border-color: var(--good); }
.verdict strong { font-size: 1.05rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .85rem; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { white-space: nowrap; } td:first-child { min-width: 9rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.yes { color: var(--good); } td.no { color: var(--bad); }
tbody.group { border-top: 2px solid var(--line); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: .15em; margin: 0 .3em 0 .9em; }
.old { background: var(--old); fill: var(--old); } .new { background: var(--new); fill: var(--new); }
svg { display: block; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg .limit { stroke: var(--ink); stroke-width: 1.5; } svg .axis { stroke: var(--line); }
svg circle { fill-opacity: .55; } svg .up { fill: var(--good); } svg .down { fill: var(--bad); }
"""

_BAR = 150
_THICK = 9


def page(name: str, verdict: Verdict, intro: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole file: verdict, measures, and then `sections` of a heading and its HTML."""
    title = f"{name} beside {verdict.against}"
    body = "\n".join(f"<h2>{escape(heading)}</h2>\n{content}" for heading, content in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<div class="verdict{" yes" if verdict.promoted else ""}">
<strong>{escape(verdict.why)}</strong>
<p class="soft">The rule: {escape(verdict.rule)}</p>
</div>
<p>{escape(intro)}</p>
<h2>Measures</h2>
{_key(verdict.against, name)}
{_measures(verdict.measures)}
{body}
</body>
</html>
"""


def table(head: Sequence[str], groups: Sequence[Sequence[Sequence[str]]]) -> str:
    """Rows of texts in groups, with a line between groups."""
    shown = "".join(
        '<tbody class="group">' + "".join(f"<tr>{_cells(row)}</tr>" for row in group) + "</tbody>"
        for group in groups
    )
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>{shown}</table></div>'


def strips(rows: Sequence[tuple[str, Sequence[float], Sequence[float]]], axis: str) -> str:
    """For each row its name, and on one common axis a dot for each value: good ones above, bad ones below."""
    values = [value for _, good, bad in rows for value in (*good, *bad)]
    low, high = min(values), max(values)
    left, width, height = 130, 620, 64

    def place(value: float) -> float:
        return left + width * (value - low) / ((high - low) or 1.0)

    parts = []
    for index, (name, good, bad) in enumerate(rows):
        middle = index * height + height / 2
        parts.append(f'<text x="0" y="{middle + 4}">{escape(name[:20])}</text>')
        parts.append(f'<line class="axis" x1="{left}" x2="{left + width}" y1="{middle}" y2="{middle}"/>')
        for kind, dots, off in (("up", good, -9), ("down", bad, 9)):
            parts += [
                f'<circle class="{kind}" cx="{place(value):.1f}" cy="{middle + off}" r="4.5"/>'
                for value in dots
            ]
    below = len(rows) * height + 12
    parts.append(f'<text x="{left}" y="{below}">{low:.2f}</text>')
    parts.append(f'<text x="{left + width / 2}" y="{below}" text-anchor="middle">{escape(axis)}</text>')
    parts.append(f'<text x="{left + width}" y="{below}" text-anchor="end">{high:.2f}</text>')
    size = f'viewBox="0 -6 {left + width + 8} {below + 14}" width="{left + width + 8}" height="{below + 14}"'
    return f'<div class="scroll"><svg {size} role="img">{"".join(parts)}</svg></div>'


def _key(before: str, after: str) -> str:
    old, new = escape(before), escape(after)
    return (
        f'<p class="soft"><span class="key old" style="margin-left:0"></span>{old}, in service'
        f'<span class="key new"></span>{new}, the candidate; the mark is where the rule draws its line</p>'
    )


def _measures(measures: Sequence[Measure]) -> str:
    rows = "".join(
        f"<tr><td>{escape(m.name)}<div class='soft'>{escape(m.said)}</div></td>"
        f"<td class='number'>{m.before:.4g}</td><td class='number'>{m.after:.4g}</td><td>{_bars(m)}</td>"
        f"<td class='{'yes' if m.holds else 'no'}'>{'✓' if m.holds else '✗'} {escape(m.condition)}</td></tr>"
        for m in measures
    )
    head = "".join(f"<th>{title}</th>" for title in ("measure", "in service", "candidate", "", "condition"))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _bars(measure: Measure) -> str:
    """Both values as bars from 0, and the value from which on the rule is met."""
    sign = (1 if measure.aim else -1) * (1 if measure.better == "higher" else -1)
    limit = None if measure.bound is None else measure.before + sign * measure.bound
    largest = max(measure.before, measure.after, limit or 0.0) or 1.0

    def bar(kind: str, value: float, top: float) -> str:
        width = f"{_BAR * value / largest:.1f}"
        return f'<rect class="{kind}" y="{top}" width="{width}" height="{_THICK}" rx="1.5"/>'

    mark = ""
    if limit is not None:
        at = f"{max(0.0, _BAR * limit / largest):.1f}"
        mark = f'<line class="limit" x1="{at}" x2="{at}" y1="-1" y2="{2 * _THICK + 4}"/>'
    shown = bar("old", measure.before, 0) + bar("new", measure.after, _THICK + 3) + mark
    width, height = _BAR + 3, 2 * _THICK + 7
    return f'<svg viewBox="-1 -2 {width} {height}" width="{width}" height="{height}">{shown}</svg>'


def _cells(row: Sequence[str]) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in row)
