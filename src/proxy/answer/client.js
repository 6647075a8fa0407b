// callgate's module for web pages. Its types are in client.d.ts beside it.
// It calls the callgate that it was loaded from, also from a page of another origin that this callgate lists.

const SECONDS_TO_ANSWER = 30;
const at = (path) => new URL(path, import.meta.url);

/** A refusal by callgate. `code` is one of the codes of its JSON errors; "unreachable" where no answer came. */
export class CallgateError extends Error {
  constructor(answer, told = {}, cause) {
    super(told.message ?? `callgate answered ${answer?.status}`, { cause });
    this.name = "CallgateError";
    this.status = answer?.status ?? 0;
    this.code = told.error ?? "unreachable";
    this.requestId = told.request_id ?? null;
    this.choices = told.choices ?? [];
    this.login = told.login ? new URL(told.login, import.meta.url).href : null;
    this.retryAfter = Number(answer?.headers.get("Retry-After")) || null;
  }
}

async function post(path, fields) {
  const headers = { Accept: "application/json" };
  const signal = AbortSignal.timeout(SECONDS_TO_ANSWER * 1000);
  const request = { method: "POST", body: new URLSearchParams(fields), headers, credentials: "include", redirect: "error", signal };
  let answer, told;
  try {
    answer = await fetch(at(path), request);
    told = await answer.json();
  } catch (cause) {
    throw new CallgateError(answer, { message: "callgate gave no answer" }, cause);
  }
  if (!answer.ok) throw new CallgateError(answer, told);
  return told;
}

/** Opens the PBX, with the login of this browser, in a new tab or in the window that `target` names. */
export function openPbx({ target = "_blank", ...options } = {}) {
  const address = at("/auth/pbx");
  for (const name of ["account", "domain", "lang", "next"]) {
    if (options[name] != null) address.searchParams.set(name, options[name]);
  }
  const opened = window.open(address, target);
  // A browser opens a new tab at a click only. The page itself may always go.
  if (!opened) window.location.assign(address);
  else if (opened !== window && target === "_blank") opened.opener = null;
}

/** Asks callgate for the login token of a one-time key. */
export async function tokenFor(key, user) {
  const { token } = await post("/auth/ott", user == null ? { key } : { key, appUser: user });
  return token;
}

// Web SDK 4 resolves with the key, the SDK for React Native rejects with it: both with the code 302.
async function keyOf(client, user) {
  const isKey = (result) => result?.code === 302 && result.key;
  const result = await client.requestOneTimeLoginKey(user).catch((rejected) => {
    if (isKey(rejected)) return rejected;
    throw rejected;
  });
  if (!isKey(result)) throw result;
  return result.key;
}

/**
 * Logs a connected client of the Voximplant SDK in, without a password.
 * `user`: the full login name, `ann@myapp.myaccount.voximplant.com`. Resolves as the SDK's own login does.
 */
export async function phoneLogin(client, user) {
  const isWeb5 = typeof client.requestOneTimeKey === "function";
  const logIn = async () => {
    const key = isWeb5 ? await client.requestOneTimeKey({ username: user }) : await keyOf(client, user);
    const token = await tokenFor(key, user);
    return isWeb5 ? client.loginOneTimeKey({ username: user, hash: token }) : client.loginWithOneTimeKey(user, token);
  };
  // A login of the same user in another tab ends the key of this one.
  return logIn().catch((error) => {
    if (error instanceof CallgateError || error?.code !== 401) throw error;
    return logIn();
  });
}
