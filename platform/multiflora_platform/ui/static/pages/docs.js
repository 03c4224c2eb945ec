/** Documentation: the repository's pages, of the version that runs. */
import { html, useEffect, useMemo, useState } from "../lib/html.js";
import { destination, documents, pathOf, textOf } from "../lib/documentation.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { fragment, href, path } from "../lib/router.js";
import { Fold, PageHeader } from "../components/bits.js";
import { Markdown } from "../components/markdown.js";
import { Empty, Loaded } from "../components/states.js";

/** As in css/layout.css: from here on the contents stand beside the text. */
const WIDE = matchMedia("(min-width: 1081px)");

export default function Docs() {
  const pages = useResource(documents, []);
  return html`<${Loaded} resource=${pages} lines=${10}>${(all) => {
    const page = all.find((one) => pathOf(one.path) === path.value.replace(/\/$/, ""));
    return page ? html`<${Document} page=${page} pages=${all} />`
      : html`<${PageHeader} title=${t("Documentation")} /><div class="card"><${Empty} title=${t("There is no such page")} action=${html`<a class="button" href=${href("/docs")}>${t("All pages")}</a>`} /></div>`;
  }}<//>`;
}

function Document({ page, pages }) {
  const text = useResource(() => textOf(page.path), [page.path]);
  const linkOf = (target) => {
    const found = destination(target, page.path, pages);
    if (!found) return null;
    return found.here ? { href: href(found.here) } : { href: found.elsewhere, rel: "noreferrer noopener", target: "_blank" };
  };
  return html`<${PageHeader} title=${page.title} back=${page.path === "README.md" ? undefined : { to: "/docs", label: t("Documentation") }} />
    <div class="split-view docs">
      <aside class="stack"><${Contents} page=${page} /><${Others} page=${page} pages=${pages} /></aside>
      <article class="card"><${Loaded} resource=${text} lines=${14}>${(loaded) => html`<div class="body"><${Text} text=${loaded} page=${page} linkOf=${linkOf} /></div>`}<//></article>
    </div>`;
}

/** Once it is there, what the address names is scrolled to. */
function Text({ text, page, linkOf }) {
  const wanted = fragment.value;
  useEffect(() => {
    const heading = wanted && document.getElementById(decodeURIComponent(wanted));
    if (heading) heading.scrollIntoView();
    else if (!wanted) scrollTo(0, 0);
  }, [wanted]);
  return useMemo(() => html`<${Markdown} text=${text} anchors=${page.headings.map(([, , anchor]) => anchor)} linkOf=${linkOf} />`, [text]);
}

function Contents({ page }) {
  const [open] = useState(WIDE.matches);
  if (!page.headings.length) return null;
  return html`<${Fold} title=${t("On this page")} open=${open}><ul class="contents">${page.headings.map(([level, text, anchor]) => html`<li key=${anchor} class=${level > 2 ? "deeper" : ""}><a href=${`#${anchor}`}>${text}</a></li>`)}</ul><//>`;
}

/** Those of the same folder, by title. */
function Others({ page, pages }) {
  const folderOf = ({ path: file }) => file.slice(0, file.lastIndexOf("/") + 1);
  const others = pages.filter((one) => folderOf(one) === folderOf(page)).toSorted((a, b) => a.title.localeCompare(b.title));
  return html`<${Fold} title=${t("All pages")} open=${false}><ul class="contents">${others.map((one) => html`<li key=${one.path}><a href=${href(pathOf(one.path))} aria-current=${one === page ? "page" : undefined}>${one.title}</a></li>`)}</ul><//>`;
}
