/** Budgets as bars: what is used of each in the present day or month of UTC, on all servers together. */
import { html } from "../../lib/html.js";
import { count, dateTime, money } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { Facts, Meter } from "../../components/bits.js";

// Without prices there is no currency, and nothing is counted in money.
const amount = (value, budget) => (budget.currency ? money(value, budget.currency) : count(value));
const names = () => ({ tokens: { day: t("Tokens a day"), month: t("Tokens a month") }, money: { day: t("Money a day"), month: t("Money a month") } });
const name = (budget) => names()[budget.unit === "tokens" ? "tokens" : "money"][budget.period];
const share = (budget) => budget.used / budget.amount;

const Bar = ({ of }) => html`<${Meter} value=${share(of)} label=${t`Used of ${name(of).toLowerCase()}`} />`;

/** @param {{of: Array<object>}} props a tenant's, as /api/v1/budgets has them */
export const Budgets = ({ of }) => html`<${Facts} of=${of.map((budget) => [name(budget), html`<${Bar} of=${budget} /> ${t`${amount(budget.used, budget)} of ${amount(budget.amount, budget)}`}
  ${" "}<small class="muted">${t`begins anew ${dateTime(budget.begins_anew_at)}`}</small>`])} />`;

/** A column with the fullest budget of each tenant. budgets: of all tenants */
export function budgetColumn(budgets) {
  const fullest = (tenant) => budgets.filter((one) => one.tenant === tenant.name).sort((a, b) => share(b) - share(a))[0];
  return { key: "budget", label: t("Budget used"), number: true, value: (tenant) => (fullest(tenant) ? share(fullest(tenant)) : null),
    cell: (tenant) => (fullest(tenant) ? html`<${Bar} of=${fullest(tenant)} />` : html`<span class="muted">${t("no budget")}</span>`) };
}
