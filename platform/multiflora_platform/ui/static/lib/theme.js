/** Light, dark, or as the system says. */
import { computed, signal } from "./html.js";

const KEY = "multiflora-theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(system.matches);
system.addEventListener("change", () => (systemDark.value = system.matches));

export const theme = signal(document.documentElement.dataset.theme ?? "system");
export const isDark = computed(() => (theme.value === "system" ? systemDark.value : theme.value === "dark"));

export function setTheme(choice) {
  theme.value = choice;
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  try {
    if (choice === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, choice);
  } catch {
    // Storage may be off; the choice holds for this page.
  }
}

/** A colour token as the browser resolves it now, for canvases. */
export function colour(token) {
  const probe = document.createElement("i");
  probe.style.color = `var(${token})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
