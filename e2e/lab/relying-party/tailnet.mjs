// The way to the tailnet: the lab's Go clients are an HTTP proxy (CONNECT) that goes by whose name it is asked in.
import { readFileSync } from 'node:fs'
import * as client from 'openid-client'
import { ProxyAgent, fetch } from 'undici'

/** What the environment has to say. */
export const { ISSUER, CLIENTS, ISSUING_ROOT } = process.env

/** A `fetch` over the Go node of that user. */
export function over(user) {
  const dispatcher = new ProxyAgent({
    uri: `http://${CLIENTS}`,
    token: `Basic ${Buffer.from(`${user}:`).toString('base64')}`,
    requestTls: { ca: readFileSync(ISSUING_ROOT) },
  })
  return (url, options) => fetch(url, { ...options, dispatcher })
}

/** The fields of the page's first form that people don't see. */
export function hidden(page) {
  const form = page.slice(page.indexOf('<form'), page.indexOf('</form>'))
  const fields = form.matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)">/g)
  return Object.fromEntries([...fields].map(([, name, value]) => [name, value]))
}

/** Goes to the authorization endpoint as a browser does, and says yes where it is asked: where it is sent then. */
export async function visit(fetch, url) {
  const first = await fetch(url, { redirect: 'manual' })
  if (first.headers.has('location')) return { location: new URL(first.headers.get('location')), asked: false }
  const page = await first.text()
  if (first.status !== 200) throw new Error(`the authorization endpoint answered ${first.status}: ${page}`)
  const form = new URLSearchParams({ ...hidden(page), decision: 'allow' })
  const [cookie] = first.headers.getSetCookie()
  const headers = { cookie: cookie.split(';')[0], origin: ISSUER }
  const second = await fetch(new URL('/consent', ISSUER), { method: 'POST', redirect: 'manual', body: form, headers })
  if (!second.headers.has('location')) throw new Error(`consent was answered ${second.status}: ${await second.text()}`)
  return { location: new URL(second.headers.get('location')), asked: true }
}

/**
 * A login by the code flow with PKCE, state and nonce, each checked. `go` takes the user to the authorization
 * endpoint, and says where he has come back to; `more` are further parameters of that request.
 */
export async function login(config, redirect_uri, scope, go, more = {}) {
  const verifier = client.randomPKCECodeVerifier()
  const state = client.randomState()
  const nonce = client.randomNonce()
  const url = client.buildAuthorizationUrl(config, {
    redirect_uri,
    scope,
    state,
    nonce,
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    ...more,
  })
  const location = await go(url, state)
  const tokens = await client.authorizationCodeGrant(config, location, {
    pkceCodeVerifier: verifier,
    expectedState: state,
    expectedNonce: nonce,
    idTokenExpected: true,
  })
  return { location, verifier, tokens, claims: tokens.claims() }
}
