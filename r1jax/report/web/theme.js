'use strict';
// Light or dark: as the system has it, until the switch is used. Runs before the page is drawn, so that it does not flash.
(() => {
  const NEXT = {'': 'light', light: 'dark', dark: ''};
  const store = {  // a page of a file may be kept from storing anything
    get: () => { try { return localStorage.getItem('r1jax-theme') || ''; } catch { return ''; } },
    set: value => { try { localStorage.setItem('r1jax-theme', value); } catch { /* for this visit only */ } },
  };
  let theme = store.get() in NEXT ? store.get() : '';
  const apply = () => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  apply();
  document.addEventListener('DOMContentLoaded', () => {
    const button = document.getElementById('theme');
    const say = () => { button.textContent = 'Theme: ' + (theme || 'system'); };
    button.hidden = false;
    button.addEventListener('click', () => {
      theme = NEXT[theme];
      store.set(theme);
      apply();
      say();
    });
    say();
  });
})();
