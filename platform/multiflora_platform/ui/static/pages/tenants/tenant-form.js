/** A tenant's name and limits: to make one, or to change one. An empty limit is no limit. */
import { html, useState } from "../../lib/html.js";
import { patch, post } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Dialog } from "../../components/dialog.js";
import { Check, Select, TextField } from "../../components/fields.js";

const NEW = { name: "", allowed_adapters: ["*"], requests_per_minute: null, tokens_per_minute: null, max_concurrent_requests: null, budget_tokens_per_day: null, budget_tokens_per_month: null, budget_money_per_day: null, budget_money_per_month: null, kv_share: 1, priority: "normal", shared_prefixes: false };
const priorities = () => [["high", t("High")], ["normal", t("Normal")], ["low", t("Low")]];

/** @param {{tenant?: object}} props tenant: the one to change */
export function TenantForm({ tenant, onClose, onChange }) {
  const before = tenant ?? NEW;
  const [name, setName] = useState(before.name);
  const [values, setValues] = useState(() => textOf(before));
  const [problem, setProblem] = useState({});
  const set = (field) => (value) => setValues({ ...values, [field]: value });
  const save = async (event) => {
    event.preventDefault();
    const path = "/api/v1/tenants";
    try {
      if (tenant) await patch(`${path}/${tenant.name}`, fieldsOf(values));
      else await post(path, { name, ...fieldsOf(values) });
      const undo = tenant && (() => attempt(() => patch(`${path}/${tenant.name}`, fieldsOf(textOf(tenant))), t("Changed back.")).then(onChange));
      toast(tenant ? t`${name} is changed; it holds from the next request on.` : t`${name} is made. Give it a key next.`, { undo });
      onChange();
      onClose();
    } catch (error) {
      setProblem({ [(error.pointer ?? "").split("/").pop() || "name"]: error.message });
    }
  };
  const number = (field, label, step = "1") => html`<${TextField} label=${label} type="number" min=${step === "any" ? "0" : "1"} step=${step} placeholder=${t("no limit")} value=${values[field]} onInput=${set(field)} problem=${problem[field]} />`;
  return html`<${Dialog} title=${tenant ? t`Limits of ${name}` : t("New tenant")} onClose=${onClose}><form class="stack" onSubmit=${save}>
    ${!tenant && html`<${TextField} label=${t("Name")} autocomplete="off" spellcheck="false" required value=${name} onInput=${setName} problem=${problem.name} />`}
    <${TextField} label=${t("Adapters it may use")} hint=${t("Patterns separated by commas, such as sql-*; its own are always its own")} spellcheck="false" value=${values.allowed_adapters} onInput=${set("allowed_adapters")} problem=${problem.allowed_adapters} />
    <div class="form-grid">
      ${number("requests_per_minute", t("Requests per minute"))}
      ${number("tokens_per_minute", t("Tokens per minute"))}
      ${number("max_concurrent_requests", t("Concurrent requests"))}
      ${number("budget_tokens_per_day", t("Tokens a day"))}
      ${number("budget_tokens_per_month", t("Tokens a month"))}
      ${number("budget_money_per_day", t("Money a day"), "any")}
      ${number("budget_money_per_month", t("Money a month"), "any")}
      <${TextField} label=${t("Share of the cache, %")} type="number" min="1" max="100" value=${values.kv_share} onInput=${set("kv_share")} problem=${problem.kv_share} />
      <${Select} label=${t("Priority")} value=${values.priority} onChange=${set("priority")} of=${priorities()} />
    </div>
    <${Check} label=${t("Share cached prefixes with others that do")} hint=${t("They can tell by its speed whether a prefix was used before")} checked=${values.shared_prefixes} onChange=${set("shared_prefixes")} />
    ${tenant && problem.name && html`<p class="problem" role="alert">${problem.name}</p>`}
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary">${tenant ? t("Save") : t("Create tenant")}</button></footer>
  </form><//>`;
}

const LIMITS = ["requests_per_minute", "tokens_per_minute", "max_concurrent_requests", "budget_tokens_per_day", "budget_tokens_per_month", "budget_money_per_day", "budget_money_per_month"];

function textOf(tenant) {
  const limits = Object.fromEntries(LIMITS.map((field) => [field, tenant[field] === null ? "" : String(tenant[field])]));
  return { ...limits, allowed_adapters: tenant.allowed_adapters.join(", "), kv_share: String(Math.round(tenant.kv_share * 100)), priority: tenant.priority, shared_prefixes: tenant.shared_prefixes };
}

function fieldsOf(values) {
  const limits = Object.fromEntries(LIMITS.map((field) => [field, values[field] === "" ? null : Number(values[field])]));
  const patterns = values.allowed_adapters.split(",").map((one) => one.trim()).filter(Boolean);
  return { ...limits, allowed_adapters: patterns, kv_share: Number(values.kv_share) / 100, priority: values.priority, shared_prefixes: values.shared_prefixes };
}
