"""An HTTP server on this machine that misbehaves as its attributes say."""

import http.server
import socket
import struct
import threading

import pytest


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`; drops each connection after the number of bytes that `drops` lists."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.released = threading.Event()
        self.reset(b"")

    def reset(self, body):
        """Serve `body` correctly, with an ETag and ranges."""
        self.body, self.drops, self.requested, self.status, self.redirect = body, [], [], 200, ""
        self.version = {"ETag": '"one"'}
        self.has_ranges, self.obeys_if_range, self.has_version_in_parts = True, True, True
        self.shift, self.resets_connection, self.stall = 0, False, False
        self.released.clear()

    def url(self, name="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, requested, version = self.server, self.headers.get("Range"), self.headers.get("If-Range")
        server.requested.append(requested)
        if server.status != 200:
            self.send_error(server.status)
            return
        if server.redirect and self.path == "/file.bin":
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        same = not version or not server.obeys_if_range or version in server.version.values()
        begin = int(requested[6:-1]) if requested and server.has_ranges and same else 0
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
        for name, value in server.version.items() if server.has_version_in_parts or not begin else ():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size - begin))
        self.end_headers()
        self.send_body(server.body[begin:])

    def send_body(self, body):
        server = self.server
        dropping = bool(server.drops)
        self.wfile.write(body[: server.drops.pop(0)] if dropping else body)
        if server.stall:
            server.released.wait(10)
        # Never at the end: a reset discards what the client has not read yet.
        if server.resets_connection and dropping:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture(scope="module")
def running():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
