"""The in-process engine: Flower's grid without Ray, SuperLink or a process per message.

What a message holds makes a round trip through protobuf bytes, so that nothing passes by reference
that would not survive the network; strategy, relay and sites are the real ones.
"""

from collections.abc import Iterable, Mapping

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message.message import make_message
from flwr.common.serde import recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import relay
from client.site import Site
from common.records_bytes import records_to_bytes

# Flower's own code for an exception in a ClientApp.
_CLIENT_APP_RAISED = 2


class InProcessGrid(Grid):
    """A grid whose nodes are sites in this process. Node n is the n-th site by name, from 1.

    Guarantees:
        - What a message and its reply hold shares no memory with what the other side has.
        - A site that raises gives an error reply, as under Flower, and stops no other site.
    """

    def __init__(self, sites: Mapping[str, "Site"]) -> None:
        self._sites = {i: sites[name] for i, name in enumerate(sorted(sites), start=1)}
        self._inbox: dict[str, tuple[Metadata, bytes]] = {}
        self._num_messages = 0
        # Flower's `Message` reads who it is from here; the contract test pins this internal name.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0

    def set_run(self, run: Run) -> None:
        """Not used: the run is this process."""

    @property
    def run(self) -> Run:
        """Not available: there is no Flower run behind this grid."""
        raise NotImplementedError("the in-process grid has no Flower run")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a site."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The ids of all sites."""
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Takes messages as bytes; the sites work when replies are pulled."""
        ids = []
        for message in messages:
            self._num_messages += 1
            message_id = str(self._num_messages)
            message.metadata.__dict__["_message_id"] = message_id
            self._inbox[message_id] = message.metadata, records_to_bytes(message.content)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The reply of the next site, so that whoever waits sees replies one by one."""
        wanted = set(message_ids)
        for message_id in [m for m in self._inbox if m in wanted]:
            reply = self._answer(_delivered(*self._inbox.pop(message_id)))
            if reply.has_error():
                return [reply]
            return [_delivered(reply.metadata, records_to_bytes(reply.content))]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """All replies; the timeout does not apply within one process."""
        ids = list(self.push_messages(messages))
        return [reply for _ in ids for reply in self.pull_messages(ids)]

    def _answer(self, message: Message) -> Message:
        site = self._sites[message.metadata.dst_node_id]
        try:
            return relay(site, message)
        except Exception:  # noqa: BLE001  # as Flower's runtime does, but without the exception's text
            return Message(Error(code=_CLIENT_APP_RAISED, reason=""), reply_to=message)


def _delivered(metadata: Metadata, data: bytes) -> Message:
    """The message as the other side has it: read as Flower reads it, without checks of ours."""
    return make_message(metadata, content=recorddict_from_proto(ProtoRecordDict.FromString(data)))
