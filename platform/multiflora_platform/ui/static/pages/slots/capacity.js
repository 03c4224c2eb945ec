/** What would fit: so many adapters of such ranks, so many sequences of such a length. */
import { html, useEffect, useState } from "../../lib/html.js";
import { post } from "../../lib/api.js";
import { ofBase } from "../../lib/bases.js";
import { bytes, count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { Card, Stats } from "../../components/bits.js";
import { TextField } from "../../components/fields.js";
import { Failure, Notice } from "../../components/states.js";

/** longest: tokens of a sequence, at most. */
export function Capacity({ longest }) {
  const [adapters, setAdapters] = useState("16");
  const [rank, setRank] = useState("16");
  const [context, setContext] = useState(String(longest));
  const [sequences, setSequences] = useState("16");
  const [answer, setAnswer] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    const timer = setTimeout(() => {
      const amounts = [adapters, rank, context, sequences].map(Number);
      if (amounts.some((amount) => !Number.isInteger(amount) || amount < 1)) return;
      const [howMany, each, tokens, running] = amounts;
      const body = { ranks: Array(Math.min(howMany, 10_000)).fill(each), context_tokens: tokens, sequences: running };
      post(ofBase("/api/v1/capacity"), body, { signal: abort.signal }).then((data) => setAnswer({ data }), (error) => error.name !== "AbortError" && setAnswer({ error }));
    }, 250);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [adapters, rank, context, sequences]);
  const number = { type: "number", min: 1, step: 1 };
  return html`<${Card} title=${t("What would fit?")} about=${t("With this server's settings and memory")}><div class="stack">
    <div class="form-grid">
      <${TextField} label=${t("Adapters at once")} ...${number} value=${adapters} onInput=${setAdapters} />
      <${TextField} label=${t("Rank of each")} ...${number} value=${rank} onInput=${setRank} />
      <${TextField} label=${t("Sequences at once")} ...${number} value=${sequences} onInput=${setSequences} />
      <${TextField} label=${t("Tokens of each")} ...${number} value=${context} onInput=${setContext} />
    </div>
    ${answer?.error && html`<${Failure} error=${answer.error} />`}
    ${answer?.data && html`<${Answer} of=${answer.data} />`}
  </div><//>`;
}

function Answer({ of }) {
  const fits = of.fits_adapters && of.fits_context;
  return html`<div class="stack" aria-live="polite">
    <${Notice} kind=${fits ? "ok" : "warn"} title=${fits ? t("It fits.") : of.fits_context ? t("The adapters do not fit at once.") : of.fits_adapters ? t("The sequences do not fit at once.") : t("Neither adapters nor sequences fit at once.")}>${of.advice}<//>
    <${Stats} label=${t("Needed")} of=${[[t("Adapters"), bytes(of.adapter_bytes)], [t("Rank rows"), count(of.rows_needed), t`of ${count(of.rows)}`], [t("KV cache"), bytes(of.kv_bytes)], [t("KV blocks"), count(of.blocks_needed), t`of ${count(of.blocks)}`]]} />
  </div>`;
}
