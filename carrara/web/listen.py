"""Runs an ASGI application on a socket that is bound before anything slow happens, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from typing import Any

from carrara.core.errors import UsageError

SHUTDOWN_SECONDS = 10  # requests in progress have so long to end


def import_web() -> Any:
    """Return uvicorn.

    Raises:
        UsageError: The extra `web` is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError:
        raise UsageError("this needs FastAPI and uvicorn: pip install 'carrara[web]'") from None
    return uvicorn


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 takes any free one.

    Raises:
        UsageError: The port is in use or not allowed, or the host is not an address of this machine.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as problem:
        raise UsageError(f"--host {host}: {problem.strerror or problem}; 127.0.0.1 is this machine") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as problem:
        listener.close()
        if problem.errno == errno.EADDRINUSE:
            reason = "in use by another program; choose another one, or 0 for any free one"
            raise UsageError(f"--port {port}: {reason}") from None
        if problem.errno == errno.EACCES:
            raise UsageError(f"--port {port}: not allowed; choose one above 1023") from None
        raise UsageError(f"--host {host}: {problem.strerror}; 127.0.0.1 is this machine") from None
    return listener


def format_url(listener: socket.socket) -> str:
    """Return the address at which a bound socket answers."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_application(application: Any, listener: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM; requests in progress may end.

    Raises:
        KeyboardInterrupt: a signal requested the end.
    """
    uvicorn = import_web()
    config = uvicorn.Config(
        application,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
    )
    server = uvicorn.Server(config)
    # A second Ctrl-C ends the server at once, of which uvicorn would log the traceback.
    log, is_wanted = logging.getLogger("uvicorn.error"), lambda record: not server.force_exit
    log.addFilter(is_wanted)
    try:
        server.run(sockets=[listener])
    finally:
        log.removeFilter(is_wanted)
        listener.close()
