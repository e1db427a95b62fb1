// A relying party whose provider is away between the redirect and the token request: it says when the code has come,
// and redeems it at the next line of its input.
import { once } from 'node:events'
import * as client from 'openid-client'
import { ISSUER, login, over, visit } from './tailnet.mjs'

const redirect_uri = 'https://app.example.com/callback'
const alice = { [client.customFetch]: over('alice') }
const config = await client.dynamicClientRegistration(
  new URL(ISSUER), { client_name: 'Patient', redirect_uris: [redirect_uri] }, undefined, alice,
)
config[client.customFetch] = over('alice')
const { claims } = await login(config, redirect_uri, 'openid email', async (url) => {
  const { location } = await visit(over('alice'), url)
  console.log('authorized')
  await once(process.stdin, 'data')
  // The connections of before lead nowhere.
  config[client.customFetch] = over('alice')
  return location
})
console.log(JSON.stringify(claims))
process.exit(0)
