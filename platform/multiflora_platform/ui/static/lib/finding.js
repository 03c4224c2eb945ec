/** Everything that has a name, found by it. Knows no markup. */
import { get, getAll } from "./api.js";
import { documents, pathOf } from "./documentation.js";
import { clock } from "./format.js";
import { t } from "./language.js";
import { pageGroups } from "./pages.js";
import { loadNewest } from "./requests.js";
import { isAdmin, may } from "./session.js";

/** Shown of a kind; more are found by a longer text. */
const MOST = 6;

/** What is loaded once, when the search is opened; adapters may be many, and are asked for as the text changes.
 * @returns {Promise<{kinds: Array<[string, Array<Result>]>, missing: string[]}>} missing: kinds that could not be loaded */
export async function loadNamed(signal) {
  const sources = [
    [t("Contexts"), may("inference"), async () => (await getAll("/api/v1/contexts", { signal })).map(contextResult)],
    [t("Tenants"), isAdmin.value, async () => (await get("/api/v1/tenants", { signal })).items.map(tenantResult)],
    [t("Requests"), may("usage:read"), async () => (await loadNewest(signal)).map(requestResult)],
    [t("Documentation"), true, async () => (await documents()).flatMap(documentResults)],
    [t("Settings"), isAdmin.value, async () => (await get("/api/v1/settings", { signal })).items.map(settingResult)],
  ].filter(([, visible]) => visible);
  const answers = await Promise.allSettled(sources.map(([, , load]) => load()));
  const kinds = answers.map((answer, i) => [sources[i][0], answer.value ?? []]);
  return { kinds, missing: sources.filter((_, i) => answers[i].status === "rejected").map(([name]) => name) };
}

/** @typedef {{label: string, note: string, to: string, text: string}} Result text: lower case, what it is found by */
const result = (label, note, to, ...words) => ({ label, note, to, text: [label, ...words].join(" ").toLowerCase() });

const contextResult = (one) => result(one.name, one.tenant ?? "", `/contexts?q=${encodeURIComponent(one.name)}`, one.tenant);
const tenantResult = (one) => result(one.name, one.disabled ? t("disabled") : "", `/tenants/${encodeURIComponent(one.name)}`);
const requestResult = (one) => result(one.id, `${one.model || one.path} · ${one.code ?? one.status ?? t("running")} · ${clock(one.at)}`, `/requests/${encodeURIComponent(one.id)}`, one.model, one.tenant, one.code);
const settingResult = (one) => result(one.name, one.description, `/settings?q=${encodeURIComponent(one.name)}`, one.description, one.name.replaceAll("_", "-"));

const documentResults = (page) => [
  result(page.title, "", pathOf(page.path)),
  ...page.headings.map(([, text, anchor]) => result(text, page.title, pathOf(page.path, anchor), page.title)),
];

export const pageResults = () => pageGroups().flatMap(([, pages]) => pages).filter(([, , , visible]) => visible()).map(([to, label]) => result(label, "", to));

/** Adapters whose name or description has the text; of `name@part`, their versions and aliases that begin with the part.
 * However few are asked for, the server gives the one of just this name first. */
export async function findAdapters(text, signal) {
  if (!text || !may("registry:read")) return [];
  const [name, part] = text.split("@");
  const { items } = await get(`/api/v1/adapters?limit=${part === undefined ? 50 : MOST}&q=${encodeURIComponent(name)}`, { signal });
  const adapters = items.map((one) => result(one.name, one.description, `/adapters/${encodeURIComponent(one.name)}`, one.description));
  const versions = ranked(items.map((one) => ({ ...one, text: one.name.toLowerCase() })), name.toLowerCase()).flatMap((one) => versionsOf(one, (part ?? "").toLowerCase()));
  return [[t("Adapters"), part === undefined ? adapters : []], [t("Versions"), versions]];
}

/** Shorter than any id of an answer. */
const SHORTEST_ID = 16;

/** The request whose id this is, or its answer's, or its X-Request-ID: also one that is not among the newest. */
export async function findRequest(text, signal) {
  if (text.length < SHORTEST_ID || /\s/.test(text) || !may("usage:read")) return [];
  const { items } = await get(`/api/v1/requests?id=${encodeURIComponent(text)}`, { signal });
  return [[t("Requests"), items.map((one) => ({ ...requestResult(one), text: text.toLowerCase() }))]];
}

function versionsOf(adapter, part) {
  const to = (number) => `/adapters/${encodeURIComponent(adapter.name)}?compare=${number}`;
  const aliases = Object.entries(adapter.aliases).map(([alias, { version }]) => [alias, version ? t`means v${version}` : t("split"), version ? to(version) : `/adapters/${encodeURIComponent(adapter.name)}?tab=aliases`]);
  const numbers = adapter.ready_versions.toReversed().map((number) => [String(number), t("version"), to(number)]);
  return [...aliases, ...numbers].filter(([name]) => name.toLowerCase().startsWith(part)).map(([name, note, where]) => result(`${adapter.name}@${name}`, note, where));
}

/** The kinds that have something, each with its best. @param {Array<[string, Array<Result>]>} kinds */
export function found(kinds, text) {
  return kinds.map(([name, results]) => [name, ranked(results, text.toLowerCase()).slice(0, text ? MOST : Infinity)]).filter(([, results]) => results.length);
}

/** What has all words: first what is called so, then what begins so, then the rest as it came. */
function ranked(results, text) {
  const words = text.split(/\s+/).filter(Boolean);
  const rank = (one) => (one.text === text || one.label?.toLowerCase() === text ? 0 : one.text.startsWith(text) ? 1 : 2);
  return results.filter((one) => words.every((word) => one.text.includes(word))).sort((a, b) => rank(a) - rank(b));
}
