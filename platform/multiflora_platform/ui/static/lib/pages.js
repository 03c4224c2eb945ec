/** The pages that one can go to: their groups, and who sees them. */
import { t } from "./language.js";
import { isAdmin, isDemo, may } from "./session.js";

/** [group, [path, label, icon, visible()]] */
export const pageGroups = () => [
  [t("Watch"), [
    ["/", t("Overview"), "overview", () => isAdmin.value],
    ["/requests", t("Requests"), "requests", () => may("usage:read")],
    ["/cache", t("Prefix cache"), "cache", () => isAdmin.value],
    ["/contexts", t("Contexts"), "pin", () => may("inference")],
    ["/slots", t("Slots and memory"), "slots", () => isAdmin.value],
    ["/models", t("Models"), "models", () => isAdmin.value],
    ["/replicas", t("Replicas"), "replicas", () => isAdmin.value],
  ]],
  [t("Adapters"), [
    ["/adapters", t("Adapters"), "adapters", () => may("registry:read")],
    ["/register", t("Register"), "register", () => may("registry:write")],
    ["/playground", t("Playground"), "playground", () => may("inference")],
  ]],
  [t("Manage"), [
    ["/tenants", t("Tenants and keys"), "tenants", () => isAdmin.value],
    ["/usage", t("Usage and limits"), "overview", () => !isAdmin.value && may("usage:read")],
    ["/batches", t("Batches"), "batches", () => may("inference")],
    ["/jobs", t("Jobs"), "jobs", () => may("registry:read")],
    ["/webhooks", t("Webhooks"), "webhooks", () => isAdmin.value],
    ["/audit", t("Audit"), "audit", () => isAdmin.value],
    ["/settings", t("Settings and health"), "settings", () => isAdmin.value],
    ["/tour", t("Tour"), "tour", () => isDemo.value],
    ["/docs", t("Documentation"), "docs", () => true],
  ]],
];
