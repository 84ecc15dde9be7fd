"""Ports of the tests' servers."""

import random
import socket

# Below those that Linux gives to outgoing connections: one of these could take the port of a
# server that a test has stopped and wants to start again.
_PORTS = range(20000, 32000)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
