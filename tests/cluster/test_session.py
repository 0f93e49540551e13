"""Links: whatever is lost or doubled, what is taken is what was sent, in order; and the dialler keeps one up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.actor import Header, Send
from cluster.config import ACK_DELAY_S, ACK_EVERY, HASTY_LINKS, HELLO_RETRY_MAX_S, LEASE_MARGIN, LINK_HOLDS_S
from cluster.messages import Accepted, ClientHello, Message, Pulse, Refusal, Resync, Taken, Welcome
from cluster.session import Dialer, Link, Verdict

SOMETHING = Taken(bytes(32), 1)


def pair() -> tuple[Link, Link]:
    return Link(1), Link(1)


# ------------------------------------------------------------------------------------ one link


@given(st.lists(st.sampled_from(["arrives", "lost", "twice", "late"]), max_size=40))
def test_what_is_taken_is_a_prefix_of_what_was_sent_whatever_the_network_does(fates: list[str]) -> None:
    here, there = pair()
    taken: list[int] = []
    kept: list[Header] = []
    for fate in fates:
        header = here.header()
        arrivals = {"arrives": [header], "lost": [], "twice": [header, header], "late": [*kept[-3:], header]}[fate]
        kept.append(header)
        for h in arrivals:
            verdict = there.take(h, SOMETHING, 0.0)
            if verdict is Verdict.NEXT:
                taken.append(h.seq)
            elif verdict is Verdict.DUPLICATE:
                assert h.seq in taken
            else:
                assert verdict is Verdict.GAP and h.seq > len(taken) + 1
    assert taken == list(range(1, len(taken) + 1))
    if "lost" not in fates:
        assert len(taken) == len(fates)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_acknowledgements_never_claim_more_than_was_taken(steps: list[tuple[bool, bool]]) -> None:
    a, b = pair()
    for from_a, arrives in steps:
        here, there = (a, b) if from_a else (b, a)
        header = here.header()
        if arrives:
            there.take(header, SOMETHING, 0.0)
        assert a.acked <= b.heard <= a.sent and b.acked <= a.heard <= b.sent


def test_a_message_of_another_link_is_stale() -> None:
    link = Link(2)
    assert link.take(Header(1, 1, 0), SOMETHING, 0.0) is Verdict.STALE
    assert link.take(Header(3, 1, 0), SOMETHING, 0.0) is Verdict.STALE
    assert link.heard == 0


def test_a_peer_cannot_acknowledge_what_was_never_sent() -> None:
    link = Link(1)
    link.header()
    assert link.take(Header(1, 1, 99), SOMETHING, 0.0) is Verdict.NEXT
    assert link.acked == 1


def test_a_pulse_owes_no_acknowledgement_and_all_else_does_soon() -> None:
    link = Link(1)
    link.take(Header(1, 1, 0), Pulse(), 5.0)
    assert link.ack_due() is None
    for n in range(2, 2 + ACK_EVERY):
        assert link.ack_due() in (None, 5.0 + ACK_DELAY_S)
        link.take(Header(1, n, 0), SOMETHING, 5.0)
    assert link.ack_due() == 5.0
    assert link.header().ack == 1 + ACK_EVERY
    assert link.ack_due() is None


# ------------------------------------------------------------------------------------ the dialler


class Dialing:
    """A dialler, with the numbers of the far end kept by hand."""

    def __init__(self) -> None:
        self.dialer = Dialer(lambda: ClientHello(1, b"", "", "", 0, 0))
        self.now = 100.0
        self.seq = 0

    def hears(self, message: Message, link: int | None = None, seq: int | None = None) -> list[Send]:
        if type(message).UNNUMBERED:
            number = 0
        else:
            self.seq = self.seq + 1 if seq is None else seq
            number = self.seq
        link = self.dialer.link.number if link is None else link
        return self.dialer.receive(Header(link, number, 0), message, self.now)[1]

    def joins(self) -> None:
        assert hello(self.dialer.connected(self.now))
        self.seq = 0
        self.hears(Welcome(3, True, 0, 1.0, 10.0))
        assert self.dialer.up

    def due(self, beat_s: float = 1.0) -> list[Send]:
        return self.dialer.due(self.now, Pulse, beat_s)


def hello(sends: list[Send]) -> bool:
    return len(sends) == 1 and isinstance(sends[0].message, ClientHello)


def test_the_coordinators_times_and_epoch_are_taken_over() -> None:
    d = Dialing()
    d.dialer.connected(d.now)
    d.hears(Welcome(3, True, 0, 0.5, 4.0))
    assert (d.dialer.epoch, d.dialer.times.heartbeat_s, d.dialer.times.lease_s) == (3, 0.5, 4.0)


def test_nothing_is_taken_before_the_welcome() -> None:
    d = Dialing()
    d.dialer.connected(d.now)
    assert d.dialer.receive(Header(1, 1, 0), Accepted(1), d.now) == (None, [])
    assert not d.dialer.up


def test_hellos_are_repeated_with_growing_pauses_and_rising_links() -> None:
    d = Dialing()
    d.dialer.connected(d.now)
    pauses = []
    for _ in range(6):
        at = d.dialer.deadline(1.0)
        assert at is not None
        pauses.append(at - d.now)
        d.now = at
        link = d.dialer.link.number
        assert hello(d.due()) and d.dialer.link.number == link + 1
    assert pauses == pytest.approx([0.25, 0.5, 1.0, 2.0, 2.0, 2.0])


def test_a_late_welcome_of_an_earlier_hello_is_stale() -> None:
    d = Dialing()
    d.dialer.connected(d.now)
    d.dialer.greet(d.now)
    d.hears(Welcome(3, True, 0, 1.0, 10.0), link=1)
    assert not d.dialer.up


def test_a_gap_and_a_resync_open_a_new_link() -> None:
    for message, seq in ((Accepted(1), 7), (Resync(""), None)):
        d = Dialing()
        d.joins()
        assert hello(d.hears(message, seq=seq))
        assert not d.dialer.up and d.dialer.link.number == 2


def test_resyncs_of_the_old_link_open_no_further_one() -> None:
    d = Dialing()
    d.joins()
    assert hello(d.hears(Resync("")))
    assert d.hears(Resync(""), link=1) == []


def test_a_refusal_is_final() -> None:
    d = Dialing()
    d.dialer.connected(d.now)
    d.hears(Refusal("name", ""))
    assert d.dialer.deadline(1.0) is None
    assert d.dialer.connected(d.now) == [] == d.dialer.greet(d.now)


def test_nothing_is_said_without_a_connection() -> None:
    d = Dialing()
    d.joins()
    d.dialer.disconnected()
    assert d.dialer.deadline(1.0) is None
    d.now += 1_000
    assert d.due() == []


def test_silence_counts_from_the_first_word_without_an_answer() -> None:
    d = Dialing()
    d.joins()
    d.dialer.send(SOMETHING, d.now)
    d.hears(Pulse())
    d.now += 60.0
    assert d.due(beat_s=100.0) == [], "nothing was said, so nothing is missing"
    d.dialer.send(SOMETHING, d.now)
    at = d.dialer.deadline(100.0)
    assert at == d.now + 2.5
    d.now = at
    assert hello(d.due(beat_s=100.0))


def test_any_word_ends_the_silence() -> None:
    d = Dialing()
    d.joins()
    d.dialer.send(SOMETHING, d.now)
    d.now += 2.0
    d.hears(Pulse())
    d.now += 2.0
    assert d.due(beat_s=100.0) == []


def test_a_stall_of_our_own_is_not_their_silence() -> None:
    d = Dialing()
    d.joins()
    d.dialer.send(SOMETHING, d.now)
    d.now += 60.0
    d.dialer.stalled(60.0)
    assert d.due(beat_s=100.0) == [] and d.dialer.unheard_s(d.now) == 0.0


@given(st.lists(st.sampled_from(["due", "hears", "says", "resync", "cut", "dial"]), max_size=40))
def test_serving_a_deadline_moves_it_on(steps: list[str]) -> None:
    d = Dialing()
    d.joins()
    for step in steps:
        match step:
            case "due":
                for _ in range(5):
                    at = d.dialer.deadline(1.0)
                    if at is None:
                        break
                    d.now = max(d.now, at)
                    d.due()
                    after = d.dialer.deadline(1.0)
                    assert after is None or after > d.now
            case "hears":
                d.hears(Welcome(1, True, 0, 1.0, 10.0) if not d.dialer.up else Accepted(1), seq=d.dialer.link.heard + 1)
            case "says":
                if d.dialer.up:
                    d.dialer.send(SOMETHING, d.now)
            case "resync":
                d.hears(Resync(""))
            case "cut":
                d.dialer.disconnected()
            case "dial":
                d.dialer.connected(d.now)


def test_links_that_break_at_once_are_opened_ever_more_slowly() -> None:
    dialer = Dialer(lambda: ClientHello(1, b"12345678", "0", "default", 0, 0))
    now, hellos = 0.0, len(dialer.connected(0.0))
    while now < 60.0:
        # The coordinator lets it in, and then says something that cannot be read: a gap.
        link = dialer.link.number
        dialer.receive(Header(link, 1, 0), Welcome(1, True, 0, 1.0, 10.0), now)
        hellos += len(dialer.receive(Header(link, 3, 0), Pulse(), now)[1])
        now += 0.001
        hellos += len(dialer.due(now, Pulse, 1.0))
    assert hellos <= 60
    assert dialer.deadline(1.0) is not None


def test_links_that_break_at_once_are_opened_ever_more_slowly_until_one_holds() -> None:
    d = Dialing()
    pauses: list[float] = []
    d.dialer.connected(d.now)
    for _ in range(HASTY_LINKS + 8):
        assert len(pauses) < 2 or pauses[-1] >= pauses[-2]
        d.seq = 0
        d.hears(Welcome(3, True, 0, 1.0, 10.0))
        assert d.dialer.up
        broke = d.now
        sends = d.hears(Resync(""))
        while not sends:
            at = d.dialer.deadline(1.0)
            assert at is not None and at > d.now
            d.now = at
            sends = d.due()
        assert hello(sends)
        pauses.append(d.now - broke)
    assert pauses[: HASTY_LINKS - 1] == [0.0] * (HASTY_LINKS - 1)
    assert pauses[-1] == pytest.approx(HELLO_RETRY_MAX_S)
    d.seq = 0
    d.hears(Welcome(3, True, 0, 1.0, 10.0))
    d.now += LINK_HOLDS_S
    assert hello(d.hears(Resync("")))


def test_links_that_the_network_cuts_are_opened_again_at_once_however_often() -> None:
    d = Dialing()
    for _ in range(3 * HASTY_LINKS):
        assert hello(d.dialer.connected(d.now))
        d.seq = 0
        d.hears(Welcome(3, True, 0, 1.0, 10.0))
        d.now += 0.1
        d.dialer.disconnected()


# ------------------------------------------------------------------------------------ leases


def test_a_lease_is_counted_from_the_sending_of_what_the_other_side_is_known_to_have_had() -> None:
    dialer = Dialer(lambda: ClientHello(1, bytes(8), "", "", 0, 0))
    lease_s = dialer.times.lease_s * (1 - LEASE_MARGIN)
    assert dialer.leased_until < 0
    (hello,) = dialer.connected(10.0)
    link = hello.header.link
    dialer.receive(Header(link, 1, 0), Welcome(1, False, 0, 1.0, 10.0), 10.7)
    assert dialer.leased_until == 10.0 + lease_s
    (first,) = dialer.due(11.0, Pulse, 1.0)
    (second,) = dialer.due(12.0, Pulse, 1.0)
    assert dialer.leased_until == 10.0 + lease_s
    dialer.receive(Header(link, 2, first.header.seq), Pulse(), 12.1)
    assert dialer.leased_until == 11.0 + lease_s
    dialer.receive(Header(link, 3, second.header.seq), Pulse(), 12.2)
    assert dialer.leased_until == 12.0 + lease_s
    dialer.disconnected()
    assert dialer.leased_until == 12.0 + lease_s, "a link that is gone takes no lease with it"
    (hello,) = dialer.connected(15.0)
    assert dialer.leased_until == 12.0 + lease_s
    dialer.receive(Header(hello.header.link, 1, 0), Welcome(1, False, 0, 1.0, 10.0), 15.1)
    assert dialer.leased_until == 15.0 + lease_s
