// The module itself has all that its types say.
import * as module from "./served/client.js";

export const served: typeof import("/auth/callgate/client.js") = module;
