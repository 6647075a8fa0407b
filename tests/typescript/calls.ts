// Calls that the types must permit, and calls that they must refuse.
import { CallgateError, openPbx, phoneLogin, tokenFor } from "/auth/callgate/client.js";
import type { PbxOptions } from "/auth/callgate/client.js";

interface LoggedIn {
  displayName: string;
}

const web4 = {
  requestOneTimeLoginKey: async (_user: string) => ({ code: 302, key: "key" }),
  loginWithOneTimeKey: async (_user: string, _token: string): Promise<LoggedIn> => ({ displayName: "Ann" }),
};
const web5 = {
  requestOneTimeKey: async (_options: { username: string }) => "key",
  loginOneTimeKey: async (_options: { username: string; hash: string }): Promise<LoggedIn> => ({ displayName: "Ann" }),
};

export async function everyCall(): Promise<string[]> {
  const options: PbxOptions = { account: "40", domain: "acme.test", lang: "de", next: "calls", target: "_top" };
  openPbx();
  openPbx(options);
  const token: string = await tokenFor("key");
  const { displayName } = await phoneLogin(web4, "ann@myapp.myaccount.voximplant.com");
  const other = await phoneLogin(web5, "ann@myapp.myaccount.voximplant.com");
  return [token, await tokenFor("key", "ann"), displayName, other.displayName];
}

export function everyMember(error: unknown): string {
  if (!(error instanceof CallgateError)) throw error;
  const seconds: number = error.retryAfter ?? error.status;
  const accounts = error.choices.map(({ account, domain, appUser }) => account ?? domain ?? appUser ?? "");
  return [error.code, error.message, error.login ?? "", error.requestId ?? "", String(seconds), ...accounts].join();
}

export async function refused(error: CallgateError): Promise<void> {
  // @ts-expect-error: an option has another name.
  openPbx({ extension: "40" });
  // @ts-expect-error: an account is a text.
  openPbx({ account: 40 });
  // @ts-expect-error: the key is missing.
  await tokenFor();
  // @ts-expect-error: the user is missing.
  await phoneLogin(web4);
  // @ts-expect-error: the client has none of the functions.
  await phoneLogin({}, "ann");
  // @ts-expect-error: it may be missing.
  error.login.length;
  // @ts-expect-error: it is the answer's, and nobody changes it.
  error.code = "forbidden";
}
