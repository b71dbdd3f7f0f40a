"""Causeway's signaling in front of Janus' VideoRoom, so that `causeway load` drives both with the same packets.

A member's WebSocket (docs/protocol.md, as far as the load speaks it) becomes a session and a handle of Janus' HTTP API; what
goes one way as ICE and DTLS parameters goes the other as SDP (RFC 9429). No media passes here. `sfu-vs-janus` starts it.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import re
import secrets
import socketserver
import struct
import threading

PASSWORD = "the-load-answers-every-check"
PUBLISHER, SUBSCRIBER = "publisher", "subscriber"
# What `src/load/source.rs` sends.
MEDIA = {"audio": ("111", "opus/48000/2", 0x2000), "video": ("96", "VP8/90000", 0x1000)}
# A client's certificate is known with `connect-transport`, Janus wants one with the offer; the second offer has the true one.
UNKNOWN = ":".join(["00"] * 32)


class Janus:
    """One session with one handle of the VideoRoom."""

    def __init__(self, address):
        self.address, self.path = address, "/janus"
        self.session = self.path = f"/janus/{self.ask({'janus': 'create'})['data']['id']}"
        handle = self.ask({"janus": "attach", "plugin": "janus.plugin.videoroom"})["data"]["id"]
        self.path = f"{self.session}/{handle}"

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body and json.dumps(body))
            return json.loads(connection.getresponse().read())

    def ask(self, request):
        self.transaction = secrets.token_hex(6)
        answer = self.call("POST", self.path, {**request, "transaction": self.transaction})
        if answer["janus"] == "error":
            raise RuntimeError(answer["error"]["reason"])
        return answer

    def room(self, body, jsep=None):
        """Asks the plugin; its answer, and the SDP with it."""
        answer = self.ask({"janus": "message", "body": body} | ({"jsep": jsep} if jsep else {}))
        while answer["janus"] == "ack" or answer.get("transaction") != self.transaction:
            answer = self.call("GET", self.session)
        data = answer["plugindata"]["data"]
        if "error" in data:
            raise RuntimeError(data["error"])
        return data, answer.get("jsep", {}).get("sdp", "")

    def close(self):
        self.path = self.session
        with contextlib.suppress(OSError, http.client.HTTPException):  # it may have ended before
            self.ask({"janus": "destroy"})


class Rooms:
    """Janus' numbers for the load's rooms, and who publishes in each."""

    def __init__(self, janus):
        self.janus, self.lock, self.numbers, self.feeds = janus, threading.Lock(), {}, {}

    def number(self, name):
        with self.lock:
            if name not in self.numbers:
                number = self.numbers[name] = len(self.numbers) + 1
                self.feeds[number] = []
                handle = Janus(self.janus)
                handle.room({"request": "create", "room": number, "publishers": 1000, "bitrate": 0, "fir_freq": 0,
                             "audiocodec": "opus", "videocodec": "vp8", "audiolevel_ext": False, "transport_wide_cc_ext": False})
            return self.numbers[name]


def sdp(fingerprint, sections):
    lines = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=load", "t=0 0",
             "a=group:BUNDLE " + " ".join(mid for mid, _ in sections)]
    for mid, section in sections:
        lines += [section[0], "c=IN IP4 0.0.0.0", f"a=mid:{mid}", "a=rtcp-mux", "a=ice-ufrag:load", f"a=ice-pwd:{PASSWORD}",
                  f"a=fingerprint:sha-256 {fingerprint}", "a=setup:active", *section[1:]]
    return "\r\n".join(lines) + "\r\n"


def offer(kinds, fingerprint):
    """Of a publisher."""
    sections = []
    for mid, kind in enumerate(kinds):
        payload_type, codec, ssrc = MEDIA[kind]
        feedback = [f"a=rtcp-fb:{payload_type} nack pli"] if kind == "video" else []
        sections.append((str(mid), [f"m={kind} 9 UDP/TLS/RTP/SAVPF {payload_type}", "a=sendonly",
                                    f"a=rtpmap:{payload_type} {codec}", *feedback, f"a=ssrc:{ssrc} cname:load"]))
    return {"type": "offer", "sdp": sdp(fingerprint, sections)}


def answer(theirs, fingerprint):
    """Of a subscriber, who takes all that is offered."""
    sections = []
    for section in re.split(r"(?m)^(?=m=)", theirs.replace("\r", ""))[1:]:
        first, *lines = section.splitlines()
        mid = next(line[6:] for line in lines if line.startswith("a=mid:"))
        kept = [line for line in lines if line.startswith(("a=rtpmap:", "a=fmtp:"))]
        sections.append((mid, [first, "a=recvonly", *kept]))
    return {"type": "answer", "sdp": sdp(fingerprint, sections)}


def transport(theirs):
    """Parameters as `create-transport` answers them."""
    value = lambda name: re.search(rf"a={name}:(\S+)", theirs).group(1)
    candidates = re.findall(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host", theirs, re.IGNORECASE)
    fingerprint = re.search(r"a=fingerprint:sha-256 (\S+)", theirs, re.IGNORECASE).group(1)
    ice = {"usernameFragment": value("ice-ufrag"), "password": value("ice-pwd"), "iceLite": True}
    return {"id": "transport", "iceParameters": ice,
            "iceCandidates": [{"ip": ip, "port": int(port), "protocol": "udp"} for ip, port in candidates],
            "dtlsParameters": {"role": "auto", "fingerprints": [{"algorithm": "sha-256", "value": fingerprint}]}}


class Member:
    """What one WebSocket asks for."""

    def __init__(self, rooms, kinds):
        self.rooms, self.kinds, self.handle, self.role = rooms, kinds, Janus(rooms.janus), None

    def reply(self, request):
        return getattr(self, request["type"].replace("-", "_"))(request) or {}

    def join_room(self, request):
        self.room = self.rooms.number(request["roomId"])
        producers = [{"producerId": str(feed)} for feed in self.rooms.feeds[self.room]]
        return {"rtpCapabilities": {"codecs": [], "headerExtensions": []}, "producers": producers}

    def create_transport(self, request):
        self.role = PUBLISHER if request["direction"] == "send" else SUBSCRIBER
        if self.role == PUBLISHER:
            joined, _ = self.handle.room({"request": "join", "ptype": PUBLISHER, "room": self.room})
            self.feed = joined["id"]
            _, theirs = self.handle.room({"request": "configure"}, offer(self.kinds, UNKNOWN))
        else:
            streams = [{"feed": feed} for feed in self.rooms.feeds[self.room]]
            join = {"request": "join", "ptype": SUBSCRIBER, "room": self.room, "streams": streams}
            _, self.offered = self.handle.room(join)
            theirs = self.offered
        return transport(theirs)

    def connect_transport(self, request):
        fingerprint = request["dtlsParameters"]["fingerprints"][0]["value"]
        if self.role == PUBLISHER:
            self.handle.room({"request": "configure"}, offer(self.kinds, fingerprint))
            self.rooms.feeds[self.room].append(self.feed)
        else:
            self.handle.room({"request": "start"}, answer(self.offered, fingerprint))

    def produce(self, _):
        return {"id": "producer"}

    def consume(self, _):
        return {"id": "consumer"}

    def resume_consumer(self, _):
        return {}


class Connection(socketserver.StreamRequestHandler):
    """One HTTP connection: a token, or a WebSocket (RFC 6455)."""

    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline()
        if head.startswith(b"POST /dev/token"):
            self.wfile.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"token": "anybody"}')
            return
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", head).group(1)
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        self.send({"type": "connected"})
        member = Member(self.server.rooms, self.server.kinds)
        while request := self.receive():
            try:
                self.send({"requestId": request["requestId"], "ok": True, "data": member.reply(request)})
            except RuntimeError as error:
                self.send({"requestId": request["requestId"], "ok": False, "code": "janus", "error": str(error)})
        member.handle.close()

    def send(self, message):
        text = json.dumps(message).encode()
        length = bytes([len(text)]) if len(text) < 126 else b"\x7e" + struct.pack("!H", len(text))
        self.wfile.write(b"\x81" + length + text)

    def receive(self):
        """The next message; None with the end. The load sends no fragments and nothing above 64 kB."""
        first = self.rfile.read(2)
        if len(first) < 2 or first[0] & 0x0F != 1:
            return None
        length = first[1] & 0x7F
        if length == 126:
            length, = struct.unpack("!H", self.rfile.read(2))
        mask = self.rfile.read(4)
        text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(length)))
        return json.loads(text)


class Dialect(socketserver.ThreadingTCPServer):
    """Listens at a free port of loopback, for members who send these kinds of media."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, janus, kinds):
        super().__init__(("127.0.0.1", 0), Connection)
        self.rooms, self.kinds = Rooms(janus), kinds
        threading.Thread(target=self.serve_forever, daemon=True).start()
