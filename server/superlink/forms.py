"""In which form a node is sent its messages: in one piece, or as Flower's own programs want them.

A stock SuperNode with our relay takes part as our connector does; only the latter understands a
message in one piece (`common/one_piece.py`). What it answers says which of the two it is.
"""

from flwr.app import Message

from common.one_piece import is_small


class Forms:
    """What each node has been sent last, and whether it takes messages in one piece.

    Guarantees:
        - Nobody is sent a message in one piece who has not answered in one.
        - A message that is sent again has the same form again.
        - Who leaves a message in one piece unanswered gets the next one as objects.
    """

    def __init__(self) -> None:
        self._able: set[int] = set()
        # Of the message that each node was sent last and has not answered: its id and form.
        self._sent: dict[int, tuple[str, bool]] = {}

    def is_whole(self, message: Message) -> bool:
        """Whether this message, which has its id, is to be sent in one piece."""
        node_id, message_id = message.metadata.dst_node_id, message.metadata.message_id
        last_id, was_whole = self._sent.get(node_id, ("", False))
        if last_id != message_id:
            if was_whole:
                self._able.discard(node_id)
            was_whole = node_id in self._able and is_small(message.content)
            self._sent[node_id] = (message_id, was_whole)
        return was_whole

    def answered(self, message: Message, *, is_whole: bool) -> None:
        """Says that a message has got its reply, and in which form."""
        node_id = message.metadata.dst_node_id
        self._sent.pop(node_id, None)
        if is_whole:
            self._able.add(node_id)
