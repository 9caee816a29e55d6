"""A site's reply as Flower holds it: whose it is, whether it is whole, whether it can be read.

Beside `flower_link` the only module of this side that touches Flower's internals. Flower checks
that a request's key is that of the request's node; it does not check whose messages the request
carries, nor that what is announced can be put together. An admitted site that is malicious
could answer in another's name, or end the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

from fastapi import HTTPException, Request
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PushObjectRequest
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkState
from flwr.supercore.inflatable.inflatable_object import get_object_children_ids_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, validate_object_content
from flwr.superlink.dependencies.linkstate import get_linkstate

from stic_server.reply_store import ReplyStore, shape_of

LOG = logging.getLogger(__name__)


def for_one_site(replies: ReplyStore) -> Callable[[Request], LinkState]:
    """What Flower's endpoints take for its link state: it lets a site speak for itself alone.

    Args:
        replies: keeps what the sites send.
    """

    def state_for(request: Request) -> LinkState:
        state = get_linkstate(request)
        assert isinstance(state, InMemoryLinkState)  # the server has no other
        content = request.state.protobuf_request
        if isinstance(content, PushMessagesRequest):
            _check_own_reply(content)
        elif isinstance(content, ConfirmMessageReceivedRequest):
            _check_own_question(state, content)
        elif isinstance(content, PullMessagesRequest):
            give_again(state, content.node.node_id)
        elif not isinstance(content, PushObjectRequest):
            return state
        return cast("LinkState", _OneSite(state, replies, node=content.node.node_id))

    return state_for


class _OneSite:
    """Flower's link state, in which what one site sends goes into a store of ours."""

    def __init__(self, state: InMemoryLinkState, replies: ReplyStore, *, node: int) -> None:
        self._state, self._replies, self._node = state, replies, node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def start_session(self, run_id: int) -> str:
        """Flower would remember one for each request."""
        return f"run-{run_id}"

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """A reply is announced; Flower looks whether its question is the site's and is still open."""
        del session_id
        shape = shape_of(object_tree)
        if shape is None:
            raise HTTPException(400)
        with self._state.lock:
            if self._state.store_message_res(message) is None:
                return False, []
            missing = self._replies.announce(self._node, object_tree.object_id, shape)
        if missing is None:
            raise HTTPException(400)
        return True, missing

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """One part of a reply."""
        del run_id, session_id
        try:
            validate_object_content(object_content)
            children = get_object_children_ids_from_object_content(object_content)
        except Exception:  # whatever a site can make of an object
            LOG.info("an object cannot be read", exc_info=True)
            children = ["none that could be announced"]
        return self._replies.put(self._node, object_id, object_content, children=children)


def give_again(state: InMemoryLinkState, node_id: int) -> None:
    """Let a site have a question again that it was given and did not confirm.

    Flower gives each question once: an answer that is lost on a line that was cut takes the
    question with it. A site asks for the next question only when it has none, and on confirming
    one its objects are deleted.
    """
    with state.lock:
        for message_id, message in state.message_ins_store.items():
            metadata = message.metadata
            if metadata.dst_node_id == node_id and metadata.delivered_at and message_id in state.object_store:
                metadata.delivered_at = ""


def _check_own_reply(content: PushMessagesRequest) -> None:
    """Refuse another's reply, several, and none."""
    if len(content.messages_list) == len(content.message_object_trees) == 1:
        metadata, tree = content.messages_list[0].metadata, content.message_object_trees[0]
        if (metadata.src_node_id, metadata.message_id) == (content.node.node_id, tree.object_id):
            return
    raise HTTPException(400)


def _check_own_question(state: InMemoryLinkState, content: ConfirmMessageReceivedRequest) -> None:
    """Refuse to drop the parts of a question to another site."""
    with state.lock:
        question = state.message_ins_store.get(content.message_object_id)
        if question is not None and question.metadata.dst_node_id != content.node.node_id:
            raise HTTPException(400)


def assemble(replies: ReplyStore, head: Message) -> tuple[Message | None, int]:
    """A reply put together from its objects, which are then no longer kept.

    Args:
        head: the reply without content.

    Returns:
        The reply and the bytes of its objects. None while some are on their way; an error message
        where they are gone, or where what came is not the reply that was announced.
    """
    message_id = head.metadata.message_id
    try:
        contents = replies.take(message_id)
    except LookupError:
        return no_reply(head, ErrorCode.MESSAGE_UNAVAILABLE), 0
    if contents is None:
        return None, 0
    if head.has_error():
        return head, 0
    size = sum(map(len, contents.values()))
    try:
        message = inflate_object_from_contents(message_id, contents)
        # What it says of itself comes from inside the content, which nobody has checked.
        if not isinstance(message, Message) or _of(message.metadata) != _of(head.metadata):
            raise ValueError("not the reply that was announced")
    except Exception:  # whatever a site can make of an object must not end the run
        LOG.info("a reply cannot be read", exc_info=True)
        return no_reply(head, ErrorCode.UNKNOWN), 0
    message.metadata.__dict__["_message_id"] = message_id
    return message, size


def no_reply(head: Message, code: int) -> Message:
    """Instead of a reply that did not come whole, or that cannot be read."""
    metadata = Metadata(
        run_id=head.metadata.run_id,
        message_id="",
        src_node_id=head.metadata.src_node_id,
        dst_node_id=SUPERLINK_NODE_ID,
        message_type=head.metadata.message_type,
        group_id="",
        ttl=0,
        reply_to_message_id=head.metadata.reply_to_message_id,
        created_at=time.time(),
    )
    return make_message(metadata=metadata, error=Error(code, "no usable reply"))


def _of(metadata: Metadata) -> tuple[int, int, int, str]:
    return metadata.src_node_id, metadata.dst_node_id, metadata.run_id, metadata.reply_to_message_id
