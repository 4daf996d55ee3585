'use strict';
// The samples browser: filters, a list and the sample that is chosen. What a model wrote goes in as text, never as HTML.
(() => {
  const source = document.getElementById('sample-data');
  if (!source) return;
  const data = JSON.parse(source.textContent), all = data.samples;
  const PAGE = 100;  // rows of the list that are made at once
  const $ = id => document.getElementById(id);
  const made = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const say = value => Number.isInteger(value) ? value.toLocaleString('en') : String(Number(value.toPrecision(3)));
  const prompt = sample => data.prompts[sample.prompt][0];
  const colour = run => `key s${run % 8}` + (Math.floor(run / 8) % 2 ? ' dashed' : '');
  const unique = values => [...new Set(values)];
  all.forEach((sample, place) => { sample.place = place; });

  let found = [], at = -1, rows = 0, words = [], folded = true, question = null;

  // --- what is asked for

  const turns = sample => sample.turns || [sample];  // one of the policy's, where nothing stood between
  const text = sample => sample.text ??= [
    prompt(sample), ...turns(sample).flatMap(turn => [turn.thinking, turn.answer, turn.said]), sample.expected,
  ].filter(Boolean).join('\n').toLowerCase();
  const TESTS = {'=': (a, b) => a === b, '!=': (a, b) => a !== b, '<': (a, b) => a < b, '<=': (a, b) => a <= b, '>': (a, b) => a > b, '>=': (a, b) => a >= b};
  const OWN = ['reward', 'tokens', 'step'];

  function conditions(asked) {  // 'format=0 language<0.5' -> tests of a sample; throws what is wrong with it
    const tests = [];
    const rest = asked.replace(/([^\s<>=!,]+)\s*(<=|>=|!=|=|<|>)\s*(-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?=$|[\s,])/gi, (_, name, sign, number) => {
      const part = data.parts.indexOf(name), own = OWN.includes(name);
      if (part < 0 && !own) throw new Error(`There is no reward part “${name}”: ${[...data.parts, ...OWN].join(', ')}.`);
      const wanted = Number(number), test = TESTS[sign];
      tests.push(sample => {
        const value = part >= 0 ? sample.parts[part] : sample[name];
        return value !== null && value !== undefined && test(value, wanted);
      });
      return '';
    }).replace(/[\s,]+/g, ' ').trim();
    if (rest) throw new Error(`“${rest}” is no condition: write such as format=0, accuracy=1 or language<0.5.`);
    return tests;
  }

  function search() {
    words = $('find').value.toLowerCase().split(/\s+/).filter(Boolean);
    let tests = [];
    try {
      tests = conditions($('where').value);
      $('where-wrong').textContent = '';
      $('where').removeAttribute('aria-invalid');
    } catch (error) {
      $('where-wrong').textContent = error.message;
      $('where').setAttribute('aria-invalid', 'true');
    }
    const choice = id => $(id).value === '' ? null : $(id).value;
    const [run, stage, when, cut] = ['run', 'stage', 'when', 'cut'].map(choice);
    const [from, to] = ['from', 'to'].map(id => choice(id) === null ? null : Number($(id).value));
    found = all.filter(sample =>
      (run === null || sample.run === Number(run)) && (stage === null || sample.stage === stage) && (when === null || sample.when === when) &&
      (from === null || sample.step >= from) && (to === null || sample.step <= to) && (cut === null || Boolean(sample.cut) === (cut === '1')) &&
      (!question || question(sample)) && tests.every(test => test(sample)) && words.every(word => text(sample).includes(word)));
    const [by, sign] = $('sort').value.split(' ');
    if (by) {
      const known = sample => sample[by] !== undefined;
      found.sort((a, b) => known(b) - known(a) || (known(a) ? Number(sign) * (a[by] - b[by]) : 0) || a.place - b.place);
    }
    $('count').textContent = `${found.length.toLocaleString('en')} of ${all.length.toLocaleString('en')} samples`;
    rows = 0;
    $('list').replaceChildren();
    grow();
    choose(found.length ? 0 : -1, false);
  }

  // --- the list

  function grow() {
    $('more')?.remove();
    const end = Math.min(found.length, rows + PAGE);
    for (; rows < end; rows++) $('list').append(row(found[rows], rows));
    if (rows < found.length) {
      const more = made('button', '', `${(found.length - rows).toLocaleString('en')} more`);
      more.type = 'button';
      more.id = 'more';
      more.tabIndex = -1;  // the arrows make more of them by themselves
      more.addEventListener('click', grow);
      $('list').append(more);
    }
  }

  function row(sample, i) {
    const item = made('div', 'row');
    item.id = `row-${i}`;
    item.setAttribute('role', 'option');
    item.setAttribute('aria-selected', 'false');
    const head = made('span', 'where');
    if (data.runs.length > 1) head.append(made('i', colour(sample.run)));
    head.append(made('span', 'place', place(sample, false)));
    if (sample.reward !== undefined) head.append(made('b', '', say(sample.reward)));
    if (sample.failed) head.append(made('span', 'badge warn', 'not graded'));
    if (sample.cut) head.append(made('span', 'badge warn', 'cut off'));
    const line = made('span', 'said', asked(sample).slice(0, 60));
    line.append(made('span', 'muted', ` → ${turns(sample).at(-1).answer?.slice(0, 60) || '…'}`));
    item.append(head, line);
    item.addEventListener('click', () => choose(i, true));
    return item;
  }

  const asked = sample => {
    const [whole, begin] = data.prompts[sample.prompt];
    return whole.slice(begin).trim() || whole.trim();
  };
  const place = (sample, whole) => [
    ...(whole && data.runs.length > 1 ? [data.runs[sample.run]] : []), sample.stage, ...(sample.step === undefined ? [] : [`step ${say(sample.step)}`]),
    ...(whole || sample.when !== 'rollout' ? [sample.when] : []), `question ${sample.question}`].join(' · ');

  function choose(i, scroll) {
    document.querySelector('.row[aria-selected=true]')?.setAttribute('aria-selected', 'false');
    at = i;
    $('list').removeAttribute('aria-activedescendant');
    $('same').disabled = i < 0;
    if (i < 0) {
      $('shown').replaceChildren(made('p', 'muted', 'No sample is like that.'));
      return;
    }
    while (i >= rows) grow();
    const item = $(`row-${i}`);
    item.setAttribute('aria-selected', 'true');
    $('list').setAttribute('aria-activedescendant', item.id);
    if (scroll) {  // within the list alone: the page stays
      const list = $('list'), top = item.offsetTop;  // from the top of the list, which its rows are placed in
      if (top < list.scrollTop) list.scrollTop = top;
      if (top + item.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + item.offsetHeight - list.clientHeight;
    }
    show(found[i]);
  }

  const move = by => { if (found.length) choose(Math.min(found.length - 1, Math.max(0, at + by)), true); };

  // --- the sample

  function marked(element, said) {  // what was searched for stands out
    if (!words.length) {
      element.textContent = said;
      return element;
    }
    const escaped = words.map(word => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
    said.split(new RegExp(`(${escaped.join('|')})`, 'gi')).forEach((piece, i) => {
      if (piece) element.append(i % 2 ? made('mark', '', piece) : piece);
    });
    return element;
  }

  function fold(title, name, said, open) {
    const details = made('details', name);
    details.open = open;
    details.append(made('summary', '', title), marked(made('pre'), said));
    return details;
  }

  function show(sample) {
    const shown = $('shown'), has = said => words.length && words.some(word => said.toLowerCase().includes(word));
    const whole = prompt(sample), asking = asked(sample);
    const facts = made('p', 'facts');
    const fact = (name, value, tone) => {
      const span = made('span', '', `${name} `);
      span.append(made('b', tone || '', value));
      facts.append(span);
    };
    if (sample.reward !== undefined) fact('reward', say(sample.reward));
    data.parts.forEach((name, i) => {
      const value = sample.parts[i];
      if (value !== null) fact(name, say(value), value >= 1 ? 'good' : value <= 0 ? 'warn' : '');
    });
    if (sample.tokens !== undefined) facts.append(made('span', '', `${say(sample.tokens)} tokens`));
    if (sample.cut) facts.append(made('b', 'warn', 'cut off'));
    if (sample.failed) facts.append(made('b', 'warn', `grader error: ${sample.failed}`));
    const parts = [made('h3', '', place(sample, true)), facts, made('h4', '', 'Prompt'), marked(made('pre', 'prompt question'), asking)];
    if (asking !== whole.trim()) parts.push(fold('The whole prompt', 'whole', whole, has(whole) && !has(asking)));
    turns(sample).forEach((turn, i) => {
      if (turn.said !== undefined) {
        parts.push(made('h4', '', 'Environment'), marked(made('pre', 'between'), turn.said));
        return;
      }
      if (turn.thinking !== undefined) {
        const length = `${turn.thinking.length.toLocaleString('en')} characters`;
        parts.push(fold(`Thinking, ${length}`, 'thought', turn.thinking, !folded || has(turn.thinking)));
      }
      const title = sample.turns ? `Turn ${i / 2 + 1}` : 'Answer';
      parts.push(made('h4', '', title), turn.answer ? marked(made('pre', 'answer'), turn.answer) : made('p', 'muted', 'There is none.'));
    });
    if (sample.expected !== undefined) {
      const expected = made('p', 'expected', 'Expected: ');
      expected.append(marked(made('b'), sample.expected));
      parts.push(expected);
    }
    shown.replaceChildren(...parts);
    shown.scrollTop = 0;
  }

  function setFolded(now) {
    folded = now;
    $('fold').setAttribute('aria-pressed', String(now));
    for (const details of document.querySelectorAll('#shown .thought')) details.open = !now;
  }

  function same(only) {  // the other samples of the question that is shown, wherever it was asked in this run
    const now = found[at];
    question = only && now ? sample => sample.run === now.run && sample.question === now.question && sample.prompt === now.prompt : null;
    $('same').setAttribute('aria-pressed', String(Boolean(question)));
    search();
    if (question) choose(Math.max(0, found.indexOf(now)), true);
  }

  // --- filling and listening

  function options(id, values) {
    $(id).append(new Option('all', ''), ...values.map(([value, name]) => new Option(name, value)));
    $(id).parentElement.hidden = values.length < 2;
  }
  options('run', data.runs.map((name, i) => [i, name]).filter(([i]) => all.some(sample => sample.run === i)));
  options('stage', unique(all.map(sample => sample.stage)).map(name => [name, name]));
  options('when', unique(all.map(sample => sample.when)).map(name => [name, name]));
  for (const name of data.parts) {
    const button = made('button', '', name);
    button.type = 'button';
    button.addEventListener('click', () => {
      const field = $('where');
      field.value = `${field.value.trim()} ${name}=`.trim();
      field.focus();
    });
    $('parts').append(button);
  }
  $('filters').addEventListener('input', search);
  $('filters').addEventListener('submit', event => event.preventDefault());
  $('filters').addEventListener('keydown', event => {  // a form of several fields is not submitted by Enter
    if (event.key === 'Enter' && event.target.matches('input')) { event.preventDefault(); $('list').focus(); }
  });
  $('fold').addEventListener('click', () => setFolded(!folded));
  $('same').addEventListener('click', () => same(!question));
  $('clear').addEventListener('click', () => { $('filters').reset(); same(false); $('find').focus(); });
  $('list').addEventListener('keydown', event => {
    const by = {ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9}[event.key];
    if (by) { event.preventDefault(); move(by); }
    if (event.key === 'Enter') $('shown').focus();
  });
  const field = target => target.matches('input, select, textarea');
  $('browse').addEventListener('keydown', event => {
    if (event.key === 'Escape' && event.target.id === 'find' && $('find').value) {
      event.preventDefault();
      $('find').value = '';
      search();
    }
    if (field(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (by) { event.preventDefault(); move(by); }
    if (event.key === 't') setFolded(!folded);
  });
  document.addEventListener('keydown', event => {
    if (event.key !== '/' || field(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    $('find').focus();
    $('find').select();
  });
  $('browse').hidden = false;
  search();
})();
