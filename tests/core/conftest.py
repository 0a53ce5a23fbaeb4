"""A server on this machine that misbehaves as it is told."""

import http.server
import socket
import struct
import threading

import pytest


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`; drops each connection after so many bytes of the list `drops`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.released = threading.Event()
        self.fresh(b"")

    def fresh(self, body):
        """Become a server that behaves well, with an ETag and ranges."""
        self.body, self.drops, self.asked, self.status = body, [], [], 200
        self.stated = {"ETag": '"one"'}
        self.ranges, self.heeds_if_range, self.states_in_parts = True, True, True
        self.shift, self.reset, self.stall = 0, False, False
        self.released.clear()

    def url(self, name="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *given):
        pass

    def do_GET(self):
        server, asked, wants = self.server, self.headers.get("Range"), self.headers.get("If-Range")
        server.asked.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        same = not wants or not server.heeds_if_range or wants in server.stated.values()
        begin = int(asked[6:-1]) if asked and server.ranges and same else 0
        size = len(server.body)
        if begin and begin >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.end_headers()
            return
        begin = max(0, begin - server.shift)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        for name, value in server.stated.items() if server.states_in_parts or not begin else ():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size - begin))
        self.end_headers()
        self.give(server.body[begin:])

    def give(self, left):
        server = self.server
        dropping = bool(server.drops)
        self.wfile.write(left[: server.drops.pop(0)] if dropping else left)
        if server.stall:
            server.released.wait(10)
        # Never at the end: a reset throws away what the other side has not read yet.
        if server.reset and dropping:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture(scope="module")
def running():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
