/** Where this release's files lie. */
const BASE = document.querySelector('meta[name="ui-base"]').content;

export const asset = (name) => BASE + name;
