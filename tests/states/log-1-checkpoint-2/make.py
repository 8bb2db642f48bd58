"""Fills a state of an old build: every table and record that format 2 of the checkpoint and format 1 of the log have."""
import os, signal, socket, struct, subprocess, sys, time, shutil
BIN, OUT, PORT = sys.argv[1], sys.argv[2], 28771
os.makedirs(OUT, exist_ok=True)
data = OUT + "/data"
shutil.rmtree(data, ignore_errors=True)
open(OUT + "/acl.toml", "w").write('[[rule]]\npublish = ["#"]\nsubscribe = ["#"]\n')
subprocess.run([BIN, "user", "add", "ann", "--password-file", OUT + "/users"], input=b"secret\nsecret\n", check=False)
conf = f"""[[listener]]
address = "127.0.0.1:{PORT}"
[auth]
password_file = "{OUT}/users"
acl_file = "{OUT}/acl.toml"
[limits]
session_expiry_max_s = 4294967295
[store]
window_bytes = 262144
"""
open(OUT + "/lapwing.toml", "w").write(conf)
def start():
    p = subprocess.Popen([BIN, "-c", OUT + "/lapwing.toml", "--data-dir", data], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", PORT)).close(); return p
        except OSError: time.sleep(0.05)
    sys.exit(p.stderr.read().decode())
def varint(n):
    out = b""
    while True:
        b, n = n & 127, n >> 7
        out += bytes([b | (128 if n else 0)])
        if not n: return out
def text(s):
    s = s.encode() if isinstance(s, str) else s
    return struct.pack(">H", len(s)) + s
class C:
    def __init__(self, id, expiry=0xFFFFFFFF, will=None, rm=None, clean=False):
        self.early = []
        self.s = socket.create_connection(("127.0.0.1", PORT)); self.s.settimeout(5)
        props = b"\x11" + struct.pack(">I", expiry) + (b"\x21" + struct.pack(">H", rm) if rm else b"")
        flags = 0xC0 | (2 if clean else 0) | (will[0] if will else 0)
        body = text("MQTT") + b"\x05" + bytes([flags]) + struct.pack(">H", 0) + varint(len(props)) + props + text(id)
        if will:
            wp = b"\x18" + struct.pack(">I", will[3]) + b"\x26" + text("k") + text("v")
            body += varint(len(wp)) + wp + text(will[1]) + text(will[2])
        body += text("ann") + text("secret")
        self.send(0x10, body); k, b = self.read(); assert k == 0x20 and b[1] == 0, b
        self.session = b[0]
    def send(self, head, body): self.s.sendall(bytes([head]) + varint(len(body)) + body)
    def exact(self, n):
        out = b""
        while len(out) < n:
            more = self.s.recv(n - len(out))
            if not more: raise EOFError
            out += more
        return out
    def read(self):
        k = self.exact(1)[0]; n = sh = 0
        while True:
            b = self.exact(1)[0]; n |= (b & 127) << sh; sh += 7
            if not b & 128: break
        return k, self.exact(n)
    def subscribe(self, f, options, sid=None):
        p = (b"\x0b" + varint(sid)) if sid else b""
        self.send(0x82, b"\0\x09" + varint(len(p)) + p + text(f) + bytes([options]))
        while True:
            k, b = self.read()
            if k == 0x90: assert b[-1] < 3, b; return
            self.early.append((k, b))
    def publish(self, topic, payload, qos=1, retain=0, pid=1, props=b"", wait=True):
        self.send(0x30 | qos << 1 | retain, text(topic) + (struct.pack(">H", pid) if qos else b"") + varint(len(props)) + props + (payload if isinstance(payload, bytes) else payload.encode()))
        if qos and wait:
            k, b = self.read(); assert k in (0x40, 0x50), k
    def bye(self): self.send(0xE0, b""); self.s.close()
def checkpoint(n):
    subprocess.run([BIN, "store", "backup", "--data-dir", data, f"{OUT}/backup{n}"], check=True)
p = start()
# 1. Sessions, subscriptions of every kind, a will that waits, retained messages.
a = C("away"); a.subscribe("q/#", 1, 7); a.subscribe("$share/g/s/+", 2); a.subscribe("own/#", 0x0E); a.bye()
b = C("beside"); b.subscribe("q/+", 2); b.subscribe("q/#", 1, 9); b.bye()
w = C("willed", will=(0x0C | 0x20, "wills/willed", "gone", 4000000000)); w.s.close()
pub = C("publisher")
for n in range(3): pub.publish(f"r/{n}", f"retained {n}", retain=1, pid=n + 1)
pub.publish("r/gone", "x", retain=1); pub.publish("r/gone", "", retain=1)
# 2. A backlog that stays in the log: most of its segment outlives the window.
for n in range(60): pub.publish(f"q/{n}", b"early %d " % n + b"." * 300, pid=n + 1, props=b"\x26" + text("n") + text(str(n)))
pub.publish("s/x", "shared", qos=1)
checkpoint(1)
# 3. Few messages among many that are acknowledged: they move into their rows, or into bodies.
c = C("consumer", clean=True); c.subscribe("busy/#", 1)
for n in range(900):
    pub.publish("busy/t", b"b" * 200, pid=1 + n % 60000)
    k, body = c.read(); pid = body[2 + 6:2 + 6 + 2]; c.send(0x40, pid)
    if n % 300 == 150: pub.publish("q/between", "between %d" % n, pid=60001)
c.bye()
checkpoint(2)
# 4. On their way: PUBACK, PUBREC, PUBCOMP awaited; QoS 2 not released; a retained message.
f = C("flying", rm=20); f.subscribe("f/#", 2)
for n in range(4): pub.publish(f"f/{n}", f"flying {n}", qos=1 if n % 2 else 2, pid=100 + n)
seen = []
while len(seen) < 4:
    k, body = f.read()
    if k >> 4 == 3: seen.append((k >> 1 & 3, body[5:7]))
two = [pid for q, pid in seen if q == 2]
f.send(0x50, two[0]); k, b = f.read(); assert k == 0x62, k
f.publish("f2/unreleased", "unreleased", qos=2, pid=77)
f.subscribe("r/#", 1)
got = 0
while got < 3:
    k, body = f.early.pop() if f.early else f.read()
    if k >> 4 == 3: got += 1
f.s.close()
time.sleep(0.5)
if len(sys.argv) > 3: checkpoint(3)
# 5. Behind the last checkpoint, in the log only.
for n in range(5): pub.publish(f"q/late{n}", f"late {n}", pid=200 + n)
pub.publish("r/late", "retained late", retain=1, pid=300)
pub.publish("r/1", "retained 1 again", retain=1, pid=301)
l = C("last"); l.subscribe("q/#", 1); pub.publish("q/last", "last", pid=302); l.bye()
pub.bye(); time.sleep(0.3)
p.send_signal(signal.SIGKILL); p.wait()
subprocess.run([BIN, "store", "check", "--data-dir", data]) if False else None
