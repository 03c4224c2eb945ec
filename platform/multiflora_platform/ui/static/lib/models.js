/** What requests may name as their model: base models, adapters with their versions and aliases, mixes of adapters.
 * Knows no markup. */
import { loadAdapters } from "./adapters.js";
import { get } from "./api.js";
import { t } from "./language.js";
import { session } from "./session.js";

const MOST_ADAPTERS = 5000;
const MOST_FOUND = 50;

/** @returns {Promise<{bases: string[], adapters: Map<string, object>, options: Array<{value, note}>, longest: number}>} adapters: as the registry
 * has them with `base`, the base model's name; options: all that a request may name, each base model's own name before its adapters;
 * longest: tokens of a prompt and its answer, with the model that takes most */
export async function loadModels(signal) {
  const [listed, registered] = await Promise.all([
    get("/v1/models", { signal }).then(({ data }) => data),
    loadAdapters(signal).catch(() => []),
  ]);
  const bases = listed.filter((one) => !one.parent).map((one) => one.id);
  const served = new Map(listed.filter((one) => one.parent).map((one) => [one.id, { aliases: {}, ready_versions: [], base: one.parent, root: one.root }]));
  const adapters = new Map([...served].map(([name, one]) => [name, { name, ...one }]));
  // Those without a default are not listed, though their versions are served.
  for (const one of registered) if (one.ready_versions.length) adapters.set(one.name, { base: bases[0], ...served.get(one.name), ...one });
  const ofBase = Map.groupBy([...adapters.values()], (one) => one.base);
  const options = bases.flatMap((base) => [{ value: base, note: t("base model") },
    ...(ofBase.get(base) ?? []).slice(0, MOST_ADAPTERS).flatMap((one) => optionsOf(one, bases.length > 1))]);
  return { bases, adapters, options, longest: Math.max(...listed.map((one) => one.max_model_len)) };
}

function optionsOf({ name, root, aliases, ready_versions: versions, base }, isBaseTold) {
  const means = ({ version, split }) => (version ? t`means v${version}` : Object.entries(split).map(([number, share]) => `v${number} ${share}%`).join(", "));
  const target = aliases.default ? means(aliases.default) : root?.includes("@") && t`means v${root.split("@")[1]}`;
  return [
    ...(root ? [{ value: name, note: [target, isBaseTold && t`on ${base}`].filter(Boolean).join(", ") }] : []),
    ...Object.entries(aliases).filter(([alias]) => alias !== "default").map(([alias, of]) => ({ value: `${name}@${alias}`, note: means(of) })),
    ...versions.toReversed().map((number) => ({ value: `${name}@${number}`, note: t("version") })),
  ];
}

/** Those whose names have the text: what is called so first, then what begins so. */
export function matching(options, text) {
  const wanted = text.trim().toLowerCase();
  const rank = ({ value }) => (value.toLowerCase() === wanted ? 0 : value.toLowerCase().startsWith(wanted) ? 1 : 2);
  const found = options.filter(({ value }) => value.toLowerCase().includes(wanted));
  return (wanted ? found.sort((a, b) => rank(a) - rank(b)) : found).slice(0, MOST_FOUND);
}

const PART = /^([^*+]+)\*(-?\d+(?:\.\d+)?)$/;

/** The parts of a mix as addresses have it, "sql*0.5+pirate*0.5"; null of any other name. @returns {Array<{name, weight: number}>|null} */
export function partsOf(text) {
  const parts = text.split("+").map((part) => PART.exec(part));
  return parts.every(Boolean) ? parts.map(([, name, weight]) => ({ name, weight: Number(weight) })) : null;
}

export const mixOf = (parts) => parts.map(({ name, weight }) => `${name}*${weight}`).join("+");

export const adapterOf = (model) => (partsOf(model)?.[0].name ?? model).split("@")[0];

/** The base model that a name or a mix means. models: of `loadModels`, or undefined */
export function baseOf(model, models) {
  if (models?.bases.includes(model)) return model;
  return models?.adapters.get(adapterOf(model))?.base ?? session.value.base_model;
}

/** A model as a request's body names it. */
export function named(model, models) {
  const adapters = partsOf(model);
  return adapters ? { model: baseOf(model, models), adapters } : { model };
}
