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
  const steps = [...new Set([...data.lines.flatMap(line => line.x), ...data.marks.map(m => m.x)])].sort((a, b) => a - b);
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
