// What the examples of the documents find in their page.
declare const client: import("./client").ClientWithOneTimeKey<unknown>;

interface Document {
  getElementById(id: "pbx"): HTMLButtonElement;
}
