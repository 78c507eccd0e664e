"""A decoder process: pictures in on stdin, pixels out on stdout. Started by ``images.pool``.

It imports only the standard library, numpy and Pillow, keeps no secrets (its environment is an
allow-list) and ends with its parent: by end of file, and by a signal from the kernel.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends; leave if it has already."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def main(arguments: list[str]) -> int:
    """Answer requests until the stream ends.

    Args:
        arguments: preset, process id of the parent, and ``hashed`` for perceptual hashes too.
    """
    die_with(int(arguments[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    from PIL import AvifImagePlugin

    from sscd_ops.images import frames
    from sscd_ops.images.preprocess import PRESETS, prepare

    # there is a decoder a core already; it would take a thread for each core of the host
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1

    preset, hashed = PRESETS[arguments[0]], arguments[2:] == ["hashed"]
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while (images := frames.read_request(stdin.read)) is not None:
        for image in images:
            stdout.write(frames.answer(*prepare(image, preset, hashed=hashed)))
            stdout.flush()  # the parent measures what each picture takes
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
