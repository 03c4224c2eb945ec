/** Sign in with a key, or at the provider where there is one. */
import { html, useEffect, useState } from "../lib/html.js";
import { asset } from "../lib/assets.js";
import { signedOutBecause, signIn, singleSignOn } from "../lib/session.js";
import { TextField } from "../components/fields.js";
import { Notice } from "../components/states.js";

export default function SignIn() {
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => { document.title = "Sign in · Multiflora"; }, []);
  const submit = async (event) => {
    event.preventDefault();
    if (!key.trim()) {
      setProblem("Enter a key; the server printed one at its first start.");
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
    <div><h1>Multiflora</h1><p class="muted">Many adapters, one base model.</p></div>
    ${signedOutBecause.value && html`<${Notice} kind="warn" title=${signedOutBecause.value} />`}
    ${singleSignOn.value && html`<a class="button primary" href=${`/ui/oidc?back=${encodeURIComponent(location.pathname + location.search)}`}>Sign in with ${singleSignOn.value}</a>
      <p class="muted small">Or with a key:</p>`}
    <${TextField} label="API key" type="password" autocomplete="current-password" autofocus=${!singleSignOn.value} spellcheck="false" value=${key} onInput=${setKey} problem=${problem}
      hint="An administrator's key sees everything, a tenant's its own. It is kept by neither page nor browser." />
    <button class=${singleSignOn.value ? "button" : "button primary"} disabled=${busy}>${busy ? "Signing in…" : "Sign in"}</button>
  </form></main>`;
}
