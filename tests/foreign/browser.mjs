// A page in headless Chromium subscribes over WebSocket and shows a retained value.
//
// Usage: browser.mjs CHROMIUM WS_URL TOPIC PROFILE_FOLDER   prints the text that the page shows
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'

const [chromium, broker, topic, profile] = process.argv.slice(2)
const script = readFileSync(new URL('./node_modules/mqtt/dist/mqtt.min.js', import.meta.url))
const page = `<!doctype html><title>Lapwing</title><p id="value">nothing yet</p><script src="/mqtt.js"></script><script>
  const client = mqtt.connect(${JSON.stringify(broker)})
  client.on('connect', () => client.subscribe(${JSON.stringify(topic)}))
  client.on('message', (topic, payload, packet) => {
    document.getElementById('value').textContent = payload.toString() + (packet.retain ? ' (retained)' : '')
    fetch('/shown', { method: 'POST', body: document.getElementById('value').textContent })
  })
  client.on('error', (error) => fetch('/shown', { method: 'POST', body: 'error: ' + error.message }))
</script>`

let browser
const shown = new Promise((resolve) => {
  const server = createServer((request, response) => {
    if (request.url === '/shown') {
      let body = ''
      request.on('data', (chunk) => { body += chunk })
      request.on('end', () => { response.end(); resolve(body) })
    } else if (request.url === '/mqtt.js') {
      response.setHeader('content-type', 'text/javascript')
      response.end(script)
    } else {
      response.setHeader('content-type', 'text/html')
      response.end(page)
    }
  })
  server.listen(0, '127.0.0.1', () => {
    const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--remote-debugging-port=0', `--user-data-dir=${profile}`]
    browser = spawn(chromium, [...flags, `http://127.0.0.1:${server.address().port}/`], { stdio: 'ignore', detached: true })
    setTimeout(() => resolve('the page showed nothing in 60 s'), 60_000)
  })
})
const text = await shown
// It and its helpers, which are a group of their own, are gone before anybody hears of it.
const gone = new Promise((resolve) => browser.once('exit', resolve))
process.kill(-browser.pid, 'SIGKILL')
await gone
console.log(text)
process.exit(0)
