/** What differs between two texts, word by word. */

/** Words beyond are compared as one: the table of a comparison grows with the product of both lengths. */
const MOST = 600;

/** @returns {Array<["same"|"left"|"right", string]>} runs of words (with the blanks before them; at the end also those behind), in order; those of one text alone are `left` or `right` */
export function wordDiff(left, right) {
  const [a, b] = [pieces(left), pieces(right)];
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1)
      lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
  const runs = [];
  const add = (kind, piece) => {
    if (runs.at(-1)?.[0] === kind) runs.at(-1)[1] += piece;
    else runs.push([kind, piece]);
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) [i, j] = [i + 1, (add("same", a[i]), j + 1)];
    else if (j === b.length || (i < a.length && lengths[i + 1][j] >= lengths[i][j + 1])) add("left", a[i++]);
    else add("right", b[j++]);
  }
  return runs;
}

/** A word with the blanks before it; of scripts without blanks, a character. */
const PIECE = /\s*(?:[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}]|[^\s\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}]+)|\s+$/gu;

function pieces(text) {
  const found = text.match(PIECE) ?? [];
  return found.length > MOST ? [...found.slice(0, MOST), found.slice(MOST).join("")] : found;
}
