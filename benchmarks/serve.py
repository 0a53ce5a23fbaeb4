"""Load of `carrara serve`: requests a second and latency with several clients, beside the encoder alone.

    python benchmarks/serve.py mert-tiny:random --clients 1 8 --requests 100

Every request uploads a clip of noise of 5 s (WAV, 24 kHz, 16 bit). "Alone" is `carrara.embed` of as many different
files in one call, so batches as large as the encoder likes and no HTTP. Clients and service share the machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import soundfile
import uvicorn

import carrara
from carrara.web.listen import bind_socket, format_url
from carrara.web.service.app import EncodingService, create_service

SECONDS, RATE = 5, 24000


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    encoder = carrara.load(options.encoder)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index in range(options.requests):
            noise_T = 0.1 * np.random.default_rng(index).standard_normal(SECONDS * RATE)
            files.append(Path(folder) / f"{index}.wav")
            soundfile.write(files[-1], noise_T, RATE)
        carrara.embed(files[:4], encoder)
        begin = time.perf_counter()
        carrara.embed(files, encoder)
        alone = len(files) / (time.perf_counter() - begin)
        print(f"load average {os.getloadavg()[0]:.1f}\n")
        print("| | requests a second | median (ms) | p99 (ms) |\n|--|--:|--:|--:|")
        print(f"| alone | {alone:.1f} | | |")
        service = EncodingService(encoder)
        listener = bind_socket("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(create_service(service), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        with httpx.Client(base_url=format_url(listener), timeout=120, trust_env=False) as client:

            def request(path: Path) -> float:
                begin = time.perf_counter()
                client.post("/embed", files={"file": path.read_bytes()}).raise_for_status()
                return time.perf_counter() - begin

            for clients in options.clients:
                begin = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    latency_N = 1000 * np.array(list(pool.map(request, files)))
                rate = len(files) / (time.perf_counter() - begin)
                median, p99 = np.percentile(latency_N, [50, 99])
                print(f"| {clients} clients | {rate:.1f} | {median:.0f} | {p99:.0f} |")
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
