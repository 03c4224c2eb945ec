/** What a table says, without its markup: rows in the order that was asked for, and as text for files. Columns are those of
 * components/table.js. */
import { isoTime, moment, money } from "./format.js";
import { localised } from "./language.js";

const collator = localised((locale) => new Intl.Collator(locale, { numeric: true }));

/** Those that are drawn where none was chosen. */
export const drawn = (columns) => columns.filter((column) => !column.unseen);

/** Whose values are the rows' own: sorted by and exported. */
const told = (column) => !column.control && !column.picture;

/** A column of what rows say about `money`, which they do where the server has prices. */
export const amount = (key, label) => ({ key, label, number: true, value: (row) => row.money?.[key], cell: (row) => (row.money ? money(row.money[key], row.money.currency) : "") });

/** What was spent: on the device's time, on cached tokens and on held ones. money: of a row of usage, which has none without prices. */
export const spent = (money) => money && money.device + money.cached + money.stored;

/** What a column says of a row, as text or number: sorted by, searched, exported. */
export const valueOf = (column, row) => (column.value ? column.value(row) : row[column.key]);

/** @param {{key: string, down: boolean}|null} sort null: as they come */
export function sorted(rows, columns, sort) {
  const column = sort && columns.find((one) => one.key === sort.key && told(one));
  if (!column) return rows;
  const keyed = rows.map((row) => [column.time ? moment(valueOf(column, row)) : valueOf(column, row), row]);
  return keyed.sort((a, b) => compared(a[0], b[0], sort.down)).map(([, row]) => row);
}

/** What is not known stands last, in both directions. */
function compared(a, b, down) {
  const unknown = (value) => value === null || value === undefined || value === "";
  if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
  const order = typeof a === "number" && typeof b === "number" ? a - b : collator().compare(a, b);
  return down ? -order : order;
}

/** One line for each row (RFC 4180), headed by the columns' keys; times are ISO 8601 in UTC. */
export function csv(columns, rows) {
  const written = columns.filter(told);
  const lines = [written.map((column) => column.key), ...rows.map((row) => written.map((column) => exported(column, row)))];
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

function exported(column, row) {
  const value = valueOf(column, row);
  return column.time ? isoTime(value) : value;
}

/** Spreadsheets take text that begins like this for a formula; clients choose some of the text in here. */
const FORMULA = /^[=+\-@\t\r]/;

function cell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && FORMULA.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The rows that the page made its table of: as the API gave them, or put together from several answers. */
export const json = (rows) => `${JSON.stringify(rows, null, 2)}\n`;
