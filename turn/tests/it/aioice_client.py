"""aioice's TURN client sends through our relay to an echo, over UDP, TCP and TLS. Prints a line per transport.

Arguments: port, user name, password, certificate.
"""

import asyncio
import ssl
import sys

from aioice.turn import create_turn_endpoint

MESSAGES = 50
PATIENCE_SECONDS = 30


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


class Client(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.Queue()

    def datagram_received(self, data, address):
        self.received.put_nowait((data, address))


async def relay(server, user, password, echo, transport, tls):
    way, client = await create_turn_endpoint(
        Client, server_addr=server, username=user, password=password, transport=transport, ssl=tls
    )
    for number in range(MESSAGES):
        message = f"message {number}".encode() * (1 + number % 7)
        way.sendto(message, echo)
        received = await asyncio.wait_for(client.received.get(), PATIENCE_SECONDS)
        assert received == (message, echo), received
    way.close()
    await asyncio.sleep(0.1)  # the Refresh that ends the allocation leaves


async def main():
    port, user, password, certificate = sys.argv[1:]
    tls = ssl.create_default_context(cafile=certificate)
    tls.check_hostname = False
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    echo = transport.get_extra_info("sockname")
    server = ("127.0.0.1", int(port))
    for name, over, secure in [("udp", "udp", False), ("tcp", "tcp", False), ("tls", "tcp", tls)]:
        await relay(server, user, password, echo, over, secure)
        print("relayed over", name)


asyncio.run(main())
