/** What this browser keeps of its user's choices, where it keeps anything: storage may be off. */
const PREFIX = "multiflora-";

export function kept(name) {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** @param {string|null} value null: no longer */
export function keep(name, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // The choice holds for this page.
  }
}
