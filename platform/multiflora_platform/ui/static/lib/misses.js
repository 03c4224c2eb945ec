/** Why the prefix cache had no more of a prompt, in two words. */
export const REASONS = { first_seen: "first time", other_adapter: "other adapter", other_tenant: "other tenant", other_salt: "other salt", evicted: "evicted", diverged: "differs", whole_prompt_asked: "whole prompt asked", engine_restarted: "engine restarted", other_replica: "other engine" };

/** What makes prompts miss over and over at one place. */
export const DRIFTS = { timestamp: "time", uuid: "UUID", nonce: "new id", counter: "counter", tools_reordered: "order of tools", keys_reordered: "order of keys", template_date: "template's date", template_reasoning: "reasoning dropped", template_history: "template rewrites" };
