/** Light, dark, or as the system says. */
import { computed, signal } from "./html.js";
import { keep } from "./kept.js";

const system = matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(system.matches);
system.addEventListener("change", () => (systemDark.value = system.matches));

export const theme = signal(document.documentElement.dataset.theme ?? "system");
export const isDark = computed(() => (theme.value === "system" ? systemDark.value : theme.value === "dark"));

export function setTheme(choice) {
  theme.value = choice;
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  keep("theme", choice === "system" ? null : choice);
}

/** A CSS colour as the browser resolves it now, for canvases. */
export function colour(css) {
  const probe = document.createElement("i");
  probe.style.color = css;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const HUES = 18;
/** In the light theme and in the dark one. */
const TONES = [[0.45, 0.86], [0.55, 0.76], [0.65, 0.66]];
const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;
/** 2^32 by the golden ratio: spreads the hash's low bits over its high ones. */
const SPREAD = 0x9e3779b1;

/** An adapter's colour, the same on every page and in every session: a hue and a tone by its name. */
export function colourOf(name) {
  let hash = FNV_OFFSET;
  for (const byte of new TextEncoder().encode(name)) hash = Math.imul(hash ^ byte, FNV_PRIME);
  hash = Math.imul(hash, SPREAD) >>> 0;
  const hue = ((hash >>> 17) % HUES) * (360 / HUES);
  const [light, dark] = TONES[(hash >>> 22) % TONES.length];
  return `light-dark(oklch(${light} 0.14 ${hue}), oklch(${dark} 0.12 ${hue}))`;
}
