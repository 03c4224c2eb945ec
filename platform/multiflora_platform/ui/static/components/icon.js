/** Line icons of 18 px, drawn here so that nothing has to be fetched. */
import { html } from "../lib/html.js";

const PATHS = {
  overview: "M3 13h4l2-7 4 11 2-6h3",
  adapters: "M9 2.5 15.5 6 9 9.5 2.5 6ZM2.5 9.5 9 13l6.5-3.5M2.5 12.5 9 16l6.5-3.5",
  register: "M9 12V3m0 0L5.5 6.5M9 3l3.5 3.5M3 11.5V15h12v-3.5",
  playground: "M3 4h12v8H8l-3.5 3v-3H3Z",
  cache: "M9 3v4M9 7 4 11M9 7l5 4M2.5 11h3v3h-3ZM12.500 11h3v3h-3ZM7.5 2h3v3h-3Z",
  slots: "M3 4h12v3H3ZM3 11h12v3H3ZM6 5.500h.01M6 12.500h.01",
  requests: "M3 4.500h12M3 9h8M3 13.500h10",
  tenants: "M6.500 8.500a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5ZM2 15c0-2.500 2-4 4.500-4S11 12.500 11 15M12 8a2 2 0 1 0 0-4M13 11c2 .3 3 1.800 3 4",
  audit: "M5 2.500h6l3 3V15.500H5ZM7.500 8.500h4M7.500 11.500h4",
  settings: "M3 5h7m4 0h1M3 13h1m4 0h7M12 3.500v3M6 11.500v3M3 9h3m4 0h5M8 7.500v3",
  models: "M9 2 15 5.500v7L9 16l-6-3.500v-7ZM3 5.500 9 9l6-3.500M9 9v7",
  batches: "M3 3.500h8v5H3ZM5.500 11.500h9v-6M3 14.500h9",
  replicas: "M3 3h5v5H3ZM10 3h5v5h-5ZM3 10h5v5H3ZM10 10h5v5h-5Z",
  jobs: "M9 16A7 7 0 1 0 9 2a7 7 0 0 0 0 14ZM9 5v4l2.500 2",
  tour: "M4 16V2.500M4 3.500h10l-2 3.500 2 3.500H4",
  docs: "M9 4.500C7 3 5 3 2.500 3.500v10.500c2.500-.5 4.500-.5 6.500 1 2-1.500 4-1.500 6.500-1V3.500C13 3 11 3 9 4.500Zm0 0V15",
  webhooks: "M2.500 8.500 15.500 2.500l-5 13-2.500-5ZM8 10.500l7.500-8",
  search: "M8 13A5 5 0 1 0 8 3a5 5 0 0 0 0 10Zm3.700-1.300L15.500 15.500",
  menu: "M3 5h12M3 9h12M3 13h12",
  close: "m5 5 8 8m0-8-8 8",
  warning: "M9 2.500 16 15H2ZM9 7v3.500M9 12.700v.1",
  check: "m4 9.500 3.500 3.500L14 6",
  info: "M9 16A7 7 0 1 0 9 2a7 7 0 0 0 0 14Zm0-8v4.500M9 5.600v.1",
  copy: "M6.500 6.500h8v8h-8ZM11.500 6.500v-3h-8v8h3",
  plus: "M9 4v10M4 9h10",
  right: "m7 4.500 4.500 4.500L7 13.500",
  down: "M4.500 7 9 11.500 13.500 7",
  undo: "M4 7h7a4 4 0 0 1 0 8H8M4 7l3-3M4 7l3 3",
  empty: "M2.500 9.500 5 4h8l2.500 5.500V14h-13ZM2.500 9.500H6l1 2h4l1-2h3.500",
  pin: "M6 3h6l-1 5 2 2.500H5L7 8ZM9 10.500V16",
  gone: "M2.500 7a10 10 0 0 1 13 0M5 10a6 6 0 0 1 8 0M9 13.500h.01M3 3l12 12",
  sun: "M9 12a3 3 0 1 0 0-6 3 3 0 0 0 0 6ZM9 1.500v2m0 11v2M1.500 9h2m11 0h2M3.700 3.700l1.400 1.400m7.800 7.800 1.400 1.400m0-10.600-1.400 1.400m-7.800 7.800-1.400 1.400",
  out: "M7 3H3.500v12H7M11 5.500 14.500 9 11 12.500M14 9H7",
};

export const Icon = ({ name, size = 18 }) => html`<svg width=${size} height=${size} viewBox="0 0 18 18" fill="none"
  stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
