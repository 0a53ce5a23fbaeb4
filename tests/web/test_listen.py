"""Web applications end without a traceback."""

import subprocess
import sys

# As Starlette, it reports the traceback when its lifespan is cancelled.
TWO_INTERRUPTS = """
import asyncio, signal
from carrara.web.listen import bind_socket, run_application

def interrupt_twice():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)

async def application(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    asyncio.get_running_loop().call_later(0.1, interrupt_twice)
    try:
        await receive()
    except asyncio.CancelledError:
        await send({"type": "lifespan.shutdown.failed", "message": "Traceback"})
        raise

try:
    run_application(application, bind_socket("127.0.0.1", 0))
except KeyboardInterrupt:
    print("stopped")
"""


def test_a_second_interrupt_gives_no_traceback():
    ended = subprocess.run([sys.executable, "-c", TWO_INTERRUPTS], capture_output=True, text=True, timeout=300)
    assert (ended.stdout, ended.stderr) == ("stopped\n", "")
