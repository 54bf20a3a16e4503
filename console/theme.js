// Before the page is drawn, so that it does not flash in the other theme. Not a module for that reason.
(() => {
  'use strict';
  let theme = null;
  try {
    theme = localStorage.getItem('tidegate.theme');
  } catch {
    // storage may be forbidden: the system decides
  }
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
})();
