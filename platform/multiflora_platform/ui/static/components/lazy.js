/** Code that comes when it is first shown. */
import { html, useEffect, useState } from "../lib/html.js";
import { t } from "../lib/language.js";
import { Empty } from "./states.js";

/** @param {string} module below pages/, such as "adapter/aliases" */
export const loadPage = (module) => import(`../pages/${module}.js`);

/** A page's component, or a part's of one, with its props `parts`, once its module is there; `waiting` until then. */
export function Lazy({ module, parts, waiting }) {
  const [view, setView] = useState(null);
  useEffect(() => {
    let left = false;
    loadPage(module).then(
      ({ default: Component }) => !left && setView({ module, Component }),
      () => !left && setView({ module, failed: true }),
    );
    return () => { left = true; };
  }, [module]);
  if (view?.module !== module) return waiting;
  if (view.failed) {
    return html`<${Empty} title=${t("This page could not be loaded")} icon="gone"
      action=${html`<button class="button" onClick=${() => location.reload()}>${t("Load again")}</button>`}>${t("The server is not answering, or it has been updated since this window was opened.")}<//>`;
  }
  return html`<${view.Component} ...${parts} />`;
}
