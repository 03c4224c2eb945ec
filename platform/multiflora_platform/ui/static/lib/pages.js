/** The pages that one can go to: their groups, and who sees them. */
import { isAdmin, may } from "./session.js";

/** [group, [path, label, icon, visible()]] */
export const GROUPS = [
  ["Watch", [
    ["/", "Overview", "overview", () => isAdmin.value],
    ["/requests", "Requests", "requests", () => isAdmin.value],
    ["/cache", "Prefix cache", "cache", () => isAdmin.value],
    ["/contexts", "Contexts", "pin", () => may("inference")],
    ["/slots", "Slots and memory", "slots", () => isAdmin.value],
    ["/models", "Models", "models", () => isAdmin.value],
    ["/replicas", "Replicas", "replicas", () => isAdmin.value],
  ]],
  ["Adapters", [
    ["/adapters", "Adapters", "adapters", () => may("registry:read")],
    ["/register", "Register", "register", () => may("registry:write")],
    ["/playground", "Playground", "playground", () => may("inference")],
  ]],
  ["Manage", [
    ["/tenants", "Tenants and keys", "tenants", () => isAdmin.value],
    ["/usage", "Usage", "overview", () => !isAdmin.value && may("usage:read")],
    ["/batches", "Batches", "batches", () => may("inference")],
    ["/jobs", "Jobs", "jobs", () => may("registry:read")],
    ["/webhooks", "Webhooks", "webhooks", () => isAdmin.value],
    ["/audit", "Audit", "audit", () => isAdmin.value],
    ["/settings", "Settings and health", "settings", () => isAdmin.value],
    ["/docs", "Documentation", "docs", () => true],
  ]],
];
