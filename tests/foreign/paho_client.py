"""paho-mqtt against a broker: every QoS, retained, will, persistent session, 3.1, 3.1.1 and 5.0, over TCP and TLS.

Usage: paho_client.py PORT TLS_PORT CA_FILE
"""

import queue
import ssl
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT, TLS_PORT, CA = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
PATIENCE = 15


class Client:
    """A paho client whose events are awaited."""

    def __init__(self, name, version, clean=True, tls=False, will=None):
        v5 = version == mqtt.MQTTv5
        arguments = {} if v5 else {"clean_session": clean}
        self.c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version, **arguments)
        self.connected, self.subscribed, self.messages = queue.Queue(), queue.Queue(), queue.Queue()
        self.disconnected = threading.Event()
        self.c.on_connect = lambda c, u, flags, reason, p: self.connected.put((flags.session_present, reason, p))
        self.c.on_subscribe = lambda c, u, mid, reasons, p: self.subscribed.put([r.value for r in reasons])
        self.c.on_message = lambda c, u, m: self.messages.put(m)
        self.c.on_disconnect = lambda c, u, flags, reason, p: self.disconnected.set()
        if will:
            self.c.will_set(will, b"gone", qos=1)
        if tls:
            self.c.tls_set(ca_certs=CA, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        kwargs = {}
        if v5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 100
            kwargs = {"clean_start": clean, "properties": properties}
        self.c.connect("localhost", TLS_PORT if tls else PORT, keepalive=30, **kwargs)
        self.c.loop_start()
        self.present, reason, self.properties = self.connected.get(timeout=PATIENCE)
        assert not reason.is_failure, reason

    def subscribe(self, topic, qos):
        self.c.subscribe(topic, qos)
        return self.subscribed.get(timeout=PATIENCE)

    def publish(self, topic, payload, **kwargs):
        self.c.publish(topic, payload, **kwargs).wait_for_publish(PATIENCE)

    def next(self):
        return self.messages.get(timeout=PATIENCE)

    def close(self):
        self.c.disconnect()
        self.disconnected.wait(PATIENCE)
        self.c.loop_stop()

    def vanish(self):
        self.c.loop_stop()
        self.c.socket().close()


def conversation(version, tls):
    tag = f"{version}-{tls}"
    sub, pub = Client(f"sub-{tag}", version, tls=tls), Client(f"pub-{tag}", version, tls=tls)
    assert sub.subscribe(f"{tag}/#", 2) == [2]
    for qos in (0, 1, 2):
        pub.publish(f"{tag}/q{qos}", f"hello {qos}", qos=qos)
        m = sub.next()
        assert (m.topic, m.payload, m.qos, m.retain) == (f"{tag}/q{qos}", f"hello {qos}".encode(), qos, False), m
    # A large retained payload.
    large = bytes(range(256)) * 3516
    pub.publish(f"{tag}/large", large, qos=1, retain=True)
    assert sub.next().payload == large
    late = Client(f"late-{tag}", version, tls=tls)
    late.subscribe(f"{tag}/large", 1)
    m = late.next()
    assert m.retain and m.payload == large and len(large) > 900_000
    pub.publish(f"{tag}/large", b"", qos=1, retain=True)
    assert sub.next().payload == b""
    # A will.
    doomed = Client(f"doomed-{tag}", version, tls=tls, will=f"{tag}/will")
    doomed.vanish()
    m = sub.next()
    assert (m.topic, m.payload) == (f"{tag}/will", b"gone")
    # A session that rests.
    keeper = Client(f"keeper-{tag}", version, clean=False, tls=tls)
    keeper.subscribe(f"{tag}/kept", 1)
    keeper.close()
    for n in range(50):
        pub.publish(f"{tag}/kept", str(n), qos=1)
    keeper = Client(f"keeper-{tag}", version, clean=False, tls=tls)
    # paho subscribes to nothing here: what comes is from the session.
    assert [int(keeper.next().payload) for _ in range(50)] == list(range(50))
    for client in (sub, pub, late, keeper):
        client.close()


def properties_of_5():
    sub, pub = Client("p-sub", mqtt.MQTTv5), Client("p-pub", mqtt.MQTTv5)
    sub.subscribe("props", 1)
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    properties.ResponseTopic, properties.CorrelationData = "answer", b"\x00\xff"
    properties.MessageExpiryInterval, properties.ContentType = 60, "text/plain"
    pub.publish("props", "x", qos=1, properties=properties)
    got = sub.next().properties
    assert got.UserProperty == [("b", "1"), ("a", "2"), ("b", "3")], got
    assert (got.ResponseTopic, got.CorrelationData, got.ContentType) == ("answer", b"\x00\xff", "text/plain")
    assert 0 < got.MessageExpiryInterval <= 60
    sub.close()
    pub.close()


for version in (mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5):
    for tls in (False, True):
        conversation(version, tls)
        print("paho", version, "tls" if tls else "tcp", "good")
properties_of_5()
print("paho good")
