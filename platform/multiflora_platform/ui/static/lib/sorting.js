/** How a table is sorted stands in the address: ?sort=key, or ?sort=-key from the highest down. */
import { useMemo } from "./html.js";
import { query, setQuery } from "./router.js";
import { sorted } from "./tables.js";

/**
 * @param {string} param of the address; tables of one page that have the same columns need two
 * @param {string|undefined} first what it is sorted by where the address says nothing; undefined: as the rows come
 * @returns {{rows: Array, sort: {key, down}|null, onSort: (key: string) => void}}
 */
export function useSorting(columns, rows, param = "sort", first) {
  const asked = query.value.get(param) ?? first ?? "";
  const down = asked.startsWith("-");
  const key = down ? asked.slice(1) : asked;
  const inOrder = useMemo(() => sorted(rows, columns, key ? { key, down } : null), [rows, key, down]);
  // By the first click from the lowest up, then down, then as it was at first; where that is down, up once more.
  const onSort = (to) => {
    const next = key !== to ? to : !down ? `-${to}` : asked === first ? to : null;
    setQuery({ [param]: next === first ? null : next });
  };
  return { rows: inOrder, sort: key ? { key, down } : null, onSort };
}
