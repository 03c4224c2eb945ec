/** Markdown as elements, made of the parser's tokens one by one: no HTML is made of the text, and what it has of it is shown as text. */
import { lexer } from "marked";
import { h, html } from "../lib/html.js";
import { t } from "../lib/language.js";
import { Scroll } from "./bits.js";
import { Code } from "./code.js";

/** @param {{text: string, anchors: string[], linkOf: (target: string) => object|null}} props anchors: of the headings below the title, in order;
 * linkOf: the attributes of a link, null where it leads nowhere */
export function Markdown({ text, anchors, linkOf }) {
  const context = { anchors: anchors.values(), linkOf };
  return html`<div class="prose">${shown(lexer(text), context)}</div>`;
}

const shown = (tokens = [], context) => tokens.map((token) => (ELEMENTS[token.type] ?? plain)(token, context));
const wrapped = (tag) => (token, context) => h(tag, null, shown(token.tokens, context));
/** Text, and what there is no element for. */
const plain = (token, context) => (token.tokens ? shown(token.tokens, context) : token.text);

const ELEMENTS = {
  space: () => null,
  hr: () => html`<hr />`,
  br: () => html`<br />`,
  // Pictures are not among what is served.
  image: () => null,
  heading,
  link,
  list,
  table,
  paragraph: wrapped("p"),
  blockquote: wrapped("blockquote"),
  strong: wrapped("strong"),
  em: wrapped("em"),
  del: wrapped("del"),
  codespan: (token) => html`<code>${token.text}</code>`,
  code: (token) => html`<${Code} text=${token.text} label=${t("Code")} />`,
};

function heading(token, context) {
  // The page's own title stands above the text.
  if (token.depth === 1) return null;
  const anchor = context.anchors.next().value;
  return h(`h${token.depth}`, { id: anchor, tabindex: -1 }, shown(token.tokens, context), html` <a class="anchor" href=${`#${anchor}`} aria-label=${t`Link to ${token.text}`}>#</a>`);
}

function link(token, context) {
  const attributes = context.linkOf(token.href);
  return attributes ? h("a", attributes, shown(token.tokens, context)) : html`<span title=${t("A file of the repository")}>${shown(token.tokens, context)}</span>`;
}

function list(token, context) {
  return h(token.ordered ? "ol" : "ul", token.start > 1 ? { start: token.start } : null, token.items.map((item) => html`<li>${shown(item.tokens, context)}</li>`));
}

function table({ header, rows }, context) {
  return html`<${Scroll} label=${t("Table")}><table><thead><tr>${header.map((cell) => html`<th scope="col">${shown(cell.tokens, context)}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${shown(cell.tokens, context)}</td>`)}</tr>`)}</tbody></table><//>`;
}
