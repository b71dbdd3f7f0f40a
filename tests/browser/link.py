#!/usr/bin/env python3
"""A bad link between two network namespaces, for tests.

    tests/browser/link.py            as root; needs /dev/net/tun
    tests/browser/link.py --self-test

Makes a network namespace that can reach the one it was started in over two TUN devices and nothing else, and carries the
packets between them: delayed, lost, out of order, through a queue that drains at a rate. The kernel's own netem is a
module that many machines do not have.

Prints one line of JSON: "pid", a process in the namespace (`nsenter --net=/proc/PID/ns/net`), and the addresses "near"
(here) and "far" (there). Each line of its input is an object that replaces what is set: "down" (towards the namespace)
and "up", each with

    kbps      through a queue of queue_ms, what finds it full is lost; 0 is no limit
    queue_ms  300 unless told
    loss      share lost, 0 to 1
    burst     chance per packet that the next BURST_PACKETS are lost
    jitter_ms up to so much later, each packet by itself: they overtake each other
    reorder   share that comes OVERTAKEN_MS late
    delay_ms  later, all of them

Whatever is given "seed" decides its dice. At the end of its input it ends, and with it devices and namespace.
"""
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time

BURST_PACKETS = 5
OVERTAKEN_MS = 60
MTU = 1500

# linux/if_tun.h, linux/sockios.h, linux/if.h, linux/sched.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, SIOCSIFTXQLEN = 0x8916, 0x891C, 0x8914, 0x8943
IFF_UP, IFF_RUNNING = 0x1, 0x40
CLONE_NEWNET = 0x40000000


class Direction:
    """What becomes of packets one way. Knows neither clock nor socket: times are seconds that it is told."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.free_at = 0.0
        self.burst_left = 0
        self.set({})

    def set(self, weather):
        known = {"kbps": 0, "queue_ms": 300, "loss": 0, "burst": 0, "jitter_ms": 0, "reorder": 0, "delay_ms": 0}
        unknown = set(weather) - set(known)
        if unknown:
            raise ValueError(f"no such weather: {', '.join(sorted(unknown))}")
        self.weather = {**known, **weather}

    def offer(self, now, size):
        """When a packet of so many bytes arrives; None when it never does."""
        weather = self.weather
        if self.burst_left > 0:
            self.burst_left -= 1
            return None
        if self.dice.random() < weather["burst"]:
            self.burst_left = BURST_PACKETS - 1
            return None
        if self.dice.random() < weather["loss"]:
            return None
        at = now
        if weather["kbps"]:
            begins = max(self.free_at, now)
            if (begins - now) * 1000 > weather["queue_ms"]:
                return None
            at = self.free_at = begins + size * 8 / (weather["kbps"] * 1000)
        at += weather["delay_ms"] / 1000
        at += self.dice.random() * weather["jitter_ms"] / 1000
        if self.dice.random() < weather["reorder"]:
            at += OVERTAKEN_MS / 1000
        return at


def self_test():
    """Raises AssertionError."""
    clean = Direction(1)
    assert [clean.offer(at, 1000) for at in (0, 1, 1)] == [0, 1, 1]
    thin = Direction(1)
    thin.set({"kbps": 800, "queue_ms": 100})
    arrivals = [thin.offer(0, 1000) for _ in range(100)]
    passed = [at for at in arrivals if at is not None]
    assert len(passed) == 11 and abs(passed[-1] - 0.11) < 1e-9, "100 ms of queue at 10 ms a packet, and the one that filled it"
    assert thin.offer(10, 1000) == 10.01, "the queue has drained"
    lossy = Direction(1)
    lossy.set({"loss": 0.05})
    lost = sum(lossy.offer(0, 100) is None for _ in range(20000)) / 20000
    assert 0.045 < lost < 0.055, lost
    bursty = Direction(1)
    bursty.set({"burst": 0.01})
    fates = "".join("x" if bursty.offer(0, 100) is None else "." for _ in range(20000))
    runs = [len(run) for run in fates.split(".") if run]
    assert runs and all(run % BURST_PACKETS == 0 for run in runs), "bursts are whole, perhaps one behind the other"
    jittery = Direction(1)
    jittery.set({"jitter_ms": 100, "reorder": 0.5})
    late = [jittery.offer(0, 100) for _ in range(1000)]
    assert 0 <= min(late) < 0.01 and 0.14 < max(late) <= 0.16
    assert late == [again.offer(0, 100) for again in [Direction(1)] for _ in [again.set(jittery.weather)] for _ in range(1000)], "one seed, one link"
    try:
        jittery.set({"rain": 1})
    except ValueError:
        pass
    else:
        raise AssertionError("rain is no weather of links")


def tun(name, address):
    """A TUN device with this address in a network of four, up."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    configure(name, address, "255.255.255.252")
    return device


def configure(name, address, netmask):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        def request(code, payload):
            fcntl.ioctl(control, code, struct.pack("16s", name.encode()) + payload.ljust(24, b"\0"))
        def internet(text):
            return struct.pack("H2x4s", socket.AF_INET, socket.inet_aton(text))
        request(SIOCSIFADDR, internet(address))
        request(SIOCSIFNETMASK, internet(netmask))
        if name != "lo":
            request(SIOCSIFTXQLEN, struct.pack("i", 5000))
        request(SIOCSIFFLAGS, struct.pack("h", IFF_UP | IFF_RUNNING))


def in_new_namespace(address):
    """Forks a child into a network namespace of its own; its id and the TUN device that it has made there."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            configure("lo", "127.0.0.1", "255.0.0.0")
            socket.send_fds(theirs, [b"device"], [tun("far", address)])
            theirs.recv(1)  # until the parent has ended
        finally:
            os._exit(0)
    theirs.close()
    _, devices, _, _ = socket.recv_fds(ours, 16, 1)
    if not devices:
        raise SystemExit("the namespace could not be made")
    return child, devices[0], ours


def carry(near, far, directions):
    """Until the end of the input."""
    waiting, number, line = [], 0, b""
    os.set_blocking(0, False)
    ways = {near: ("down", far), far: ("up", near)}
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, to, packet = heapq.heappop(waiting)
            try:
                os.write(to, packet)
            except OSError:
                pass  # a device whose queue is full loses it, as any would
        pause = max(0, waiting[0][0] - now) if waiting else None
        readable, _, _ = select.select([0, near, far], [], [], pause)
        for source in readable:
            if source == 0:
                text = os.read(0, 65536)
                if not text:
                    return
                *lines, line = (line + text).split(b"\n")
                for one in filter(None, lines):
                    change(json.loads(one), directions)
                continue
            name, to = ways[source]
            for _ in range(64):
                try:
                    packet = os.read(source, MTU + 64)
                except BlockingIOError:
                    break
                now = time.monotonic()
                at = directions[name].offer(now, len(packet))
                if at is not None:
                    number += 1
                    heapq.heappush(waiting, (at, number, to, packet))


def change(order, directions):
    for name, weather in order.items():
        directions[name].set(weather)
    print(json.dumps({"set": sorted(order)}), flush=True)


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    seed = int(os.environ.get("LINK_SEED", "1"))
    # A network that is hardly anybody's (RFC 2544's, for benchmarks), and another one for each process.
    third, fourth = divmod((os.getpid() % 8192) * 4, 256)
    address = lambda last: f"198.19.{third % 256}.{fourth + last}"
    near = tun(f"near{os.getpid() % 100000}", address(1))
    child, far, life = in_new_namespace(address(2))
    try:
        print(json.dumps({"pid": child, "near": address(1), "far": address(2)}), flush=True)
        carry(near, far, {"down": Direction(seed), "up": Direction(seed + 1)})
    finally:
        life.close()
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
