/** What to do first on a server that is new; each step is ticked as it is done, also from elsewhere. */
import { html, useState } from "../../lib/html.js";
import { loadActivity } from "../../lib/adapters.js";
import { get } from "../../lib/api.js";
import { keep, kept } from "../../lib/kept.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { href } from "../../lib/router.js";
import { isDemo } from "../../lib/session.js";
import { firstCommands } from "../../lib/snippets.js";
import { Card } from "../../components/bits.js";
import { Code } from "../../components/code.js";
import { Icon } from "../../components/icon.js";

const HIDDEN = "first-steps-hidden";

export function FirstSteps() {
  const [hidden, setHidden] = useState(kept(HIDDEN));
  return !hidden && html`<${Steps} onHide=${() => { keep(HIDDEN, "yes"); setHidden("yes"); }} />`;
}

/** A server is new while it has no adapter, or none was asked; the steps stay until one leaves the page, to see the last ones ticked. */
function Steps({ onHide }) {
  const [isNew, setNew] = useState(null);
  const state = useResource(async (signal) => {
    if (isNew === false) return null;
    const [{ items }, { uses }] = await Promise.all([get("/api/v1/adapters?limit=50", { signal }), loadActivity(signal)]);
    const asked = [...(uses?.values() ?? [])].some((use) => use.last_day);
    setNew((known) => known ?? !(items.length && asked));
    return { adapter: items[0], asked, named: items.some((one) => Object.keys(one.aliases).some((alias) => alias !== "default")) };
  }, [isNew === false], { watch: ["records", "requests"], pause: 3 });
  if (!isNew || !state.data) return null;
  return html`<${Card} title=${t("First steps")} about=${t("Ticked as they are done, from here or from elsewhere")} actions=${html`${isDemo.value && html`<a class="button small primary" href=${href("/tour")}>${t("Try the tour")}</a>`}<button class="button small" onClick=${onHide}>${t("Hide")}</button>`}>
    <ol class="numbered">${stepsOf(state.data).map(([title, done, about, text]) => html`<li key=${title} class=${done ? "done" : ""}>
      <h3>${done && html`<${Icon} name="check" />`}${title}${done && html`<span class="visually-hidden"> ${t("(done)")}</span>`}</h3><p class="muted">${about}</p><${Code} wrap text=${text} label=${title} /></li>`)}</ol><//>`;
}

/** [title, done, about, command] */
function stepsOf({ adapter, asked, named }) {
  const { register, ask, alias } = firstCommands(adapter);
  return [
    [t("Register an adapter"), Boolean(adapter), t`A folder that PEFT has written; or ${html`<a href=${href("/register")}>${t("in the browser")}</a>`}. MULTIFLORA_API_KEY is the key that you have signed in with.`, register],
    [t("Ask it"), asked, t`Its name is the model's; or ask in the ${html`<a href=${href("/playground")}>${t("Playground")}</a>`}. Sent twice, the second answer takes most of the prompt from the ${html`<a href=${href("/cache")}>${t("Prefix cache")}</a>`}.`, ask],
    [t("Give a version a name"), named, t`An alias leads to a version, moves in an instant, and is moved back as fast: clients ask for ${html`<code>${adapter?.name ?? "my-adapter"}@canary</code>`}.`, alias],
  ];
}
