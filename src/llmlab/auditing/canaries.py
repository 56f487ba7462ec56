"""Listeners on addresses of this machine: whoever reads their nonce has come through."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

_TICK_S = 0.05
_GREETING_S = 2.0


def own_addresses() -> tuple[str, ...]:
    """IPv4 addresses of this machine by which others could reach it; of a link alone, none."""
    found = (
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET
    )
    return tuple(
        sorted(
            {
                address
                for address in found
                if not ipaddress.ip_address(address).is_loopback
                and not ipaddress.ip_address(address).is_link_local
            }
        )
    )


@contextmanager
def listening(addresses: Sequence[str], nonce: str) -> Iterator[dict[str, int]]:
    """Listen at addresses; yields address → port. Where the system refuses, there is none.

    Args:
        addresses: Addresses of this machine.
        nonce: What everybody who connects is sent.
    """
    stop = threading.Event()
    doors: dict[str, socket.socket] = {}
    for address in addresses:
        door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            door.bind((address, 0))
            door.listen(64)
        except OSError:
            door.close()
        else:
            door.settimeout(_TICK_S)
            doors[address] = door
    threads = [
        threading.Thread(target=_greet, args=(door, nonce, stop), daemon=True) for door in doors.values()
    ]
    for thread in threads:
        thread.start()
    try:
        yield {address: door.getsockname()[1] for address, door in doors.items()}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for door in doors.values():
            door.close()


def heard(address: str, port: int, nonce: str, timeout_s: float = 1.0) -> bool:
    """Whether a nonce can be read there, from this process."""
    with suppress(OSError), socket.create_connection((address, port), timeout_s) as opened:
        opened.settimeout(timeout_s)
        with opened.makefile("rb") as stream:
            return stream.readline(200).strip() == nonce.encode()
    return False


def _greet(door: socket.socket, nonce: str, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(OSError):
            caller, _ = door.accept()
            with caller:
                caller.settimeout(_GREETING_S)
                caller.sendall(f"{nonce}\n".encode())
