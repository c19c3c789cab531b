"""A proxy between processes and an object store that loses, delays and refuses, by a seed.

What it lets through it passes on as it came; so signatures stay valid. Each request gets a connection
of its own to the store.
"""

import collections
import http.client
import random
import socket
import struct
import threading
import time

from serving import Handler, Listener, Served

# What may happen to a request, and how often of a thousand. Chosen: a statement of a few requests
# meets a fault every other time, and the clients still get somewhere.
FAULTS = {
    "cut-before": 8,
    "cut-after": 8,
    "error-500": 8,
    "error-500-after": 6,
    "error-503": 8,
    "conflict-409": 12,
    "late": 6,
    "short": 6,
    "delay": 20,
}

# Those that only some requests can meet.
ONLY = {
    "conflict-409": lambda method, headers: method == "PUT" and "If-None-Match" in headers,
    "late": lambda method, headers: method == "PUT",
    "short": lambda method, headers: method == "GET",
}

ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>made by a test</Message></Error>"

# Headers that belong to one connection, not to the message.
OF_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultProxy(Served):
    """Listens on a port of its own from the beginning, and makes faults while it is `cruel`."""

    def __init__(self, upstream, seed):
        self.upstream = upstream
        self.cruel = False
        self.counts = collections.Counter()
        self.chance = random.Random(seed)
        self.lock = threading.Lock()
        self.listen(_Handler, _Listener)

    def fault(self, method, headers):
        """The fault that this request meets, or None; and how long things take, in seconds."""
        with self.lock:
            self.counts["requests"] += 1
            point, pause = self.chance.uniform(0, 1000), self.chance.uniform(0.05, 1.5)
            if not self.cruel:
                return None, 0
            for name, share in FAULTS.items():
                point -= share
                if point < 0:
                    if not ONLY.get(name, lambda *_: True)(method, headers):
                        return None, 0
                    self.counts[name] += 1
                    return name, pause
            return None, 0


class _Listener(Listener):
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """A client that was killed leaves broken connections; that is no news."""


class _Handler(Handler):
    def serve_one(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            # Whoever sent it is gone; the store would wait for the rest of it.
            return self.cut()
        fault, pause = self.owner.fault(self.command, self.headers)
        match fault:
            case "cut-before":
                return self.cut()
            case "error-500":
                return self.refuse(500, b"InternalError")
            case "error-503":
                return self.refuse(503, b"SlowDown")
            case "conflict-409":
                return self.refuse(409, b"ConditionalRequestConflict")
            case "late":
                self.cut()
                time.sleep(pause)
                self.forward(body)
                return None
            case "delay":
                time.sleep(pause)
        try:
            status, headers, content = self.forward(body)
        except (OSError, http.client.HTTPException):
            return self.cut()
        if fault == "cut-after":
            return self.cut()
        if fault == "error-500-after":
            return self.refuse(500, b"InternalError")
        return self.answer(status, headers, content, short=fault == "short" and len(content) > 1)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve_one

    def forward(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.owner.upstream, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def answer(self, status, headers, content, short=False):
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if self.command == "HEAD" and name.lower() == "content-length":
                length = value
            elif name.lower() not in OF_CONNECTION:
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if short else content)
        if short:
            self.cut()

    def refuse(self, status, code):
        self.answer(status, [("Content-Type", "application/xml")], ERROR % code)

    def cut(self):
        """Ends the connection at once, without the farewell of TCP."""
        self.wfile.flush()
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        # The descriptor of the two files over it is closed with the last of the three.
        self.connection.shutdown(socket.SHUT_RDWR)
