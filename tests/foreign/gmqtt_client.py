"""gmqtt in 3.1.1 and 5: every QoS both ways, a retained message, properties.

Usage: gmqtt_client.py PORT
"""

import asyncio
import sys

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

PORT = int(sys.argv[1])


async def conversation(version):
    got, subscribed, left = asyncio.Queue(), asyncio.Event(), asyncio.Event()
    client = gmqtt.Client(f"gmqtt-{version}", clean_session=True)
    client.on_message = lambda _client, topic, payload, qos, properties: got.put_nowait((topic, payload, qos, properties)) or 0
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_disconnect = lambda *_: left.set()
    await client.connect("localhost", PORT, version=version, keepalive=30)
    client.publish(f"gmqtt/{version}/kept", "kept", qos=1, retain=True)
    client.subscribe(f"gmqtt/{version}/#", qos=2)
    await asyncio.wait_for(subscribed.wait(), 15)
    for qos in (0, 1, 2):
        properties = {"content_type": "text/plain", "user_property": ("from", "gmqtt")} if version == MQTTv50 else {}
        client.publish(f"gmqtt/{version}/{qos}", f"payload {qos}", qos=qos, **properties)
    seen = {}
    while len(seen) < 4:
        topic, payload, qos, properties = await asyncio.wait_for(got.get(), 15)
        name = topic.rsplit("/", 1)[1]
        assert name not in seen, f"{topic} came twice"
        seen[name] = (payload, qos, properties)
    assert seen["kept"][:2] == (b"kept", 1), seen
    for qos in (0, 1, 2):
        payload, got_qos, properties = seen[str(qos)]
        assert (payload, got_qos) == (f"payload {qos}".encode(), qos), seen
        if version == MQTTv50:
            assert properties["content_type"] == ["text/plain"], properties
            assert ("from", "gmqtt") in properties["user_property"], properties
    await client.disconnect()
    await asyncio.wait_for(left.wait(), 15)


for version in (MQTTv311, MQTTv50):
    asyncio.run(conversation(version))
print("gmqtt: good in 3.1.1 and 5")
