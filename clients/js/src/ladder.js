// Which transport is used, and which next: the best first, lesser ones as long as they are needed.

/** A network that fails once or twice says nothing about the transport. */
const MISSES = 2;

/** @param {string[]} kinds from the best to the least */
export function createLadder(kinds) {
  let at = 0;
  let misses = 0;
  let rounds = 0;
  const ladder = {
    get kind() {
      return kinds[at];
    },
    get better() {
      return kinds.slice(0, at);
    },
    get isFirst() {
      return !at;
    },
    /** How often all have failed, one after another. */
    get rounds() {
      return rounds;
    },
    opened(kind) {
      at = kinds.indexOf(kind);
      misses = rounds = 0;
    },
    /** This one does not work here. True: there is another, which may be tried at once. */
    down() {
      misses = 0;
      at = (at + 1) % kinds.length;
      if (!at) rounds++;
      return at > 0;
    },
    /** It could not connect, which may be the network. True as with `down`. */
    missed() {
      return (at > 0 || ++misses >= MISSES) && ladder.down();
    },
    /** It is not offered: without it, or with another one in its place. Whether one is left. */
    replace(kind, other) {
      kinds = kinds.flatMap((one) => (one === kind ? (other ?? []) : one));
      at %= kinds.length;
      return kinds.length > 0;
    },
  };
  return ladder;
}
