// Somebody opens an application on the tailnet, which sends the browser to the provider and takes it back from there.
// What the application says then is printed.
import { over, visit } from './tailnet.mjs'

const browser = over('alice')
const opened = await browser(new URL('/login/generic_oauth', process.env.APP), { redirect: 'manual' })
if (!opened.headers.has('location')) throw new Error(`the app answered ${opened.status}: ${await opened.text()}`)
const cookie = opened.headers.getSetCookie().map((line) => line.split(';')[0]).join('; ')
const { location } = await visit(browser, new URL(opened.headers.get('location')))
const back = await browser(location, { headers: { cookie }, redirect: 'manual' })
console.log(await back.text())
process.exit(0)
