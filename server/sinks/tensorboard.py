"""A run as an event file that TensorBoard shows."""

from pathlib import Path

from common.errors import RunError
from common.files import write_atomically
from server.sinks.points import Told

# TensorBoard takes a file whose name holds this, and shows each folder as a run.
_FILE = "events.out.tfevents.0.wardround"


class TensorBoard:
    """Writes runs below a folder, each into a folder of its own.

    Guarantees:
        - The file is a function of what is told: told twice, it is the same file.
        - What is new is added at the end, where TensorBoard looks for it.

    Raises:
        RunError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from server.sinks.event_file import content_of
        except ModuleNotFoundError:
            raise RunError(
                "Expected TensorBoard, found that it is not installed. Install "
                "wardround[tensorboard], or leave --tensorboard out."
            ) from None
        self._folder = folder
        self._content_of = content_of

    def tell(self, told: Told) -> None:
        """Writes all that is told of a run."""
        path = self._folder / f"{told.study}-{told.run_id}" / _FILE
        content = self._content_of(told)
        before = path.read_bytes() if path.is_file() else b""
        if before and content.startswith(before):
            with path.open("ab") as file:
                file.write(content[len(before) :])
        else:
            write_atomically(path, content, durable=False)

    def keep(self, told: Told, folder: Path) -> None:
        """Nothing: an event file holds no other file."""
