/** Why the prefix cache had no more of a prompt, in two words. */
export const REASONS = { first_seen: "first time", other_adapter: "other adapter", other_tenant: "other tenant", other_salt: "other salt", evicted: "evicted", diverged: "differs", whole_prompt_asked: "whole prompt asked", engine_restarted: "engine restarted" };
