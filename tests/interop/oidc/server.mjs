// An authorization server: `node server.mjs PORT` serves http://127.0.0.1:PORT. Tokens for urn:opaque and what begins so are opaque, others are JWTs.
import { generateKeyPairSync } from "node:crypto";
import Provider from "oidc-provider";

const port = Number(process.argv[2]);
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const key = { ...privateKey.export({ format: "jwk" }), kid: "one", alg: "RS256", use: "sig" };
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    { client_id: "agent", client_secret: "the secret of an agent", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] },
    { client_id: "service", client_secret: "a+secret/of:a=service", grant_types: ["client_credentials"], redirect_uris: [], response_types: [] },
    { client_id: "gateway", client_secret: "the secret: of a gateway", grant_types: [], redirect_uris: [], response_types: [] },
  ],
  jwks: { keys: [key] },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({
        scope: "use",
        audience: resource,
        accessTokenTTL: 300,
        accessTokenFormat: resource.startsWith("urn:opaque") ? "opaque" : "jwt",
      }),
    },
  },
});
provider.listen(port, "127.0.0.1", () => console.log("ready"));
