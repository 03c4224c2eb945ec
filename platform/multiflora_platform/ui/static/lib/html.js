/** One import for what every component needs: templates, hooks, signals. */
import { h, Fragment, render } from "preact";
import htm from "htm";

export { h, Fragment, render };
export { useEffect, useId, useLayoutEffect, useMemo, useRef, useState, useCallback } from "preact/hooks";
export { batch, computed, effect, signal, useComputed, useSignal, useSignalEffect } from "@preact/signals";

/** Tagged templates instead of JSX; all text is escaped by construction. */
export const html = htm.bind(h);
