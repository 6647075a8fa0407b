/** The types of callgate's module for web pages, `/auth/callgate/client.js`. */

/** A refusal by callgate. */
export class CallgateError extends Error {
  /** The status of the answer; 0: there was none. */
  readonly status: number;
  /** Such as "unauthenticated", "forbidden", "rate_limited"; "unreachable": no answer came. */
  readonly code: string;
  /** The number of the request in callgate's log. */
  readonly requestId: string | null;
  /** The accounts that this login may choose from, where it must name one. */
  readonly choices: ReadonlyArray<{ account?: string; domain?: string; appUser?: string }>;
  /** The address where the person can log in. */
  readonly login: string | null;
  /** How long to wait before the next try, in seconds. */
  readonly retryAfter: number | null;
}

export interface PbxOptions {
  /** One of the accounts that the caller may have. */
  account?: string;
  /** The tenant of the account. */
  domain?: string;
  /** The language of the PBX's pages, such as "de". */
  lang?: string;
  /** The page of the PBX to open: a name of `landings`, or a path. */
  next?: string;
  /** The window, as for `window.open`; "_blank" by default. */
  target?: string;
}

/**
 * Opens the PBX, with the login of this browser. Call it where a person clicked: a browser opens a new tab then only.
 * Without a new tab, the page itself goes there.
 */
export function openPbx(options?: PbxOptions): void;

/** Asks callgate for the login token of a one-time key. Rejects with a `CallgateError`. */
export function tokenFor(key: string, user?: string): Promise<string>;

/** A client of the Voximplant Web SDK 4, or of the SDK for React Native. */
export interface ClientWithOneTimeLoginKey<Result> {
  requestOneTimeLoginKey(user: string): Promise<unknown>;
  loginWithOneTimeKey(user: string, token: string): Promise<Result>;
}

/** A client of the Voximplant Web SDK 5. */
export interface ClientWithOneTimeKey<Result> {
  requestOneTimeKey(options: { username: string }): Promise<string>;
  loginOneTimeKey(options: { username: string; hash: string }): Promise<Result>;
}

/**
 * Logs a connected client of the Voximplant SDK in, without a password. Rejects with a `CallgateError`, or as the SDK does.
 *
 * @param user the full login name, `ann@myapp.myaccount.voximplant.com`
 */
export function phoneLogin<Result>(
  client: ClientWithOneTimeLoginKey<Result> | ClientWithOneTimeKey<Result>,
  user: string,
): Promise<Result>;
