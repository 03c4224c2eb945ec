/** Which page of the documentation explains what a page of the UI shows. */

/** By the first part of the page's address; page and heading. */
const EXPLAINED = {
  "": "insight",
  adapters: "adapters",
  audit: "webhooks",
  batches: "api#batches",
  cache: "prefix-cache",
  contexts: "prefix-cache#named-contexts",
  jobs: "operations#imports",
  models: "base-models",
  playground: "api",
  register: "adapters#what-can-be-registered",
  replicas: "scaling",
  requests: "insight#why-a-prompt-missed",
  settings: "configuration",
  slots: "architecture#adapters-disk-host-slot",
  tenants: "tenants",
  usage: "tenants#usage",
  webhooks: "webhooks#webhooks",
};

/** @param {string} path of a page of the UI */
export const explained = (path) => EXPLAINED[path.split("/")[1]];
