/** One import for what every component needs: templates, hooks, signals. */
import { h, Fragment, render } from "preact";
import { useMemo as useMemoized } from "preact/hooks";
import { signal } from "@preact/signals";
import htm from "htm";

export { h, Fragment, render };
export { useEffect, useId, useLayoutEffect, useRef, useState, useCallback } from "preact/hooks";
export { batch, computed, effect, signal, useComputed, useSignal, useSignalEffect } from "@preact/signals";

/** Tagged templates instead of JSX; all text is escaped by construction. */
export const html = htm.bind(h);

/** Of the UI's texts; lib/language.js sets it. What reads a text is drawn again with it. */
export const language = signal("en");

/** What is kept may hold texts: in another language it is made anew. */
export const useMemo = (make, inputs) => useMemoized(make, [...inputs, language.value]);
