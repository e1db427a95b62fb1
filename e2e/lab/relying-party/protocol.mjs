// A relying party by `openid-client`, from finding the provider to revoking its tokens. What it has learnt is
// printed as JSON for the test that runs it.
import * as client from 'openid-client'
import { ISSUER, login, over, visit } from './tailnet.mjs'

const redirect_uri = 'https://app.example.com/callback'
const server = { [client.customFetch]: over('alice') }

const registered = await client.dynamicClientRegistration(
  new URL(ISSUER),
  { client_name: 'Relying party', redirect_uris: [redirect_uri], id_token_signed_response_alg: 'ES256' },
  undefined,
  server,
)
const { client_id, client_secret } = registered.clientMetadata()
const config = await client.discovery(new URL(ISSUER), client_id, {}, client.ClientSecretBasic(client_secret), server)

const asked = []
const as = (user) =>
  login(config, redirect_uri, 'openid email profile groups offline_access', async (url) => {
    const visited = await visit(over(user), url)
    asked.push(visited.asked)
    return visited.location
  })
const refusal = (promise) => promise.then(() => 'none', (error) => error.error ?? String(error))
const active = async (token) => (await client.tokenIntrospection(config, token)).active

const first = await as('alice')
const userinfo = await client.fetchUserInfo(config, first.tokens.access_token, first.claims.sub)
const second = await as('alice')
const bob = await as('bob')
const tagged = await refusal(as('tagged'))

const refreshed = await client.refreshTokenGrant(config, first.tokens.refresh_token)
const before = await active(refreshed.access_token)
await client.tokenRevocation(config, refreshed.refresh_token)
const again = { pkceCodeVerifier: second.verifier, expectedState: client.skipStateCheck }

console.log(JSON.stringify({
  server: config.serverMetadata(),
  asked,
  claims: first.claims,
  bob: bob.claims,
  tagged,
  userinfo,
  refreshed: refreshed.claims(),
  active: [before, await active(refreshed.access_token)],
  refreshAfterRevocation: await refusal(client.refreshTokenGrant(config, refreshed.refresh_token)),
  codeAgain: await refusal(client.authorizationCodeGrant(config, second.location, again)),
  activeAfterCodeAgain: await active(second.tokens.access_token),
}))
process.exit(0)
