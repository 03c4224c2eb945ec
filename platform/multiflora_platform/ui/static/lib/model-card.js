/** A model card's HTML, made into elements one by one: what is not on the list stays text or goes away. */
import { h } from "./html.js";

const ALLOWED = new Set(["H1", "H2", "H3", "H4", "H5", "H6", "P", "UL", "OL", "LI", "PRE", "CODE", "EM", "STRONG", "B", "I", "A", "TABLE",
  "THEAD", "TBODY", "TR", "TH", "TD", "BLOCKQUOTE", "HR", "BR", "DEL", "SUP", "SUB", "DL", "DT", "DD", "SPAN", "DIV"]);
const DROPPED = new Set(["SCRIPT", "STYLE", "TEMPLATE", "IFRAME", "OBJECT", "EMBED", "NOSCRIPT", "TEXTAREA", "TITLE"]);
const LEVELS = { H1: "h3", H2: "h3", H3: "h4", H4: "h5", H5: "h6", H6: "h6" };

// The browser parses the text into a document of its own that runs and loads nothing.
const policy = globalThis.trustedTypes?.createPolicy("model-card", { createHTML: (text) => text });

export function cardElements(text) {
  const document = new DOMParser().parseFromString(policy ? policy.createHTML(text) : text, "text/html");
  return [...document.body.childNodes].map(element);
}

function element(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.data;
  if (node.nodeType !== Node.ELEMENT_NODE || DROPPED.has(node.nodeName)) return null;
  const children = [...node.childNodes].map(element);
  if (!ALLOWED.has(node.nodeName)) return children;
  return h(LEVELS[node.nodeName] ?? node.nodeName.toLowerCase(), attributes(node), ...children);
}

function attributes(node) {
  const address = node.nodeName === "A" ? node.getAttribute("href") ?? "" : "";
  return /^https?:\/\//i.test(address) ? { href: address, rel: "noreferrer noopener", target: "_blank" } : null;
}
