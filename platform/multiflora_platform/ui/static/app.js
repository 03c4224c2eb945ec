/** Starts the UI: who is signed in, which page the address means, and that page's module. */
import { html, render, useEffect, useState } from "./lib/html.js";
import { watchServer } from "./lib/api.js";
import { startLanguage, t } from "./lib/language.js";
import { go, match, path, startRouter } from "./lib/router.js";
import { isAdmin, loadSession, session } from "./lib/session.js";
import { Lazy, loadPage } from "./components/lazy.js";
import { Shell, Toasts } from "./components/shell.js";
import { Empty, Failure, Skeleton } from "./components/states.js";

const PAGES = [
  ["/", "overview"],
  ["/adapters", "adapters"],
  ["/adapters/:name", "adapter"],
  ["/register", "register"],
  ["/playground", "playground"],
  ["/cache", "cache"],
  ["/contexts", "contexts"],
  ["/slots", "slots"],
  ["/models", "models"],
  ["/replicas", "replicas"],
  ["/requests", "requests"],
  ["/requests/:id", "request"],
  ["/tenants", "tenants"],
  ["/tenants/:name", "tenant"],
  ["/usage", "usage"],
  ["/batches", "batches"],
  ["/jobs", "jobs"],
  ["/webhooks", "webhooks"],
  ["/webhooks/:id", "webhook"],
  ["/audit", "audit"],
  ["/settings", "settings"],
  ["/tour", "tour"],
  ["/docs", "docs"],
  ["/docs/:page", "docs"],
  ["/docs/:folder/:page", "docs"],
];

function found(where) {
  for (const [pattern, module] of PAGES) {
    const parts = match(pattern, where);
    if (parts) return { module, parts };
  }
  return null;
}

function Page() {
  const page = found(path.value);
  return html`<div class="page" key=${path.value}>${page
    ? html`<${Lazy} ...${page} waiting=${html`<${Skeleton} lines=${8} />`} />`
    : html`<${Empty} title=${t("There is no such page")} action=${html`<a class="button" href="/ui/adapters">${t("To the adapters")}</a>`} />`}</div>`;
}

/** @param {{failed: Error|null}} props why it is not known who is signed in */
function App({ failed }) {
  const [error, setError] = useState(failed);
  const again = () => loadSession().then(() => setError(null), setError);
  const wantsHome = session.value && !isAdmin.value && path.value === "/";
  useEffect(() => { if (wantsHome) go("/adapters", { replace: true }); }, [wantsHome]);
  if (error) return html`<main class="sign-in"><${Failure} error=${error} onRetry=${again} /></main>`;
  if (wantsHome) return null;
  if (session.value === null) return html`<${Lazy} module="sign-in" waiting=${null} /><${Toasts} />`;
  return html`<${Shell}><${Page} /><//>`;
}

startRouter();
// The first page's code comes while the session is asked for; what fails here is told by Page.
loadPage(found(path.peek())?.module ?? "overview").catch(() => {});
watchServer();
// Until both are there, the page's own frame is what one sees: it is painted before any of this code has come.
const signedIn = loadSession().then(() => null, (error) => error);
await startLanguage();
const failed = await signedIn;
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} failed=${failed} />`, root);
