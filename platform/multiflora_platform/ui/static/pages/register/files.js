/** Which of the dropped files make an adapter. */
import { t } from "../../lib/language.js";

const NEEDED = ["adapter_config.json", "adapter_model.safetensors"];
const KEPT = new Set([...NEEDED, "README.md"]);
const ARCHIVE = /\.(zip|tar|tgz|tar\.gz)$/i;

/** One archive, or the files of one folder that count. @param {File[]} files */
export function chosen(files) {
  const archive = files.find((file) => ARCHIVE.test(file.name));
  return archive ? [archive] : files.filter((file) => KEPT.has(file.name));
}

/** Names of the folders that they lay in, the innermost last, or of the archive. @param {File[]} files as chosen() has them */
export function foldersOf(files) {
  const [file] = files;
  if (!file) return [];
  if (ARCHIVE.test(file.name)) return [file.name.replace(ARCHIVE, "")];
  return (droppedFrom.get(file) ?? file.webkitRelativePath).split("/").filter(Boolean).slice(0, -1);
}

/** What is missing, with the next step; "" when it can be sent. */
export function problemOf(files) {
  if (files.length === 1 && ARCHIVE.test(files[0].name)) return "";
  const missing = NEEDED.filter((name) => !files.some((file) => file.name === name));
  if (missing.length === NEEDED.length) return t("Add the adapter's folder or an archive of it.");
  if (missing.length) return t`${missing[0]} is missing. PEFT's save_pretrained() writes it beside the other file.`;
  const twice = files.find((file, i) => files.findIndex((other) => other.name === file.name) !== i);
  return twice ? t`${twice.name} is there twice. Add one adapter's folder at a time.` : "";
}

/** Where in a drop a file lay: only the drop says so. */
const droppedFrom = new WeakMap();

/** All files of a drop, those in folders, too. @param {DataTransfer} transfer */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  return entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...transfer.files];
}

async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    droppedFrom.set(file, entry.fullPath);
    return [file];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(filesOf))).flat();
}
