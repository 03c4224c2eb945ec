/** The Chinese (simplified) of every text, by its English. */
import { adapters } from "./zh/adapters.js";
import { events } from "./zh/events.js";
import { making } from "./zh/making.js";
import { manage } from "./zh/manage.js";
import { newcomer } from "./zh/newcomer.js";
import { shell } from "./zh/shell.js";
import { watch } from "./zh/watch.js";

export const words = { ...shell, ...watch, ...adapters, ...events, ...making, ...manage, ...newcomer };
