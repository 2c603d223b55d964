#!/usr/bin/python3 -ISE
"""relaunch-local: hands its words to the agent on this server and prints what it answers.

Installed by the agent as /usr/local/bin/relaunch-local. Imports next to nothing: scripts call it often.
"""

import _socket  # the C half of `socket`; loading the other half takes longer than all the rest
import sys
import time

SOCKET = "/run/relaunch/agent.sock"
AGENT_RESTART_SECONDS = 15.0  # an upgrade of the agent in the middle of a script must not fail the script


def ask(words: "list[str]") -> bytes:
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    link.connect(SOCKET)
    link.send("\0".join(words).encode("utf-8", "surrogateescape"))
    link.shutdown(_socket.SHUT_WR)
    pieces: list[bytes] = []
    while True:
        piece = link.recv(65536)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def main() -> int:
    end = time.monotonic() + AGENT_RESTART_SECONDS
    while True:
        trouble = "it ended in the middle of the answer"
        try:
            said = ask(sys.argv[1:])
            if said:
                break
        except PermissionError:
            sys.stderr.write("relaunch-local: only root may ask the agent\n")
            return 6
        except OSError as error:
            trouble = str(error)
        if time.monotonic() > end:
            sys.stderr.write(
                f"relaunch-local: no answer from the agent ({trouble}); see systemctl status relaunch-agent\n"
            )
            return 7
        time.sleep(0.2)
    status, _, texts = said.partition(b"\n")
    out, _, complaint = texts.partition(b"\0")
    sys.stdout.buffer.write(out)
    sys.stdout.flush()
    sys.stderr.buffer.write(complaint)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
