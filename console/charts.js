// Rate and lag of the last two minutes, a second at a time: a small picture, and the same in words.

import { many, number, span } from './text.js';

const SECONDS = 120;
const HEIGHT = 40;
// A page that gets thousands of events a second need not sort them all to know how late they are.
const SAMPLES = 200;

export class Charts {
  #seconds = [];
  #current = fresh();
  #rate;
  #lag;

  constructor(rate, lag) {
    this.#rate = parts(rate);
    this.#lag = parts(lag);
  }

  /** A live event has come. */
  add(lag) {
    const second = this.#current;
    second.count += 1;
    // An id of another form has no time in it.
    if (lag === undefined) return;
    second.late += 1;
    second.max = Math.max(second.max, lag);
    if (second.lags.length < SAMPLES) second.lags.push(lag);
    else second.lags[Math.floor(Math.random() * second.late) % SAMPLES] = lag;
  }

  /** A second is over. */
  tick() {
    const { count, late, lags, max } = this.#current;
    lags.sort((a, b) => a - b);
    const median = late > 0 ? lags[Math.floor(lags.length / 2)] : undefined;
    this.#seconds.push({ count, median, max: late > 0 ? max : undefined });
    if (this.#seconds.length > SECONDS) this.#seconds.shift();
    this.#current = fresh();
    this.draw();
  }

  clear() {
    this.#seconds = [];
    this.#current = fresh();
    this.draw();
  }

  draw() {
    this.#drawRate();
    this.#drawLag();
  }

  #drawRate() {
    const counts = this.#seconds.map(({ count }) => count);
    const peak = Math.max(0, ...counts);
    const chart = this.#rate;
    if (peak === 0) return this.#nothing(chart, 'Rate');
    const top = Math.max(1, peak);
    const x = (index) => SECONDS - counts.length + index;
    const y = (value) => HEIGHT - (value / top) * HEIGHT;
    let steps = `M${x(0)} ${y(counts[0]).toFixed(2)}`;
    counts.forEach((value, index) => (steps += `L${x(index)} ${y(value).toFixed(2)}L${x(index) + 1} ${y(value).toFixed(2)}`));
    chart.line.setAttribute('d', steps);
    chart.area.setAttribute('d', `${steps}L${SECONDS} ${HEIGHT}L${x(0)} ${HEIGHT}Z`);
    const now = counts.at(-1);
    const sum = counts.reduce((all, value) => all + value, 0);
    chart.reading.textContent = `${number(now)}/s · peak ${number(peak)}/s`;
    chart.text.textContent = `Rate: ${many(now, 'event')} in the last second, at most ${number(peak)} in a second, ${many(sum, 'event')} in ${counts.length} seconds`;
  }

  #drawLag() {
    const chart = this.#lag;
    const seen = this.#seconds.map((second, index) => ({ ...second, index })).filter(({ median }) => median !== undefined);
    if (seen.length === 0) return this.#nothing(chart, 'Lag');
    const highest = Math.max(1, ...seen.map(({ max }) => max));
    const lowest = Math.min(0, ...seen.map(({ median }) => median));
    const x = (index) => SECONDS - this.#seconds.length + index + 0.5;
    const y = (value) => HEIGHT - ((value - lowest) / (highest - lowest)) * HEIGHT;
    // Seconds without events interrupt the line; one alone is drawn as a short stroke.
    const path = (name) => {
      let d = '';
      seen.forEach(({ index, [name]: value }, n) => {
        const joins = n > 0 && seen[n - 1].index === index - 1;
        d += joins ? `L${x(index)} ${y(value).toFixed(2)}` : `M${x(index) - 0.4} ${y(value).toFixed(2)}h.8`;
      });
      return d;
    };
    chart.line.setAttribute('d', path('median'));
    chart.area.setAttribute('d', path('max'));
    const { median, max } = seen.at(-1);
    chart.reading.textContent = `${span(median)} · peak ${span(highest)}`;
    chart.text.textContent = `Lag: median ${span(median)} and most ${span(max)} in the last second with events; most ${span(highest)} in two minutes`;
  }

  #nothing(chart, name) {
    for (const path of [chart.line, chart.area]) path.removeAttribute('d');
    const text = 'nothing live in two minutes';
    chart.reading.textContent = '–';
    chart.text.textContent = `${name}: ${text}`;
  }
}

const fresh = () => ({ count: 0, late: 0, max: -Infinity, lags: [] });

const parts = (figure) => ({
  line: figure.querySelector('.line'),
  area: figure.querySelector('.area'),
  reading: figure.querySelector('.reading'),
  text: figure.querySelector('title'),
});
