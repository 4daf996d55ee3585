"""The report's page: how numbers and foreign text are written, and the shell around them. Style and scripts are files in web/.

The page asks for nothing from outside, and a content security policy says so to the browser: text of a model that
slipped through the escaping could load nothing, and run nothing, either. Colours follow Okabe and Ito's, which those with a colour
deficiency can tell apart.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib.resources
import json
import math
from collections.abc import Sequence
from typing import Any

_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in '\n\t'}


def visible(value: object) -> str:
    """Any value as text, whose control characters become visible."""
    return str(value).translate(_VISIBLE)


def text(value: object) -> str:
    """Any value as HTML text, also inside a quoted attribute. Control characters become visible."""
    return html.escape(visible(value), quote=True)


def number(value: float | None, percent: bool = False, digits: int = 3) -> str:
    """'1,234', '0.0123', '3e-6', '93.4 %'; '–' for None and what is not finite."""
    if value is None or not math.isfinite(value):
        return '–'
    if percent:
        return f'{100 * value:.{2 if 0 < abs(value) < 0.01 else 1}f} %'
    if value == round(value) or abs(value) >= 10**digits:
        return f'{value:,.0f}'
    return f'{value:.{digits}g}'.replace('e-0', 'e-')


def span(seconds: float | None) -> str:
    """'48 s', '6 min 5 s', '3 h 20 min'."""
    if seconds is None or not math.isfinite(seconds):
        return '–'
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f'{rest} s'
    return f'{minutes} min {rest} s' if minutes < 60 else f'{minutes // 60} h {minutes % 60} min'


def data(name: str, value: Any) -> str:
    """JSON values as an element that the page's scripts read: `JSON.parse(document.getElementById(name).textContent)`.

    An element of a script ends at the first `</script`, whatever JSON says, and `<!--` changes where it ends: no `<` is left in it.
    """
    said = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(',', ':')).replace('<', '\\u003c')
    return f'<script type="application/json" id="{text(name)}">{said}</script>'


@functools.cache
def asset(name: str) -> str:
    """A file of web/."""
    return importlib.resources.files('r1jax.report').joinpath('web', name).read_text(encoding='utf-8')


def document(title: str, body: str, scripts: Sequence[str] = ('chart.js',)) -> str:
    """The whole file. `body` is HTML, `title` is text, `scripts` are files of web/ that run when it is there."""
    first, last = asset('theme.js'), [asset(name) for name in scripts]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_policy([first, *last])}">
<title>{text(title)}</title>
<style>{asset('style.css')}</style>
<script>{first}</script>
</head>
<body>
<button type="button" id="theme" hidden></button>
{body}
{''.join(f'<script>{script}</script>' for script in last)}
</body>
</html>
"""


def _policy(scripts: Sequence[str]) -> str:
    """Nothing from outside the file, and of scripts only these, told by what they are."""
    known = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    named = ' '.join(f"'sha256-{each}'" for each in known)
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {named}"
