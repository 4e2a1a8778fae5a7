"""A program that decodes compressed DICOM frames, run as a process of its own.

GDCM is native code, and a damaged frame can abort it (measured: 7 of 1200 damaged frames). Then
this process dies, and not the site's. It imports nothing of ours, so that it runs from its file
alone; what the libraries print goes nowhere; it can neither fill the memory nor leave a core dump.

Each line of stdin is {"path": …, "index": …}. Each answer on stdout is a line {"shape": …,
"dtype": …} with the bytes of the array behind it, or the line {}.
"""

import json
import os
import sys
import warnings
from typing import BinaryIO

_MAX_MEMORY_BYTES = 8 << 30


def main() -> None:
    """Answers until stdin ends."""
    with os.fdopen(os.dup(1), "wb") as answers:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        _limit_resources()
        warnings.simplefilter("ignore")
        for line in sys.stdin.buffer:
            request = json.loads(line)
            _answer(answers, request["path"], request["index"])


def _answer(answers: BinaryIO, path: str, index: int) -> None:
    from pydicom.pixels.utils import pixel_array

    try:
        # Of the header, pixel_array reads the tags that describe pixels, and no others.
        pixels = pixel_array(path, index=index)
        header = json.dumps({"shape": pixels.shape, "dtype": pixels.dtype.str})
        content = pixels.tobytes()
    except Exception:  # noqa: BLE001 (the libraries raise anything for a damaged file)
        header, content = "{}", b""
    answers.write(header.encode() + b"\n" + content)
    answers.flush()


def _limit_resources() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The hospital may have set a lower one, for the site process and all that it starts.
    _, hard_bytes = resource.getrlimit(resource.RLIMIT_AS)
    is_lower = hard_bytes != resource.RLIM_INFINITY and hard_bytes < _MAX_MEMORY_BYTES
    limit_bytes = hard_bytes if is_lower else _MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


if __name__ == "__main__":
    main()
