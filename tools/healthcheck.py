"""`python healthcheck.py URL` exits 0 when the URL answers well, and 1 with a reason otherwise.

For container health checks: standard library only, so that it starts fast, and no shell.
"""

import http.client
import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 3.0


def main(url: str) -> int:
    """Ask once; returns the exit status."""
    # A proxy in the environment is for the way to the model hub, not for this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT_S):
            return 0
    except urllib.error.HTTPError as error:
        # The body says why.
        print(error.code, error.read(2000).decode(errors="replace"), file=sys.stderr)
    except (OSError, http.client.HTTPException) as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
