"""The network side of the connector: Flower's Fleet API, over one bounded HTTP connection.

Flower's `http_request_response` is not used: it ends its own process by a signal when the server
says 401, exits when the first call fails, retries without end where nobody can watch it, and reads
answers of any size. What lies below it (`FleetHttpClient`, the objects' form) is Flower's own.
Nothing here fetches or runs a bundle: the Fleet API hands out messages without it.
"""

import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    PushMessagesResponse,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient

from client.node_auth import NodeAuth
from client.node_faults import NotRecognised, Rejected, Unreachable, meaning_of
from client.node_http import Bounded
from client.node_objects import MAX_CONTENT_BYTES, Outgoing, Pulled
from common.errors import MessageError
from common.one_piece import ASKED, is_small, tree_of

# The least that a SuperLink takes. It counts a node as gone after twice this time without one.
HEARTBEAT_INTERVAL_S = 10.0
_IO_TIMEOUT_S = 15.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0
_OBJECTS_TIMEOUT_S = 120.0


R = TypeVar("R")


class Fleet:
    """One node's calls to a SuperLink. Every one ends within a bounded time, or raises.

    Guarantees:
        - Nothing larger than the limit is read into memory, however it is packed or repeated.
        - An object is taken only under the digest of its bytes.
        - No bundle is asked for.

    Raises (each method): `Unreachable`, `NotRecognised` or `Rejected`.
    """

    def __init__(
        self,
        *,
        superlink: str,
        tls: ssl.SSLContext | None,
        key: ec.EllipticCurvePrivateKey,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        verify: ssl.SSLContext | bool = False if tls is None else tls
        # A proxy of the environment is for the world outside; plain HTTP goes to loopback alone.
        http = httpx.Client(verify=verify, follow_redirects=False, trust_env=tls is not None)
        self._bounded = Bounded(http)
        self._client = FleetHttpClient(
            f"{'http' if tls is None else 'https'}://{superlink}",
            interceptors=[NodeAuth(key), self._bounded],
            verify=verify,
            timeout=_IO_TIMEOUT_S,
        )
        self._http = http
        self._public_key = public_key_to_bytes(key.public_key())
        self._on_progress = on_progress
        self._node = Node()

    @property
    def node_id(self) -> int:
        """The SuperLink's number for this node; 0 before it has joined."""
        return int(self._node.node_id)

    def close(self) -> None:
        """Closes every connection."""
        self._client.close()
        self._http.close()

    def join(self, known_as: int | None) -> None:
        """Makes this node one that messages can be sent to.

        Args:
            known_as: its number in an earlier life. A heartbeat under it goes on where that ended;
                to activate it would be refused until the SuperLink has missed it long enough.
        """
        if known_as is not None:
            self._node = Node(node_id=known_as)
            try:
                self.beat()
            except (NotRecognised, Rejected):
                self._node = Node()
            else:
                return
        try:
            self._activate()
        except Rejected:
            # Unknown, or online elsewhere: the answer is the same. A SuperLink with node
            # authentication has a list, and registers nobody by himself.
            self._call(
                self._client.RegisterNode, RegisterNodeFleetRequest(public_key=self._public_key)
            )
            self._activate()

    def leave(self, *, for_good: bool) -> None:
        """Says goodbye; `for_good` for a key that nobody will use again."""
        node_id = self.node_id
        self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=node_id))
        if for_good:
            self._call(self._client.UnregisterNode, UnregisterNodeFleetRequest(node_id=node_id))

    def beat(self) -> None:
        """Tells the SuperLink that this node lives."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S)
        if not self._call(self._client.SendNodeHeartbeat, request, progress=False).success:
            raise NotRecognised("the SuperLink does not know this node")

    def pull(self) -> Pulled | None:
        """The next message for this node, which nobody else will get; None if there is none.

        Raises `MessageError` for one that is not to be answered: malformed, or for another node.
        """
        response = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        found = Pulled.from_response(response)
        if found is not None and found.message.metadata.dst_node_id != self.node_id:
            raise MessageError("Expected a message for this node, found one for another.")
        return found

    def fetch(self, pulled: Pulled, *, stop: threading.Event) -> RecordDict:
        """The content of a message. Raises `MessageError` where it cannot be had, or be used."""
        if pulled.is_whole:
            return pulled.own_content()
        return pulled.content(self._objects(pulled, stop))

    def push(self, outgoing: Outgoing) -> None:
        """Sends a reply. Repeated with the same one, it sends what is still missing.

        The coordinator may have taken the reply before all of it was here, and waits for the rest:
        then the SuperLink takes that under the session of before, and under no other.
        """
        reply = outgoing.reply
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            if _is_sent_whole(reply):
                self._announce(outgoing, reply, tree_of(reply))
                return
            objects = get_all_nested_objects(reply)
            if outgoing.session_id and self._upload(outgoing, objects):
                return
            bare = remove_content_from_message(reply) if reply.has_content() else reply
            response = self._announce(outgoing, bare, get_object_tree(reply))
            outgoing.session_id = response.session_id
            outgoing.missing = set(response.objects_to_push) & set(objects)
            if not self._upload(outgoing, objects):  # a new push opens another session
                raise Unreachable("the SuperLink has closed the session of a reply")

    def _announce(
        self, outgoing: Outgoing, reply: Message, tree: ObjectTree
    ) -> PushMessagesResponse:
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[message_to_proto(reply)],
            message_object_trees=[tree],
            clientapp_runtime_list=[outgoing.seconds],
        )
        return self._call(self._client.PushMessages, request)

    def _upload(self, outgoing: Outgoing, objects: dict[str, InflatableObject]) -> bool:
        """Sends what is missing; whether the session took all of it.

        It does not take twice what arrived while the answer to that was lost: so the others are
        tried all the same.
        """
        are_all_taken = True
        for object_id in sorted(outgoing.missing):
            request = PushObjectRequest(
                node=self._node,
                run_id=outgoing.reply.metadata.run_id,
                object_id=object_id,
                object_content=objects[object_id].deflate(),
                session_id=outgoing.session_id,
            )
            are_all_taken &= self._call(self._client.PushObject, request).stored
            outgoing.missing.remove(object_id)
        return are_all_taken

    def confirm(self, pulled: Pulled) -> None:
        """Lets the SuperLink forget a message: after its reply, so that it can be had again."""
        if pulled.is_whole:
            return  # there is nothing that it keeps
        request = ConfirmMessageReceivedRequest(
            node=self._node,
            run_id=pulled.message.metadata.run_id,
            message_object_id=pulled.tree.object_id,
        )
        self._call(self._client.ConfirmMessageReceived, request)

    def _activate(self) -> None:
        request = ActivateNodeRequest(
            public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S
        )
        self._node = Node(node_id=self._call(self._client.ActivateNode, request).node_id)

    def _objects(self, pulled: Pulled, stop: threading.Event) -> dict[str, bytes]:
        """The objects of a message, each checked against its digest."""
        contents: dict[str, bytes] = {}
        left = MAX_CONTENT_BYTES
        deadline = time.monotonic() + _OBJECTS_TIMEOUT_S
        for object_id in pulled.object_ids():
            pause_s = _FIRST_PAUSE_S
            request = PullObjectRequest(
                node=self._node, run_id=pulled.message.metadata.run_id, object_id=object_id
            )
            # The coordinator sends a message first and its objects afterwards.
            while not (response := self._call(self._client.PullObject, request)).object_available:
                if not response.object_found or time.monotonic() > deadline or stop.wait(pause_s):
                    raise MessageError("Expected all objects of a message, found one missing.")
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            content = bytes(response.object_content)
            left -= len(content)
            if left < 0 or get_object_id(content) != object_id:
                raise MessageError("Expected objects as announced, found others, or too many.")
            contents[object_id] = content
        return contents

    def _call(self, method: Callable[[Any], R], request: object, *, progress: bool = True) -> R:
        if progress:
            self._on_progress()
        try:
            return method(request)
        except httpx.HTTPStatusError as fault:
            raise meaning_of(fault.response, server_date=self._bounded.server_date) from None
        except (httpx.HTTPError, ValueError, RuntimeError) as fault:  # the last: closed meanwhile
            is_certificate = "certificate" in str(fault).lower()
            hint = " (its certificate is not accepted)" if is_certificate else ""
            raise Unreachable(
                f"{type(fault).__name__}{hint}",
                may_have_arrived=not isinstance(fault, httpx.ConnectError | httpx.ConnectTimeout),
            ) from None


def _is_sent_whole(reply: Message) -> bool:
    """Whether the coordinator has asked for replies in one piece, and this one can be such."""
    is_asked = reply.metadata.group_id == ASKED
    return is_asked and reply.has_content() and is_small(reply.content)
