// A relying party whom the provider knows already, by `openid-client`: all that it is told, as JSON.
import * as client from 'openid-client'
import { ISSUER, login, over, visit } from './tailnet.mjs'

const { CLIENT_ID, CLIENT_SECRET, REDIRECT_URI } = process.env
const alice = over('alice')
const config = await client.discovery(
  new URL(ISSUER), CLIENT_ID, { id_token_signed_response_alg: 'RS256' }, client.ClientSecretPost(CLIENT_SECRET),
  { [client.customFetch]: alice },
)
const { claims, tokens } = await login(config, REDIRECT_URI, 'openid email profile', async (url) =>
  (await visit(alice, url)).location)
const server = config.serverMetadata()

console.log(JSON.stringify({
  server,
  keys: (await (await alice(server.jwks_uri)).json()).keys,
  claims,
  userinfo: await client.fetchUserInfo(config, tokens.access_token, claims.sub),
}))
process.exit(0)
