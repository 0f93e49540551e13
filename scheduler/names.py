"""Who bears a node's name. Rules of this file: a pure policy over what a hello says and what its holder said.

Two processes may claim one name: two lives of one node, or two nodes, as when a machine was copied with its
directory. A copied directory tells the same story as its original, so its story alone lets nobody in.

- A later life in the same directory takes over at once: the directory's lock, which both name, shows that the life
  before is over.
- Whoever else claims a name is refused once the holder proves to be alive: it acknowledges a message that was sent
  after the claim came. A word it said before proves nothing.
- As long as neither is shown the claim waits. The holder's silence ends by a word, or by the end of its leases.
"""

from __future__ import annotations

from cluster.ids import SESSION_BYTES
from cluster.messages import NodeHello
from scheduler.roster import Node

MAX_CLAIMS = 1_000
"""Claims to one name that are remembered; of more than this the oldest has to begin anew."""


def succeeds(hello: NodeHello, holder: Node) -> bool:
    """Whether the hello is of a later life of the holder. Else it may be a late word of an earlier one, or a copy."""
    return bool(hello.lock) and hello.lock == holder.lock and hello.incarnation > holder.incarnation


def claim(hello: NodeHello, holder: Node) -> None:
    """Note that the last message to the holder was sent after this hello came."""
    if hello.session not in holder.claims and len(holder.claims) >= MAX_CLAIMS:
        del holder.claims[next(iter(holder.claims))]
    holder.claims[hello.session] = holder.link.number, holder.link.sent


def asked(hello: NodeHello, holder: Node) -> bool:
    """Whether a message to the holder that can show it alive is under way on its present link."""
    return holder.claims.get(hello.session, (-1, 0))[0] == holder.link.number  # 0: one we know from our rows alone


def proved_alive(hello: NodeHello, holder: Node) -> bool:
    """Whether the holder was alive after this process had claimed its name."""
    return asked(hello, holder) and holder.link.acked >= holder.claims[hello.session][1]


def refusal(hello: NodeHello, holder: Node) -> str:
    """The words for whoever is refused."""
    text = (
        f"a node named {holder.name!r} is here already and is alive: host {holder.host}, process {holder.pid}; "
        f"this one is host {hello.host}, process {hello.pid}"
    )
    if not _related(hello, holder):
        return f"{text}. Give this one a --name of its own"
    return (
        f"{text}. The directory of one of them is a copy of the other's, as when a machine is cloned: "
        "remove the copied one, and give its node a --name of its own, which gets it a new --directory"
    )


def _related(hello: NodeHello, holder: Node) -> bool:
    """Whether both directories remember the same life, or one the other's."""
    kept = hello.previous if len(hello.previous) == SESSION_BYTES else b""
    return bool(kept and kept in (holder.session, holder.previous)) or holder.previous == hello.session
