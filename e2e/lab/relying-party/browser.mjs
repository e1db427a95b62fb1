// A person with Chromium, whose device is alice's Go node: the admin pages, logins, and what goes wrong. Pictures of
// the pages go to a folder, and what was seen is printed as JSON for the test that runs it.
import { readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import * as client from 'openid-client'
import { chromium } from 'playwright-core'
import { CLIENTS, ISSUER, login, over } from './tailnet.mjs'

const { CHROMIUM, PICTURES, APP_CERTIFICATE, APP_KEY } = process.env
const seen = { problems: [] }

/** The applications that browsers come back to: one with a name, and a program on the user's own machine. */
const answer = (request, response) => {
  const page = request.url.startsWith('/evil') ? evil : '<p>The application.'
  response.setHeader('content-type', 'text/html').end(page)
}
const listen = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)))
const app = await listen(https.createServer({ cert: readFileSync(APP_CERTIFICATE), key: readFileSync(APP_KEY) }, answer))
const program = await listen(http.createServer(answer))
const callback = 'https://app.example.com/login/generic_oauth'
let evil = ''

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', `--host-resolver-rules=MAP app.example.com:443 127.0.0.1:${app}`,
  ],
  proxy: { server: `http://${CLIENTS}`, bypass: 'app.example.com,127.0.0.1' },
})

/** A window of its own, with an empty profile. */
async function open(options) {
  // Only here is the certificate taken as it is: openid-client checks it.
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1000, height: 760 }, ...options })
  const page = await context.newPage()
  page.setDefaultTimeout(30_000)
  page.on('pageerror', (error) => seen.problems.push(String(error)))
  page.on('console', (message) => {
    // A page that says what went wrong comes with a status, which Chromium reports too.
    const expected = message.text().includes('responded with a status of 4')
    if (message.type() === 'error' && !expected) seen.problems.push(message.text())
  })
  return page
}

const picture = (page, name) => page.screenshot({ path: `${PICTURES}/${name}.png`, fullPage: true })
const text = (page, selector) => page.locator(selector).innerText()
const button = (page, name) => page.getByRole('button', { name, exact: true })

/** How an application sees the provider. */
const party = (id, authentication) =>
  client.discovery(new URL(ISSUER), id, {}, authentication, { [client.customFetch]: over('alice') })

/** The claims of a login at an application: `act` does what the user does on the page that comes. */
const claims = (page, config, redirect_uri, act) =>
  login(config, redirect_uri, 'openid email profile', async (url, state) => {
    await page.goto(url.href)
    await act?.(page)
    await page.waitForURL((url) => url.href.startsWith(redirect_uri) && url.searchParams.get('state') === state)
    return new URL(page.url())
  }).then(({ claims }) => claims, (error) => ({ error: error.error ?? String(error) }))

// The administrator makes a client.
const admin = await open()
await admin.goto(ISSUER)
await picture(admin, 'clients-none')
await admin.getByRole('link', { name: 'Add a client' }).click()
await admin.getByLabel('Name').fill('Grafana')
await picture(admin, 'client-new')
await admin.getByLabel('Redirect URIs').fill(callback)
await button(admin, 'Create').click()
const secret = await text(admin, '.secret')
const [, id] = await admin.locator('dl code').allInnerTexts()
await picture(admin, 'client-created')
seen.created = await text(admin, '.notice')

// A user: first no, then yes, and then nobody asks again.
const config = await party(id, client.ClientSecretPost(secret))
const user = await open()
seen.declined = await claims(user, config, callback, async (page) => {
  seen.consent = await text(page, 'main')
  await picture(page, 'consent')
  await button(page, 'Cancel').click()
})
seen.claims = await claims(user, config, callback, (page) => button(page, 'Continue').click())
seen.silent = await claims(user, config, callback)

// The same on a phone at night, for a program that has registered itself.
const registered = await client.dynamicClientRegistration(
  new URL(ISSUER),
  { client_name: 'A notebook with a rather long name', redirect_uris: ['http://127.0.0.1/callback'], token_endpoint_auth_method: 'none' },
  client.None(),
  { [client.customFetch]: over('alice') },
)
const phone = await open({ viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, colorScheme: 'dark' })
const native = await party(registered.clientMetadata().client_id, client.None())
seen.program = await claims(phone, native, `http://127.0.0.1:${program}/callback`, async (page) => {
  seen.warnings = await page.locator('.warning').allInnerTexts()
  await picture(page, 'consent-phone-dark')
  await button(page, 'Continue').click()
})

// What can't go on.
const wrong = new URLSearchParams({ client_id: id, redirect_uri: 'https://evil.example/callback', response_type: 'code' })
await user.goto(`${ISSUER}/authorize?${wrong}`)
seen.wrongRedirect = await text(user, 'main')
await picture(user, 'error')
await user.goto(`${ISSUER}/nowhere`)
seen.nowhere = await text(user, 'h1')

// A page of somebody else: the administrator's cookie may go along with its form, but the origin gives it away.
evil = `<iframe src="/framed"></iframe><iframe src="${ISSUER}/"></iframe>
  <form method="post" action="${ISSUER}/edit/${id}"><input name="action" value="delete"><button>Win</button></form>`
const lured = await admin.context().newPage()
await lured.goto('https://app.example.com/evil')
// Where a page may not be in a frame, Chromium shows one of its own.
seen.framed = lured.frames().slice(1).map((frame) => frame.url()).filter((url) => url.startsWith('https:'))
await lured.getByRole('button').click()
await lured.waitForURL(`${ISSUER}/**`)
seen.forged = await text(lured, 'main')
await picture(lured, 'forged')

// The administrator replaces the secret, looks at the list, and deletes the client.
await admin.goto(`${ISSUER}/edit/${id}`)
await admin.getByText('Replace the secret').click()
await admin.getByText('Delete this client').click()
await picture(admin, 'client-edit')
await button(admin, 'Make a new secret').click()
const fresh = await text(admin, '.secret')
const renewed = await party(id, client.ClientSecretPost(fresh))
seen.replaced = [fresh !== secret, (await claims(user, renewed, callback)).sub, (await claims(user, config, callback)).sub]
await admin.goto(ISSUER)
seen.list = await admin.locator('tbody tr').allInnerTexts()
await picture(admin, 'clients')
await admin.goto(`${ISSUER}/edit/${id}`)
await admin.getByText('Delete this client').click()
await button(admin, 'Delete').click()
seen.deleted = await text(admin, '.notice')
await user.goto(client.buildAuthorizationUrl(config, { redirect_uri: callback, scope: 'openid' }).href)
seen.afterDeletion = await text(user, 'main')

await browser.close()
console.log(JSON.stringify(seen))
process.exit(0)
