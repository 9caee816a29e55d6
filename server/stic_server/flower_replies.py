"""A site's reply as Flower holds it: whose it is, whether it is whole, whether it can be read.

Beside `flower_link` the only module of this side that touches Flower's internals. Flower checks
that a request's key is that of the request's node; it does not check whose messages the request
carries, nor that what is announced can be put together. An admitted site that is malicious
could answer in another's name, or end the run.
"""

from __future__ import annotations

import logging
import time

from fastapi import HTTPException, Request
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkState
from flwr.supercore.inflatable.inflatable_object import is_valid_sha256_hash, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.dependencies.linkstate import get_linkstate

LOG = logging.getLogger(__name__)

MOST_OBJECTS = 1000
"""In one reply; ours have seven."""


def own_replies_only(request: Request) -> LinkState:
    """Flower's link state, for a request that speaks for its own sender alone.

    Raises:
        HTTPException: 400 for another's reply, several, none, or one whose objects have no names.
    """
    content = request.state.protobuf_request
    if isinstance(content, PushMessagesRequest) and not _is_one_own_reply(content):
        raise HTTPException(400)
    state = get_linkstate(request)
    if isinstance(content, PullMessagesRequest) and isinstance(state, InMemoryLinkState):
        give_again(state, content.node.node_id)
    return state


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


def _is_one_own_reply(content: PushMessagesRequest) -> bool:
    if len(content.messages_list) != 1 or len(content.message_object_trees) != 1:
        return False
    metadata, tree = content.messages_list[0].metadata, content.message_object_trees[0]
    names = [part.object_id for part in iterate_object_tree(tree)]
    return (
        metadata.src_node_id == content.node.node_id
        and metadata.message_id == tree.object_id
        and len(names) <= MOST_OBJECTS
        and all(map(is_valid_sha256_hash, names))
    )


def assemble(state: LinkState, head: Message) -> tuple[Message | None, int]:
    """A reply put together from its objects, which are then no longer kept.

    Args:
        head: the reply without content.

    Returns:
        The reply and the bytes of its objects. None while some are on their way; an error message
        where they are gone, or where what came is not the reply that was announced.
    """
    message_id, store = head.metadata.message_id, state.object_store
    if head.has_error():
        if message_id in store and state.get_object(head.metadata.run_id, message_id) == b"":
            return None, 0
        store.delete(message_id)
        return head, 0
    contents: dict[str, bytes] = {}
    try:
        for part in iterate_object_tree(store.get_object_tree(message_id)):
            content = state.get_object(head.metadata.run_id, part.object_id)
            if content == b"":  # announced, and still on its way
                return None, 0
            if content is None:
                return no_reply(head, ErrorCode.MESSAGE_UNAVAILABLE), 0
            contents[part.object_id] = content
        size = sum(map(len, contents.values()))
        message = inflate_object_from_contents(message_id, contents)
        # What it says of itself comes from inside the content, which nobody has checked.
        if not isinstance(message, Message) or _of(message.metadata) != _of(head.metadata):
            raise ValueError("not the reply that was announced")
    except Exception:  # whatever a site can make of an object must not end the run
        LOG.info("a reply cannot be read", exc_info=True)
        store.delete(message_id)
        return no_reply(head, ErrorCode.UNKNOWN), 0
    message.metadata.__dict__["_message_id"] = message_id
    store.delete(message_id)
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
