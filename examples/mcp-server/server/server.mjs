#!/usr/local/bin/node
// An MCP server that lets in whoever shows a token of the identity provider that was made for this server.
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js'
import { InvalidTokenError } from '@modelcontextprotocol/sdk/server/auth/errors.js'
import { requireBearerAuth } from '@modelcontextprotocol/sdk/server/auth/middleware/bearerAuth.js'
import { getOAuthProtectedResourceMetadataUrl, mcpAuthMetadataRouter } from '@modelcontextprotocol/sdk/server/auth/router.js'
import express from 'express'
import { createRemoteJWKSet, errors, jwtVerify } from 'jose'

// The provider, and this server's own URL as its clients know it.
const { ISSUER, RESOURCE } = process.env
const resource = new URL(RESOURCE)

const provider = await fetch(`${ISSUER}/.well-known/oauth-authorization-server`).then((answer) => answer.json())
const keys = createRemoteJWKSet(new URL(provider.jwks_uri))

// Signature, times, issuer, kind and audience: a token that was made for another server, or an ID token, is none here.
async function verifyAccessToken(token) {
  const expected = { issuer: ISSUER, audience: RESOURCE, typ: 'at+jwt', algorithms: ['RS256'] }
  const { payload } = await jwtVerify(token, keys, expected).catch((error) => {
    if (error instanceof errors.JOSEError) throw new InvalidTokenError('the token is not good for this server')
    throw error
  })
  const { client_id, scope, exp, sub } = payload
  return { token, clientId: client_id, scopes: scope.split(' '), expiresAt: exp, resource, extra: { sub } }
}

function notes() {
  const server = new McpServer({ name: 'notes', version: '1.0.0' })
  server.registerTool('whoami', { description: 'Who this server takes you for' }, ({ authInfo }) => ({
    content: [{ type: 'text', text: authInfo.extra.sub }],
  }))
  return server
}

const app = express()
// Where clients learn which provider to ask (RFC 9728); what answers without a token says where it is.
app.use(mcpAuthMetadataRouter({ oauthMetadata: provider, resourceServerUrl: resource, resourceName: 'Notes' }))
app.use(requireBearerAuth({
  verifier: { verifyAccessToken },
  resourceMetadataUrl: getOAuthProtectedResourceMetadataUrl(resource),
}))
app.post(resource.pathname, express.json(), async (request, response) => {
  const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined })
  response.on('close', () => transport.close())
  await notes().connect(transport)
  await transport.handleRequest(request, response, request.body)
})
app.all(resource.pathname, (_, response) => response.status(405).set('Allow', 'POST').end())
app.listen(8080)
process.on('SIGTERM', () => process.exit(0))
