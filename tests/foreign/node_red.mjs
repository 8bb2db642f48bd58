// Writes a flow for Node-RED: a temperature in degrees Celsius comes in, one in Fahrenheit goes out, retained, with birth and will.
// Usage: node_red.mjs FOLDER PORT PROTOCOL_VERSION

import { writeFileSync } from "node:fs";
import { join } from "node:path";

const [folder, port, protocolVersion] = process.argv.slice(2);
const status = { Topic: "nodered/status", Qos: "1", Retain: "true" };
const said = (moment, payload) =>
  Object.fromEntries([...Object.entries(status), ["Payload", payload]].map(([key, value]) => [moment + key, value]));
const flow = [
  { id: "tab", type: "tab", label: "temperatures" },
  {
    id: "broker", type: "mqtt-broker", broker: "localhost", port, clientid: "nodered", autoConnect: true, usetls: false,
    protocolVersion, keepalive: "60", cleansession: true, ...said("birth", "online"), ...said("will", "offline"),
  },
  { id: "in", type: "mqtt in", z: "tab", topic: "sensor/+/temperature", qos: "2", datatype: "json", broker: "broker", wires: [["f"]] },
  {
    id: "f", type: "function", z: "tab", outputs: 1, wires: [["out"]],
    func: "return { topic: 'fahrenheit/' + msg.topic.split('/')[1], payload: msg.payload.c * 9 / 5 + 32, retain: true };",
  },
  { id: "out", type: "mqtt out", z: "tab", topic: "", qos: "1", retain: "", broker: "broker", wires: [] },
];
writeFileSync(join(folder, "flows.json"), JSON.stringify(flow));
writeFileSync(
  join(folder, "settings.js"),
  "module.exports = { flowFile: 'flows.json', httpAdminRoot: false, httpNodeRoot: false, telemetry: { enabled: false } };",
);
