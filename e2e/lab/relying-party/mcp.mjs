// An MCP client by the SDK of the protocol's authors: it knows a server's URL, and finds the rest by itself.
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { decodeJwt } from 'jose'
import * as client from 'openid-client'
import { install } from 'undici'
import { ISSUER, login, over, visit } from './tailnet.mjs'

// The SDK takes answers apart by their class: all have to be of one `fetch`.
install()
const { SERVER, OTHER } = process.env
const alice = over('alice')
const redirect_uri = 'http://127.0.0.1/callback'

/** What an MCP client keeps: here in memory. */
class Memory {
  kept = {}
  redirectUrl = redirect_uri
  clientMetadata = { client_name: 'Agent', redirect_uris: [redirect_uri], token_endpoint_auth_method: 'none' }
  clientInformation = () => this.kept.client
  saveClientInformation = (information) => { this.kept.client = information }
  tokens = () => this.kept.tokens
  saveTokens = (tokens) => { this.kept.tokens = tokens }
  codeVerifier = () => this.kept.verifier
  saveCodeVerifier = (verifier) => { this.kept.verifier = verifier }
  redirectToAuthorization = (url) => { this.kept.url = url }
}

const memory = new Memory()
const transport = () => new StreamableHTTPClientTransport(new URL(SERVER), { authProvider: memory, fetch: alice })
const agent = () => new Client({ name: 'agent', version: '1.0.0' })

// Nobody has let it in yet, and so it comes back with the page that the user has to see.
const first = transport()
const stopped = await agent().connect(first).then(() => 'none', (error) => error.constructor.name)
const { location, asked } = await visit(alice, memory.kept.url)
await first.finishAuth(location.searchParams.get('code'))
const connected = agent()
await connected.connect(transport())
const { tools } = await connected.listTools()
const { content: [{ text: whoami }] } = await connected.callTool({ name: 'whoami' })

/** How the server answers whoever shows that token. */
async function shown(token) {
  const headers = { 'content-type': 'application/json', accept: 'application/json, text/event-stream' }
  if (token) headers.authorization = `Bearer ${token}`
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list', params: {} })
  const answer = await alice(SERVER, { method: 'POST', headers, body })
  await answer.text()
  return [answer.status, answer.headers.get('www-authenticate') ?? '']
}

// The same client's tokens for another server, for none, and what isn't an access token at all.
const { client_id } = memory.kept.client
const config = await client.discovery(new URL(ISSUER), client_id, {}, client.None(), { [client.customFetch]: alice })
const made = async (more) => {
  const { tokens } = await login(config, redirect_uri, 'openid', async (url) => (await visit(alice, url)).location, more)
  return tokens
}
const own = await made({ resource: SERVER })
const other = await made({ resource: OTHER })
const none = await made({})

console.log(JSON.stringify({
  stopped,
  asked,
  resource: memory.kept.url.searchParams.get('resource'),
  challenge: memory.kept.url.searchParams.get('code_challenge_method'),
  audience: decodeJwt(memory.kept.tokens.access_token).aud,
  tools: tools.map(({ name }) => name),
  whoami,
  subject: decodeJwt(memory.kept.tokens.access_token).sub,
  shown: {
    nothing: await shown(),
    own: await shown(own.access_token),
    other: await shown(other.access_token),
    none: await shown(none.access_token),
    id: await shown(own.id_token),
  },
}))
process.exit(0)
