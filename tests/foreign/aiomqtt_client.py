"""aiomqtt, as Home Assistant uses it: 5,000 retained configurations for two overlapping wildcards, each exactly once.

Usage: aiomqtt_client.py PORT
"""

import asyncio
import collections
import sys

import aiomqtt

PORT, COUNT = int(sys.argv[1]), 5000


async def conversation(version):
    async with aiomqtt.Client("localhost", PORT, protocol=version, identifier=f"aio-{version.value}") as client:
        await client.subscribe(f"aio/{version.value}/#", qos=2)
        for qos in (0, 1, 2):
            await client.publish(f"aio/{version.value}/{qos}", str(qos), qos=qos)
        messages = aiter(client.messages)
        for qos in (0, 1, 2):
            message = await asyncio.wait_for(anext(messages), 15)
            assert (message.payload, message.qos) == (str(qos).encode(), qos), message


async def home_assistant():
    async with aiomqtt.Client("localhost", PORT, identifier="zigbee2mqtt") as devices:
        # Some at a time, as its devices do: one by one each waits for the disk alone.
        for some in range(0, COUNT, 10):
            await asyncio.gather(*(
                devices.publish(f"homeassistant/sensor/device-{n}/config", f'{{"n":{n}}}' + "x" * 400, qos=1, retain=True)
                for n in range(some, some + 10)
            ))
    # The receive queue of the client is not to be the limit here.
    async with aiomqtt.Client("localhost", PORT, identifier="home-assistant", max_queued_incoming_messages=0) as ha:
        await ha.subscribe([("homeassistant/+/+/config", 0), ("+/+/+/config", 1)])
        seen = collections.Counter()
        messages = aiter(ha.messages)
        while len(seen) < COUNT:
            message = await asyncio.wait_for(anext(messages), 30)
            assert message.retain
            seen[str(message.topic)] += 1
        # What is published now comes after all of them.
        await ha.publish("homeassistant/sensor/last/config", "last", qos=1)
        message = await asyncio.wait_for(anext(messages), 15)
        assert message.payload == b"last" and not message.retain, message
        assert set(seen.values()) == {1}, "a configuration came twice"


async def main():
    for version in (aiomqtt.ProtocolVersion.V31, aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5):
        await conversation(version)
    await home_assistant()
    print("aiomqtt good:", COUNT, "configurations, each once")


asyncio.run(main())
