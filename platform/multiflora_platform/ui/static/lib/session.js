/** Who is signed in. The key itself is sent once and kept nowhere. */
import { computed, signal } from "./html.js";
import { get, post, remove, refused, setCsrf } from "./api.js";
import { t } from "./language.js";

/** undefined: not known yet; null: not signed in. */
export const session = signal(undefined);
export const isAdmin = computed(() => session.value?.role === "admin");
/** An administrator of the bundled demo. */
export const isDemo = computed(() => isAdmin.value && session.value.base_model === "multiflora-demo");
/** The provider's name, where people may sign in without a key. */
export const singleSignOn = signal(null);
/** Why the sign-in page is shown, if not for the first time. */
export const signedOutBecause = signal("");

function take(answer) {
  setCsrf(answer.csrf ?? "");
  singleSignOn.value = answer.single_sign_on ?? singleSignOn.value;
  if (answer.refusal) signedOutBecause.value = answer.refusal;
  session.value = answer.signed_in ? answer : null;
}

export async function loadSession() {
  take(await get("/ui/session"));
}

export async function signIn(key) {
  take(await post("/ui/session", { key }));
  signedOutBecause.value = "";
}

export async function signOut() {
  const elsewhere = await remove("/ui/session");
  signedOutBecause.value = "";
  session.value = null;
  if (elsewhere) location.assign(elsewhere.go_to);
  else await loadSession();
}

/** Whether the key's scopes cover this; a key without scopes may do all that its role may. */
export function may(scope) {
  const scopes = session.value?.scopes;
  return !scopes || scopes.includes(scope);
}

refused.subscribe((count) => {
  if (count && session.peek()) {
    signedOutBecause.value = t("The session has ended. Sign in again to go on where you were.");
    session.value = null;
  }
});
