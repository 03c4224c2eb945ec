/** Which of a table's columns are drawn: chosen at the table, kept in the address, so that a link shows the same, and in the
 * browser for the next visit. */
import { useEffect } from "./html.js";
import { keep, kept } from "./kept.js";
import { query, setQuery } from "./router.js";
import { drawn } from "./tables.js";

/** Buttons of the rows always stay. */
export const choosable = (columns) => columns.filter((column) => !column.control);

/**
 * @param {string} kind of table; those of one kind have the same columns drawn
 * @returns {{shown: Array, isChosen: boolean, toggle: (key: string) => void, reset: () => void}}
 */
export function useColumns(kind, columns) {
  const param = `columns.${kind}`;
  const asked = query.value.get(param);
  const before = asked === null ? kept(param) : null;
  useEffect(() => { if (before) setQuery({ [param]: before }); }, [param, before]);
  const chosen = choosable(columns).filter((column) => (asked ?? before ?? "").split(" ").includes(column.key));
  const isChosen = chosen.length > 0;
  const shown = isChosen ? columns.filter((column) => column.control || chosen.includes(column)) : drawn(columns);
  const choose = (keys) => {
    keep(param, keys);
    setQuery({ [param]: keys });
  };
  const toggle = (key) => choose(keysOf(columns.filter((column) => shown.includes(column) !== (column.key === key))));
  return { shown, isChosen, toggle, reset: () => choose(null) };
}

const keysOf = (columns) => choosable(columns).map((column) => column.key).join(" ");
