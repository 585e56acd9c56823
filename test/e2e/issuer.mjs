// A real OpenID Connect provider (npm oidc-provider) for the tests. Its settings come as JSON in the first argument:
// {port, issuer, cert, key, jwks, redirect, audience}. Everybody logs in with any name; the groups of a user are in its name,
// as in "alice+the-admins". Prints "ready" once it listens.
import https from 'node:https'
import fs from 'node:fs'
import Provider from 'oidc-provider'

const cfg = JSON.parse(process.argv[2])
const groups = sub => sub.split('+').slice(1)

const provider = new Provider(cfg.issuer, {
  clients: [
    { client_id: 'polygate', client_secret: cfg.secret, redirect_uris: [cfg.redirect], grant_types: ['authorization_code'], response_types: ['code'] },
    { client_id: 'robot', client_secret: cfg.secret, redirect_uris: [], grant_types: ['client_credentials'], response_types: [] },
  ],
  jwks: cfg.jwks,
  cookies: { keys: ['only for tests'] },
  claims: { openid: ['sub'], profile: ['groups', 'preferred_username'] },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  findAccount: (_, id) => ({ accountId: id, claims: async () => ({ sub: id, preferred_username: id.split('+')[0], groups: groups(id) }) }),
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => cfg.audience,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: 'call', audience: cfg.audience, accessTokenFormat: 'jwt', accessTokenTTL: 300 }),
    },
  },
})
https.createServer({ cert: fs.readFileSync(cfg.cert), key: fs.readFileSync(cfg.key) }, provider.callback()).listen(cfg.port, '127.0.0.1', () => console.log('ready'))
