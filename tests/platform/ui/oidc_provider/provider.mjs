// A certified OpenID provider for tests: `node provider.mjs PORT` with its accounts and clients on stdin, as JSON.
// Interactions are its own development pages, of which a test posts the forms.
import { readFileSync } from "node:fs";
import Provider from "oidc-provider";

const port = Number(process.argv[2]);
const { accounts, clients } = JSON.parse(readFileSync(0, "utf8"));

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients,
  claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups", "tenant"] },
  features: { backchannelLogout: { enabled: true } },
  // Its own way out refuses this machine's addresses, at which the server under test listens, and waits 2.5 seconds at most.
  fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined, signal: undefined }),
  pkce: { required: () => true },
  findAccount: (_, sub) => accounts[sub] && { accountId: sub, claims: () => ({ sub, ...accounts[sub] }) },
});
provider.listen(port, "127.0.0.1", () => console.log("ready"));
