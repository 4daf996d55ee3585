"""The report's page: how numbers and foreign text are written, the style sheet, the script and the shell around them.

The page asks for nothing from outside, and a content security policy says so to the browser: text of a model that
slipped through the escaping could load nothing either. Colours follow Okabe and Ito's, which those with a colour
deficiency can tell apart.
"""

from __future__ import annotations

import html
import math


def text(value: object) -> str:
    """Any value as HTML text, also inside a quoted attribute. Control characters become visible."""
    shown = ''.join(chr(0x2400 + ord(c)) if c < ' ' and c not in '\n\t' else c for c in str(value))
    return html.escape(shown, quote=True)


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


def document(title: str, body: str) -> str:
    """The whole file. `body` is HTML, `title` is text."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""


POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # nothing from outside the file

STYLE = """
:root {
  --ground: #f6f7f9; --surface: #fff; --ink: #1a1f27; --muted: #5c6673; --edge: #dfe3e8; --soft: #eef1f4;
  --s0: #0072b2; --s1: #009e73; --s2: #b8589a; --s3: #7a6a00;
  --m0: #d55e00; --m1: #7b4fa3; --m2: #00775a; --m3: #5c6673;
  --good: #00775a; --good-soft: #e3f4ee; --warn: #a34700; --warn-soft: #fdefe2; --before: #8a94a1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #101318; --surface: #181c23; --ink: #e6e9ee; --muted: #9aa5b3; --edge: #2b323c; --soft: #20262f;
    --s0: #5ab4f0; --s1: #34c79a; --s2: #e297c8; --s3: #e0d060;
    --m0: #f5984b; --m1: #b893e0; --m2: #34c79a; --m3: #9aa5b3;
    --good: #46cfa5; --good-soft: #14302a; --warn: #f5a55c; --warn-soft: #382615; --before: #8b95a3;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif;
  font-variant-numeric: tabular-nums;
}
header, main, footer { max-width: 1160px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 34px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 4px; }
h2 { font-size: 20px; letter-spacing: -.01em; margin: 40px 0 10px; }
h3 { font-size: 16px; margin: 24px 0 8px; }
h3 small, h2 small { font-weight: 400; color: var(--muted); font-size: 13.5px; }
p { margin: 8px 0; }
a { color: var(--s0); }
code, pre { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }
.muted, .note { color: var(--muted); }
nav { margin-top: 12px; display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 14px; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--s0); outline-offset: 2px; }

.card {
  background: var(--surface); border: 1px solid var(--edge); border-radius: 10px; padding: 16px 18px;
  margin: 12px 0;
}
.card > :first-child { margin-top: 0; } .card > :last-child { margin-bottom: 0; }
.verdict { font-size: 17px; line-height: 1.5; }
.badge {
  display: inline-block; border-radius: 99px; padding: 1px 10px; font-size: 12.5px; font-weight: 600;
  vertical-align: 2px;
}
.good { color: var(--good); background: var(--good-soft); }
.warn { color: var(--warn); background: var(--warn-soft); }
.card.warn, .card.good { color: inherit; background: var(--surface); border-left: 4px solid var(--warn); }
.card.good { border-left-color: var(--good); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 10px; margin-top: 14px; }
.tile { background: var(--soft); border-radius: 8px; padding: 10px 12px; }
.tile b { display: block; font-size: 20px; letter-spacing: -.01em; white-space: nowrap; }
.tile b i { font-style: normal; font-weight: 400; color: var(--before); }
.tile span { display: block; font-size: 12.5px; color: var(--muted); }

.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 12px; }
.chart {
  position: relative; display: flex; flex-direction: column; margin: 0; background: var(--surface);
  border: 1px solid var(--edge); border-radius: 10px; padding: 10px 12px 4px;
}
.chart figcaption { font-size: 13.5px; line-height: 1.4; margin-bottom: auto; }
.chart .note { font-size: 12.5px; }
.legend { display: block; font-size: 12px; color: var(--muted); }
.legend span { margin-right: 10px; white-space: nowrap; }
.key {
  display: inline-block; width: 9px; height: 9px; border-radius: 5px; margin-right: 4px; background: var(--c);
}
.key.m1 { border-radius: 0; }
.key.m2 { border-radius: 0; transform: rotate(45deg) scale(.85); }
.key.m3 { border-radius: 0; clip-path: polygon(50% 0, 100% 100%, 0 100%); }
.chart svg { display: block; margin-top: 6px; width: 100%; height: auto; touch-action: pan-y; }
svg text { font-size: 12px; fill: var(--muted); }
.grid { stroke: var(--edge); stroke-width: 1; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.m0 { --c: var(--m0); } .m1 { --c: var(--m1); } .m2 { --c: var(--m2); } .m3 { --c: var(--m3); }
.raw { fill: none; stroke: var(--c); stroke-width: 1; opacity: .35; }
.smooth { fill: none; stroke: var(--c); stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.band { fill: var(--c); opacity: .16; } .dot, .mark { fill: var(--c); } .error { stroke: var(--c); stroke-width: 1.6; }
.cursor line { stroke: var(--muted); stroke-dasharray: 2 3; } .cursor circle { fill: var(--ink); }
.tip {
  position: absolute; display: none; pointer-events: none; z-index: 2; white-space: pre;
  font-size: 12.5px; line-height: 1.45; background: var(--ink); color: var(--surface); border-radius: 6px;
  padding: 5px 9px; max-width: 95%;
}

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td {
  text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--edge); vertical-align: middle;
  white-space: nowrap;
}
td.wrap { white-space: normal; min-width: 190px; }
th { font-weight: 600; font-size: 12.5px; color: var(--muted); } tr:last-child td { border-bottom: 0; }
.reached small { display: block; } td small { color: var(--muted); } td i { font-style: normal; color: var(--muted); }
.bar { width: 190px; height: 22px; display: block; }
.ci { stroke-width: 11; opacity: .3; } .ci.before { stroke: var(--before); } .ci.after { stroke: var(--s0); }
circle.before { fill: var(--surface); stroke: var(--before); stroke-width: 2; } circle.after { fill: var(--s0); }
.meter { background: var(--soft); border-radius: 4px; height: 10px; width: 160px; overflow: hidden; }
.meter i { display: block; height: 100%; }
.meter .before { background: var(--before); }
.meter .after { background: var(--s0); }

.graph { display: block; max-width: none; margin: 0 auto; }
.graph text { font-size: 12px; } .graph .name { font-size: 14px; font-weight: 600; fill: var(--ink); }
.graph rect { fill: var(--soft); stroke: var(--s0); stroke-width: 1.6; }
.graph .open rect { stroke-dasharray: 4 4; stroke: var(--muted); } .graph .weights rect { stroke: var(--edge); fill: var(--surface); }
.graph a:hover rect, .graph a:focus-visible rect { fill: var(--surface); stroke-width: 3; }
.edge path { fill: none; stroke: var(--muted); stroke-width: 1.5; } .edge.read > path { stroke: var(--m1); stroke-dasharray: 5 4; }
.edge .head { fill: var(--muted); stroke: none; } .edge.read .head { fill: var(--m1); }
.card h4 { margin: 16px 0 4px; font-size: 13px; color: var(--muted); }
.card:target, :target > .card { border-color: var(--s0); }

.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; }
.pair > * { min-width: 0; }
.pair h4 { margin: 4px 0 6px; font-size: 13px; color: var(--muted); }
.sample { border: 1px solid var(--edge); border-radius: 8px; margin-bottom: 10px; overflow: hidden; }
.sample pre, .prompt, pre.json {
  margin: 0; padding: 10px 12px; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
}
.sample pre { max-height: 300px; overflow: auto; }
.sample p {
  margin: 0; padding: 5px 12px; background: var(--soft); font-size: 12.5px; color: var(--muted); display: flex;
  flex-wrap: wrap; gap: 2px 12px;
}
.sample p b { color: var(--ink); }
.sample p b.good { background: none; color: var(--good); }
.sample p b.warn { background: none; color: var(--warn); }
.think { color: var(--muted); } .tag { color: var(--m1); }
.prompt { background: var(--soft); border-radius: 8px; margin: 6px 0 4px; }
.prompt.question { font-size: 14px; }
.prompt + .pair, details + .pair { margin-top: 12px; }
.card details { margin: 4px 0; font-size: 13px; }
details { margin: 10px 0; } summary { cursor: pointer; } details > summary { color: var(--muted); }
details > .charts { margin-top: 10px; }
pre.json { background: var(--soft); border-radius: 8px; max-height: 560px; overflow: auto; white-space: pre; }
footer { color: var(--muted); font-size: 13px; padding-top: 24px; padding-bottom: 40px; }
@media (max-width: 700px) {
  .pair { grid-template-columns: 1fr; } h1 { font-size: 25px; } .verdict { font-size: 16px; }
}
@media print {
  .sample pre { max-height: none; } .chart, .card, .sample { break-inside: avoid; } nav { display: none; }
}
"""

SCRIPT = r"""
'use strict';
// Values under the pointer, or at the cursor that the arrow keys move. Foreign text goes in as text, never as HTML.
for (const figure of document.querySelectorAll('.chart')) {
  const data = JSON.parse(figure.dataset.chart);
  const [svg, cursor, tip] = ['svg', '.cursor', '.tip'].map(name => figure.querySelector(name));
  const [left, right, bottom, top] = data.box, [x0, x1, y0, y1] = data.scale;
  const toX = x => left + (x - x0) / (x1 - x0) * (right - left);
  const up = y => ((data.log ? Math.log10(y) : y) - y0) / (y1 - y0);
  const toY = y => bottom - Math.min(1, Math.max(0, up(y))) * (bottom - top);
  const say = v => data.percent ? (100 * v).toFixed(1) + ' %' :
    Math.abs(v) >= 1000 ? Math.round(v).toLocaleString('en') : String(Number(v.toPrecision(3)));
  const within = (low, high, i) =>
    low && low[i] !== null ? ` [${say(low[i])}, ${say(high[i])}]`.replace(' %,', ',') : '';
  const nearest = (xs, x) => xs.reduce((best, v, i) => Math.abs(v - x) < Math.abs(xs[best] - x) ? i : best, 0);
  const steps = [...new Set([...data.lines[0].x, ...data.marks.map(m => m.x)])].sort((a, b) => a - b);
  let at = steps.length - 1;

  function show() {
    const x = steps[at], rows = [`step ${x}`], dots = [];
    for (const line of data.lines) {
      const i = nearest(line.x, x);
      if (line.x[i] !== x && Math.abs(toX(line.x[i]) - toX(x)) > 6) continue;
      rows.push(`${line.name}: ${say(line.y[i])}` + (line.exact ? within(line.low, line.high, i) : ''));
      if (line.x.length >= 8 && !line.exact) rows.push(`  smoothed: ${say(line.mean[i])}` + within(line.low, line.high, i));
      dots.push([line.x[i], line.mean[i]]);
    }
    for (const mark of data.marks) {
      if (mark.x !== x) continue;
      rows.push(`${mark.name}: ${say(mark.y)}` + within([mark.low], [mark.high], 0));
    }
    cursor.innerHTML = `<line x1="${toX(x)}" x2="${toX(x)}" y1="${top}" y2="${bottom}"/>` +
      dots.map(([a, b]) => `<circle cx="${toX(a)}" cy="${toY(b)}" r="3.5"/>`).join('');
    tip.textContent = rows.join('\n');
    tip.style.display = 'block';
    const scale = svg.clientWidth / svg.viewBox.baseVal.width, beside = svg.offsetLeft || 12;
    const want = toX(x) * scale + beside + 10, room = figure.clientWidth - tip.offsetWidth - 6;
    tip.style.left = Math.max(6, want > room ? want - tip.offsetWidth - 20 : want) + 'px';
    tip.style.top = (figure.clientHeight - 6) + 'px';  // below the chart, so as not to hide the curve
  }
  function hide() { cursor.replaceChildren(); tip.style.display = 'none'; }
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    at = nearest(steps, x0 + (x - left) / (right - left) * (x1 - x0));
    show();
  });
  svg.addEventListener('pointerleave', hide);
  svg.addEventListener('blur', hide);
  svg.addEventListener('keydown', event => {
    const move = {ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9}[event.key];
    if (!move) { if (event.key === 'Escape') hide(); return; }
    at = Math.min(steps.length - 1, Math.max(0, at + move));
    event.preventDefault();
    show();
  });
}
"""
