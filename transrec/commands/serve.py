"""Serve recommendations over HTTP, with a web page for trying them out.

transrec serve --run R [--catalogue SHARDS] [--port 8000]
transrec serve [--run SOURCE] --adapter A [B …] …      one channel per adapter, with one shared base

/recommend, /similar, /items, /picture, /channels, /reload, /healthz and /metrics are described at /docs. POST /reload,
or SIGHUP, reloads the catalogue while the service keeps answering. Set TRANSREC_TOKEN to a secret that requests must
carry; without it, only this machine can reach the service.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import command, positive
from transrec.extras import needed
from transrec.runs.recommender import recommenders
from transrec.serving.settings import TOKEN_VARIABLE, Settings


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    needed("serve", "transrec serve", "fastapi", "fastapi_offline", "uvicorn", "prometheus_client")
    from transrec.serving.server import serve  # imports the libraries of the extra

    token = os.environ.get(TOKEN_VARIABLE)
    settings = Settings(arguments.host, arguments.port, token, most_results=arguments.most)
    channels = recommenders(arguments.run, arguments.adapter, arguments.catalogue)
    serve(channels, settings, lambda address: print(f"answering at {address}; stop with Ctrl-C", flush=True))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    return argument_parser().parse_args(argv)


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="run folder; with --adapter, the base run of the adapters")
    parser.add_argument("--adapter", type=Path, nargs="+", default=[], help="adapted runs, or their export folders")
    parser.add_argument("--catalogue", metavar="DIR|URL", help="shards whose items to recommend (default: the run's)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on: %(default)s, this machine only")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 picks a free one: %(default)s")
    parser.add_argument(
        "--most", type=positive(int), default=100, help="maximum number of results per request: %(default)s"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
