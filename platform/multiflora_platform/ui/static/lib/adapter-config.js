/** What an adapter_config.json says, before anything is uploaded. The server reads it again, and all of it. Knows no markup. */
import { textIn } from "./archives.js";
import { t } from "./language.js";

const NAME = "adapter_config.json";
/** PEFT's default. */
const USUAL_RANK = 8;
/** Folders that are called after the step of a training, not after what came of it. */
const GENERAL = /^(adapters?|lora|peft|model|final|best|last|outputs?|results?|checkpoint.*|step.*|epoch.*|weights|export)$/i;

/** @param {File[]} files of a folder, or one archive. Throws where it is no JSON. @returns {Promise<object|null>} null: there is none */
export async function configIn(files) {
  const file = files.find((one) => one.name === NAME);
  const text = file ? await file.text() : files.length === 1 ? await textIn(files[0], NAME) : null;
  return text === null ? null : JSON.parse(text);
}

/**
 * @param {{bases: string[], maxRank: number}} server names of its base models, and its --max-lora-rank
 * @returns {{rank: number, alpha: number, targets: string, trainedOn: string, base: string|null, problems: Array<[string, string]>}}
 * base: the server's that is named so; problems: ["bad" | "warn", text]
 */
export function factsOf(config, { bases, maxRank }) {
  const own = config.r ?? USUAL_RANK;
  const rank = Math.max(own, ...Object.values(config.rank_pattern ?? {}));
  const trainedOn = config.base_model_name_or_path ?? "";
  const base = bases.find((one) => lastOf(one) === lastOf(trainedOn)) ?? null;
  const problems = [
    String(config.peft_type ?? "LORA").toUpperCase() !== "LORA" && ["bad", t`It is ${config.peft_type}, not LoRA; this server runs LoRA.`],
    rank > maxRank && ["bad", t`Rank ${rank} is more than this server's limit of ${maxRank}. Start it with --max-lora-rank ${rank}.`],
    trainedOn && !base && ["warn", t`It was trained on ${trainedOn}; this server runs ${bases.join(", ")}. Fine where both are the same model under two names.`],
  ].filter(Boolean);
  return { rank, alpha: config.lora_alpha ?? USUAL_RANK, targets: [config.target_modules ?? []].flat().toSorted().join(", "), trainedOn, base, problems };
}

/** What a model is called, wherever it lies: the last part of a path or of an id. */
const lastOf = (name) => name.replace(/[\\/]+$/, "").split(/[\\/]/).at(-1).toLowerCase();

/** By the folder or the archive; "" where these say nothing. @param {string[]} folders the innermost last */
export function suggestedName(folders) {
  const said = folders.filter((one) => one && !GENERAL.test(one)).at(-1) ?? "";
  return said.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|-+$/g, "").slice(0, 64);
}
