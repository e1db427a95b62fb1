// A relying party that isn't on the tailnet: it asks by another way, which leads to one address whatever the issuer's
// host is. Inside of the cluster that is the back channel, on the internet Funnel's edge. Only the user's browser comes
// by the tailnet.
import { readFileSync } from 'node:fs'
import * as client from 'openid-client'
import { Agent, buildConnector, fetch } from 'undici'
import { ISSUER, ISSUING_ROOT, login, over, visit } from './tailnet.mjs'

const redirect_uri = 'https://app.example.com/callback'
const [hostname, port] = process.env.WAY.split(':')
const connect = buildConnector({ ca: readFileSync(ISSUING_ROOT) })
const dispatcher = new Agent({ connect: (options, done) => connect({ ...options, hostname, port }, done) })
const elsewhere = (url, options) => fetch(url, { ...options, dispatcher })

// What its Secret says, where it has one.
const { CLIENT_ID, CLIENT_SECRET } = process.env
const { client_id, client_secret } = CLIENT_ID
  ? { client_id: CLIENT_ID, client_secret: CLIENT_SECRET }
  : (await client.dynamicClientRegistration(
    new URL(ISSUER), { client_name: 'Elsewhere', redirect_uris: [redirect_uri] }, undefined, { [client.customFetch]: over('alice') },
  )).clientMetadata()
const config = await client.discovery(
  new URL(ISSUER), client_id, {}, client.ClientSecretBasic(client_secret), { [client.customFetch]: elsewhere },
)
const { claims, tokens } = await login(config, redirect_uri, 'openid email', async (url) =>
  (await visit(over('alice'), url)).location)
const userinfo = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
const refreshed = await client.refreshTokenGrant(config, tokens.refresh_token)
const status = async (path, options) => (await elsewhere(new URL(path, ISSUER), options)).status
const authorize = `/authorize?${new URLSearchParams({ client_id, redirect_uri, response_type: 'code' })}`
const server = config.serverMetadata()

console.log(JSON.stringify({
  server,
  keys: (await (await elsewhere(server.jwks_uri)).json()).keys.length,
  claims,
  userinfo,
  refreshed: refreshed.claims(),
  active: (await client.tokenIntrospection(config, refreshed.access_token)).active,
  refused: [
    await status(authorize),
    await status('/'),
    await status('/new'),
    await status('/consent', { method: 'POST' }),
    await status('/register', { method: 'POST', body: '{}' }),
  ],
}))
process.exit(0)
