// MQTT.js over tcp, tls, ws and wss: every QoS, retained, large payloads, will, persistent session, 3.1.1 and 5.0.
//
// Usage: mqttjs_client.mjs CA_FILE URL...
import { readFileSync } from 'node:fs'
import mqtt from 'mqtt'

const [ca, ...urls] = process.argv.slice(2)
const PATIENCE = 20_000

function assert(good, what) {
  if (!good) throw new Error(what)
}

function within(promise, what) {
  let timer
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`too late: ${what}`)), PATIENCE) })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

async function connect(url, protocolVersion, clientId, more = {}) {
  const client = mqtt.connect(url, { protocolVersion, clientId, ca: readFileSync(ca), reconnectPeriod: 0, ...more })
  client.inbox = []
  client.waiting = []
  client.on('message', (topic, payload, packet) => {
    const waiting = client.waiting.shift()
    if (waiting) waiting(packet)
    else client.inbox.push(packet)
  })
  client.next = () => within(new Promise((resolve) => {
    if (client.inbox.length) resolve(client.inbox.shift())
    else client.waiting.push(resolve)
  }), 'a message')
  client.connack = await within(new Promise((resolve, reject) => {
    client.once('connect', resolve)
    client.once('error', reject)
  }), `${url} connects`)
  return client
}

async function conversation(url, version) {
  const tag = `js/${new URL(url).protocol.slice(0, -1)}/${version}`
  const sub = await connect(url, version, `${tag}/sub`)
  const pub = await connect(url, version, `${tag}/pub`)
  const [granted] = await sub.subscribeAsync(`${tag}/#`, { qos: 2 })
  assert(granted.qos === 2, 'granted')
  for (const qos of [0, 1, 2]) {
    await pub.publishAsync(`${tag}/${qos}`, `hello ${qos}`, { qos })
    const got = await sub.next()
    assert(got.topic === `${tag}/${qos}` && got.payload.toString() === `hello ${qos}` && got.qos === qos, `QoS ${qos}`)
  }
  const large = Buffer.alloc(900_000, 'Lapwing ')
  await pub.publishAsync(`${tag}/large`, large, { qos: 1, retain: true })
  assert((await sub.next()).payload.equals(large), 'large')
  const late = await connect(url, version, `${tag}/late`)
  await late.subscribeAsync(`${tag}/large`, { qos: 1 })
  const retained = await late.next()
  assert(retained.retain && retained.payload.equals(large), 'large retained')
  await pub.publishAsync(`${tag}/large`, '', { qos: 1, retain: true })
  await sub.next()
  // Many at once, QoS 2, in order. MQTT.js does not look at the server's Receive Maximum, so that is the most it may send in 5.0.
  const many = version === 5 ? pub.connack.properties.receiveMaximum : 1000
  await Promise.all(Array.from({ length: many }, (_, n) => pub.publishAsync(`${tag}/many`, String(n), { qos: 2 })))
  for (let n = 0; n < many; n++) assert((await sub.next()).payload.toString() === String(n), 'in order')
  // A will.
  const doomed = await connect(url, version, `${tag}/doomed`, { will: { topic: `${tag}/will`, payload: 'gone', qos: 1 } })
  doomed.stream.destroy()
  const will = await sub.next()
  assert(will.topic === `${tag}/will` && will.payload.toString() === 'gone', 'will')
  // A session that rests.
  const kept = { clean: false, ...(version === 5 ? { properties: { sessionExpiryInterval: 100 } } : {}) }
  const first = await connect(url, version, `${tag}/keeper`, kept)
  await first.subscribeAsync(`${tag}/kept`, { qos: 1 })
  await first.endAsync()
  await pub.publishAsync(`${tag}/kept`, 'while away', { qos: 1 })
  const again = await connect(url, version, `${tag}/keeper`, kept)
  assert(again.connack.sessionPresent, 'session present')
  assert((await again.next()).payload.toString() === 'while away', 'kept')
  await Promise.all([sub, pub, late, again].map((client) => client.endAsync()))
  console.log('MQTT.js', url, version, 'good')
}

for (const url of urls) for (const version of [4, 5]) await within(conversation(url, version), `${url} ${version}`)
console.log('MQTT.js good')
process.exit(0)
