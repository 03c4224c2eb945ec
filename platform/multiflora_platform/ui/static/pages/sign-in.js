/** Sign in with a key, or at the provider where there is one. */
import { html, useLayoutEffect, useState } from "../lib/html.js";
import { asset } from "../lib/assets.js";
import { t } from "../lib/language.js";
import { signedOutBecause, signIn, singleSignOn } from "../lib/session.js";
import { TextField } from "../components/fields.js";
import { LanguageChoice } from "../components/language.js";
import { Notice } from "../components/states.js";

export default function SignIn() {
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const title = t("Sign in");
  useLayoutEffect(() => { document.title = `${title} · Multiflora`; }, [title]);
  const submit = async (event) => {
    event.preventDefault();
    if (!key.trim()) {
      setProblem(t("Enter a key; the server printed one at its first start."));
      return;
    }
    setBusy(true);
    try {
      await signIn(key.trim());
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<main class="sign-in"><form onSubmit=${submit}>
    <img src=${asset("icon.svg")} alt="" />
    <div><h1>Multiflora</h1><p class="muted">${t("Many adapters, one base model.")}</p></div>
    ${signedOutBecause.value && html`<${Notice} kind="warn" title=${signedOutBecause.value} />`}
    ${singleSignOn.value && html`<${ToProvider} name=${singleSignOn.value} /><p class="muted small">${t("Or with a key:")}</p>`}
    <${TextField} label=${t("API key")} type="password" autocomplete="current-password" autofocus=${!singleSignOn.value} spellcheck="false" value=${key} onInput=${setKey} problem=${problem}
      hint=${t("An administrator's key sees everything, a tenant's its own. It is kept by neither page nor browser.")} />
    <button class=${singleSignOn.value ? "button" : "button primary"} disabled=${busy}>${busy ? t("Signing in…") : t("Sign in")}</button>
    <${LanguageChoice} />
  </form></main>`;
}

/** The target keeps the router from taking the link for one of its pages. */
const ToProvider = ({ name }) => html`<a class="button primary" target="_self" href=${`/ui/oidc?back=${encodeURIComponent(location.pathname + location.search)}`}>${t`Sign in with ${name}`}</a>`;
