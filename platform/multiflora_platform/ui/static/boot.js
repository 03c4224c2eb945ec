// Before the first paint: the chosen theme, so that no page flashes in the other one.
try {
  const theme = localStorage.getItem("multiflora-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be off; the system's theme is used.
}
