// The text of an event stream (HTML, 9.2.6), read piece by piece.

/**
 * A function that takes the text as it comes, cut anywhere, and hands each frame to `take`: the fields `id`, `event`, `data`,
 * `topic` as text, `retry` in ms; a field that was not there is undefined. Frames of comments alone are no frames.
 * @param {(frame: { id?: string, event?: string, data?: string, topic?: string, retry?: number }) => void} take
 */
export function frameReader(take) {
  let rest = '';
  let ended = false; // with a CR, whose LF may follow in the next piece
  let frame = {};

  const field = (name, value) => {
    if (name === 'data') frame.data = frame.data === undefined ? value : `${frame.data}\n${value}`;
    else if (name === 'id' && value.includes('\0')) return;
    else if (name === 'retry') {
      if (/^\d+$/.test(value)) frame.retry = +value;
    } else frame[name] = value;
  };

  return (text) => {
    if (ended && text[0] === '\n') text = text.slice(1);
    ended = text.endsWith('\r');
    const lines = (rest + text).split(/\r\n|\r|\n/);
    rest = lines.pop();
    for (const line of lines) {
      const colon = line.indexOf(':');
      if (!line) {
        const whole = frame;
        frame = {};
        if (Object.keys(whole).length) take(whole);
      } else if (colon < 0) field(line, '');
      else if (colon) field(line.slice(0, colon), line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1));
    }
  };
}
