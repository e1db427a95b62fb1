// A relying party inside of the cluster. It can't reach the tailnet: where the issuer's host is, its resolver says the
// back channel. Only the user's browser comes by the tailnet.
import { readFileSync } from 'node:fs'
import * as client from 'openid-client'
import { Agent, fetch } from 'undici'
import { ISSUER, ISSUING_ROOT, login, over, visit } from './tailnet.mjs'

const { BACK_CHANNEL, CLIENT_ID, CLIENT_SECRET } = process.env
const redirect_uri = 'https://app.example.com/callback'
const lookup = (host, { all }, done) =>
  all ? done(null, [{ address: BACK_CHANNEL, family: 4 }]) : done(null, BACK_CHANNEL, 4)
const dispatcher = new Agent({ connect: { ca: readFileSync(ISSUING_ROOT), lookup } })
const inside = (url, options) => fetch(url, { ...options, dispatcher })

// What its Secret says, where it has one.
const { client_id, client_secret } = CLIENT_ID
  ? { client_id: CLIENT_ID, client_secret: CLIENT_SECRET }
  : (await client.dynamicClientRegistration(
    new URL(ISSUER), { client_name: 'Inside', redirect_uris: [redirect_uri] }, undefined, { [client.customFetch]: over('alice') },
  )).clientMetadata()
const config = await client.discovery(
  new URL(ISSUER), client_id, {}, client.ClientSecretBasic(client_secret), { [client.customFetch]: inside },
)
const { claims, tokens } = await login(config, redirect_uri, 'openid email', async (url) =>
  (await visit(over('alice'), url)).location)
const userinfo = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
const refreshed = await client.refreshTokenGrant(config, tokens.refresh_token)
const status = async (path, options) => (await inside(new URL(path, ISSUER), options)).status
const authorize = `/authorize?${new URLSearchParams({ client_id, redirect_uri, response_type: 'code' })}`

console.log(JSON.stringify({
  issuer: config.serverMetadata().issuer,
  claims,
  userinfo,
  refreshed: refreshed.claims(),
  refused: [await status(authorize), await status('/'), await status('/register', { method: 'POST', body: '{}' })],
}))
process.exit(0)
