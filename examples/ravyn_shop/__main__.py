"""`python -m examples.ravyn_shop`: serve the shop on this machine until Ctrl-C."""

import argparse
import socket

import uvicorn

from examples.ravyn_shop.app import create_app

HOST = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """A socket on `port`, or on the first free one of the 50 after it, or else on any."""
    for candidate in (*range(port, min(port + 50, 65536)), 0):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, candidate))
            sock.listen(128)
        except OSError:
            sock.close()
        else:
            return sock
    raise SystemExit(f"No free port on {HOST}.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.ravyn_shop", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="the first port to try (default: 8000)")
    options = parser.parse_args()

    config = uvicorn.Config(create_app(), log_level="warning", lifespan="on", timeout_graceful_shutdown=3)
    with listen(options.port) as sock:
        address = f"http://{HOST}:{sock.getsockname()[1]}"
        print(f"Roomkey Hotel shop: {address}  (log in as guest / key; Ctrl-C stops it)", flush=True)
        try:
            uvicorn.Server(config).run(sockets=[sock])
        except KeyboardInterrupt:
            print("Closed for the night.")


if __name__ == "__main__":
    main()
