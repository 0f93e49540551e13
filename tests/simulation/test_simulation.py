"""Worlds that must keep every promise, and sabotaged ones that must be found out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cluster.actor import Header, Send, Turn
from cluster.blobs import Outgoing
from cluster.client_session import ClientSession
from cluster.jobs import End
from cluster.messages import Assign, Finished, Heartbeat, Message, NodeHello, Waiting, Welcome
from cluster.session import Dialer, Link, Verdict
from node.agent import Agent
from node.attempts import Attempt, Phase
from node.events import WorkerDone
from node.slots import Slot
from scheduler import names, retries
from scheduler.adrift import Adrift
from scheduler.clients import Client
from scheduler.coordinator import Coordinator
from scheduler.dealer import Dealer
from scheduler.door import Door
from scheduler.exchange import Exchange
from scheduler.intake import Intake
from scheduler.journal import Journal, ReadOutcomes
from scheduler.leases import Leases
from scheduler.lifecycle import Cause, Job, State, Wish, move
from scheduler.payloads import Payloads
from scheduler.resources import Holdings
from scheduler.roster import Node, Roster
from scheduler.schedules import Overlap, Schedules
from scheduler.standing_orders import StandingOrders
from scheduler.store import SessionRow
from scheduler.waiting import WaitingJobs
from tests.simulation import machines, pool
from tests.simulation.__main__ import RARE, main, never_exercised, replay_command
from tests.simulation.exercised import ATTEMPT_MOVES, FAULTS, JOB_MOVES, missing
from tests.simulation.machines import CoordinatorMachine
from tests.simulation.plans import STORIES, Plan, drawn
from tests.simulation.world import Report, simulate

ROOT = Path(__file__).parents[2]
SEEDS = 60
LONG_SEEDS = 1_000
FOUND_WITHIN = 500


def keeps_its_promises(report: Report) -> None:
    if report.failure:
        pytest.fail("\n".join([*report.story, report.failure, f"replay: {replay_command(report)}"]), pytrace=False)


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str) -> None:
    report = simulate(0, STORIES[name])
    keeps_its_promises(report)
    assert report.jobs >= 200


@pytest.mark.parametrize("seed", range(SEEDS))
def test_seed(seed: int) -> None:
    keeps_its_promises(simulate(seed, drawn(seed)))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_long_run_exercises_every_fault_and_every_move() -> None:
    reports = [simulate(0, plan) for plan in STORIES.values()]
    for seed in range(LONG_SEEDS):
        reports.append(simulate(seed, drawn(seed)))
        if seed % 20 == 0 and not never_exercised(reports):
            return
    assert never_exercised(reports) == []


def test_what_was_never_exercised_is_named() -> None:
    assert {f"move of a job: {move}" for move in JOB_MOVES} >= RARE
    assert missing(FAULTS, JOB_MOVES, ATTEMPT_MOVES) == []
    assert missing(FAULTS[1:], JOB_MOVES, ATTEMPT_MOVES[1:]) == [
        f"fault: {FAULTS[0]}",
        f"move of an attempt: {ATTEMPT_MOVES[0]}",
    ]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + LONG_SEEDS, 100))
def test_many_seeds(first: int) -> None:
    for seed in range(first, first + 100):
        keeps_its_promises(simulate(seed, drawn(seed)))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STORIES)
def test_story_with_many_seeds(name: str) -> None:
    for seed in range(1, 51):
        keeps_its_promises(simulate(seed, STORIES[name]))


def test_where_nothing_fails_nothing_happens_twice() -> None:
    plan = STORIES["quiet"]
    report = simulate(1, plan)
    keeps_its_promises(report)
    assert not report.faults
    assert report.excess == report.discarded == report.outcomes["lost"] == 0
    assert report.hellos == plan.nodes + plan.clients, "every session has one link, for ever"
    assert report.executions + report.outcomes["cancelled"] == report.commits == plan.jobs


def test_nodes_that_are_drained_and_replaced_lose_nothing_and_repeat_nothing() -> None:
    plan = replace(STORIES["quiet"], agent_leaves=8, leave_s=120.0, drains=8, hasty=0.0)
    reports = [simulate(seed, plan) for seed in range(3)]
    for report in reports:
        keeps_its_promises(report)
        assert report.excess == report.discarded == report.outcomes["lost"] == 0
        assert report.executions + report.outcomes["cancelled"] == report.commits == plan.jobs
    assert sum(r.faults["agents that leave"] for r in reports) > 9
    assert sum(r.faults["nodes drained"] for r in reports) > 9


def test_where_nothing_is_kept_a_restart_lets_drained_nodes_in_again() -> None:
    plan = replace(STORIES["drains"], store=False, durable=0.0, coordinator_restarts=6)
    for seed in range(6):
        keeps_its_promises(simulate(seed, plan))


def test_what_runs_too_long_or_is_to_be_ended_ends() -> None:
    limits, endings = (simulate(1, STORIES[name]) for name in ("limits", "endings"))
    for report in (limits, endings):
        keeps_its_promises(report)
    assert limits.outcomes["timed out"] > 3
    assert min(limits.faults[f"jobs killed {why}"] for why in ("for their memory", "that took no notice")) > 3
    assert endings.faults["jobs interrupted"] > 0


def test_a_wall_clock_that_is_set_changes_nothing() -> None:
    plan = replace(STORIES["quiet"], clock_jumps=30)
    report = simulate(1, plan)
    keeps_its_promises(report)
    assert report.faults["wall clocks set back"] and report.faults["wall clocks set forward"]
    assert report.excess == report.discarded == report.outcomes["lost"] == 0
    assert report.hellos == plan.nodes + plan.clients


def test_of_two_that_claim_a_name_one_is_refused_and_the_other_works_on() -> None:
    report = simulate(1, STORIES["clones"])
    keeps_its_promises(report)
    assert report.faults["nodes refused"] >= report.faults["nodes cloned"] > 0


def test_restarts_lose_nothing_durable_and_run_nothing_again_by_themselves() -> None:
    plan = replace(STORIES["coordinator restart"], coordinator_restarts=8, long=0.1, loss=0.0)
    reports = [simulate(seed, plan) for seed in range(3)]
    for report in reports:
        keeps_its_promises(report)
        assert report.commits == plan.jobs
        assert report.excess == report.outcomes["lost"] == 0
    assert sum(r.faults["coordinator restarts"] for r in reports) >= 6
    assert sum(r.left_over for r in reports) < sum(r.recovered for r in reports), "some were adopted"


def test_who_has_died_gets_its_jobs_done_all_the_same() -> None:
    report = simulate(1, STORIES["orphans"])
    keeps_its_promises(report)
    assert report.faults["clients killed"] >= 3
    assert report.rows > report.commits - report.outcomes["cancelled"], "outcomes that nobody was there to hear of"


def test_a_commit_that_fails_or_is_cut_short_loses_nothing_that_was_told() -> None:
    for story in ("slow commits", "failed commits"):
        reports = [simulate(seed, STORIES[story]) for seed in (1, 2)]
        for report in reports:
            keeps_its_promises(report)
        struck = sum(n for r in reports for fault, n in r.faults.items() if fault.startswith("commits under which"))
        assert struck >= 3 and not any(r.outcomes["lost"] for r in reports)


def test_each_time_of_a_schedule_is_one_job_or_has_a_reason() -> None:
    """P4. Where the clock is never set back, nothing is taken for fired that has not."""
    reports = [simulate(seed, STORIES["schedules"]) for seed in range(4)]
    reports += [simulate(seed, replace(STORIES["schedules over restarts"], skews=0)) for seed in range(4)]
    for report in reports:
        keeps_its_promises(report)
    found = sum((report.schedules for report in reports), Counter[str]())
    assert found["times judged"] > 300 and found["jobs made"] > 200
    assert {"OVERLAP", "GAVE_WAY", "SUPERSEDED", "MISSED", "PAUSED", "CHANGED", "REMOVED"} <= set(found)
    assert not found["taken for fired"]


def test_one_seed_is_one_trace_whatever_the_hash_seed() -> None:
    def traces(hash_seed: str, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--trace", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    for arguments in (("--seeds", "8"), ("--seeds", "1", "--story", "blobs")):
        assert traces("1", *arguments) == traces("2", *arguments) != ""


def test_the_scoreboard_and_a_failure_s_replay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--seeds", "2", "--from", "5", "-v"]) == 0
    out = capsys.readouterr().out
    assert "2 in " in out
    for promise in ("lost  0", "duplicate  0 commits", "at most once  0 starts over one", "stuck  0"):
        assert promise in out

    monkeypatch.setattr(Link, "header", lambda self: Header(self.number, 0, 0))
    assert main(["--seeds", "2", "--story", "quiet"]) == 1
    out = capsys.readouterr().out
    assert 'replay: python -m tests.simulation --story "quiet" --from 0 --seeds 1 -v' in out


# ------------------------------------------------------------------------------------ sabotage

Sabotage = Callable[[pytest.MonkeyPatch], None]
SABOTAGES: dict[str, tuple[Sabotage, Callable[[int], Plan], int]] = {}


def sabotage(plan: Callable[[int], Plan] = drawn, first: int = 0) -> Callable[[Sabotage], Sabotage]:
    """``plan``: what to look for it in, by seed. ``first``: the seed to begin with, as it was found there soonest."""

    def decorate(breaks: Sabotage) -> Sabotage:
        SABOTAGES[breaks.__name__] = breaks, plan, first
        return breaks

    return decorate


def same_results(seed: int) -> Plan:
    return STORIES["same results"]


def clones(seed: int) -> Plan:
    return STORIES["clones"]


def late_words(seed: int) -> Plan:
    """Agents say hello all the time, and die while some of it is on its way."""
    return replace(STORIES["clones"], clones=0, nodes=2, cuts=60, delay_s=0.03, slow=0.3)


def claims(seed: int) -> Plan:
    return STORIES["claims"]


def scarce_labels(seed: int) -> Plan:
    return STORIES["scarce labels"]


def few_scarce_labels(seed: int) -> Plan:
    return replace(STORIES["scarce labels"], clients=6, jobs=100, scarce=0.15)


def struck_commits(seed: int) -> Plan:
    return replace(STORIES["slow commits"], commit_crashes=8)


def out_of_order(seed: int) -> Plan:
    return STORIES["out of order"]


def late_results(seed: int) -> Plan:
    return replace(STORIES["black holes"], span_s=40.0, jobs=100, black_holes=30, long=0.4, worker_crash=0.1)


def at_most_once(seed: int) -> Plan:
    """Nodes are given up while workers will not start."""
    story = replace(STORIES["at most once"], span_s=40.0, coordinator_restarts=1, commit_crashes=0)
    return replace(story, black_holes=20, agent_pauses=20, start_failure=0.7, worker_crash=0.1)


def doubtful_restarts(seed: int) -> Plan:
    return replace(STORIES["at most once"], joint_crashes=6, long=0.3)


def poison(seed: int) -> Plan:
    return replace(STORIES["poison"], coordinator_restarts=8, commit_crashes=4, agent_kills=0, worker_crash=0.05)


def full_queue(seed: int) -> Plan:
    return replace(STORIES["full queue"], delay_s=0.02)


def full_memory(seed: int) -> Plan:
    return replace(STORIES["full memory"], payload_memory_bytes=500)


def limits(seed: int) -> Plan:
    return replace(STORIES["limits"], coordinator_restarts=8, commit_crashes=4, slow_commit=0.3)


def endings(seed: int) -> Plan:
    """What is to be ended runs long, and its node is gone before it has."""
    story = replace(STORIES["endings"], coordinator_restarts=10, joint_crashes=6, long=0.9, cancels=0.0)
    return replace(story, black_holes=8, span_s=30.0, jobs=120, ends=0.8, slots=4)


def drains(seed: int) -> Plan:
    return replace(STORIES["drains"], drains=16, coordinator_restarts=8)


def deep_queue(seed: int) -> Plan:
    return STORIES["deep queue"]


def restarts(seed: int) -> Plan:
    return replace(STORIES["coordinator restart"], coordinator_restarts=8, large=0.3, large_result=0.3)


def two_hold_one_job(seed: int) -> Plan:
    return replace(STORIES["two hold one job"], coordinator_restarts=15)


def schedules(seed: int) -> Plan:
    return STORIES["schedules"]


def schedules_over_restarts(seed: int) -> Plan:
    return STORIES["schedules over restarts"]


def schedules_and_clocks(seed: int) -> Plan:
    return STORIES["schedules and clocks"]


@sabotage(schedules_over_restarts)
def what_has_fired_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    orders = Journal.orders
    patch.setattr(Journal, "orders", lambda self, rows: orders(self, rows._replace(standings=[])))


@sabotage(schedules)
def jobs_of_schedules_are_written_without_their_keys(patch: pytest.MonkeyPatch) -> None:
    orders = Journal.orders
    patch.setattr(Journal, "orders", lambda self, rows: orders(self, rows._replace(firings=[])))


@sabotage(schedules)
def times_are_skipped_without_a_word(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Schedules, "_skip", lambda self, *about, **more: None)


@sabotage(schedules_and_clocks)
def a_clock_that_is_set_back_forgets_what_has_fired(patch: pytest.MonkeyPatch) -> None:
    def take(self: Schedules, standing: Any, one: Any) -> None:
        standing.taken += 1
        self._standings[standing] = None

    patch.setattr(Schedules, "_take", take)


@sabotage(schedules, first=46)
def what_gives_way_ends_before_it_is_written(patch: pytest.MonkeyPatch) -> None:
    """A bug there was."""
    turn = StandingOrders.turn

    def gives_way(self: StandingOrders, wall: float, full: str) -> list[Job]:
        made = turn(self, wall, full)
        if made:
            self.stop()
        return made

    patch.setattr(StandingOrders, "turn", gives_way)


@sabotage(schedules)
def a_policy_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    """What is to be skipped while an earlier one runs waits for it, in part for ever."""
    accept = Schedules._accept

    def accepts(self: Schedules, standing: Any, one: Any, now: int, out: list[Any], overlap: Any = None) -> None:
        accept(self, standing, one, now, out, overlap or Overlap.SKIP)

    patch.setattr(Schedules, "_accept", accepts)


@sabotage(first=7)
def agent_forgets_unacknowledged_results_on_a_new_link(patch: pytest.MonkeyPatch) -> None:
    welcome = Agent._welcome

    def forgets(self: Agent, message: Welcome) -> None:
        self._unacked.clear()
        welcome(self, message)

    patch.setattr(Agent, "_welcome", forgets)


@sabotage()
def coordinator_does_not_requeue_absent_leases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "absent_from", lambda self, tokens: [])


@sabotage(first=23)
def link_takes_a_gap_as_next(patch: pytest.MonkeyPatch) -> None:
    take = Link.take

    def takes(self: Link, header: Header, message: Message, now: float) -> Verdict:
        if header.link == self.number and header.seq > self.heard:
            self.heard = header.seq - 1
        return take(self, header, message, now)

    patch.setattr(Link, "take", takes)


@sabotage(first=4)
def coordinator_says_resumed_to_whom_it_does_not_know(patch: pytest.MonkeyPatch) -> None:
    welcome = Door._welcome
    patch.setattr(Door, "_welcome", lambda self, known, accepted, kept=False: welcome(self, True, accepted))


@sabotage()
def coordinator_does_not_say_what_it_has_accepted(patch: pytest.MonkeyPatch) -> None:
    submit, welcome = Intake.submit, Door._welcome

    def submits(self: Intake, client: Any, message: Any) -> None:
        client.accepted = min(client.accepted, message.first - 1)
        submit(self, client, message)

    patch.setattr(Intake, "submit", submits)
    patch.setattr(Door, "_welcome", lambda self, known, accepted, kept=False: welcome(self, known, 0))


@sabotage()
def coordinator_cancels_what_is_leased_without_asking(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Coordinator, "_retract", lambda self, node, jobs: self._requeue(node, jobs))


@sabotage(late_results)
def lost_nodes_keep_their_leases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "end_all", lambda self: [])


@sabotage(first=2)
def jobs_are_placed_again_while_their_node_is_only_silent(patch: pytest.MonkeyPatch) -> None:
    closed = Door.closed

    def hasty(self: Door, route: bytes) -> None:
        peer = self._routes.get(route)
        closed(self, route)
        if isinstance(peer, Node):
            jobs: list[Job] = list(peer.leases)
            coordinator = vars(self)["_gone"].__self__
            coordinator._requeue(peer, [job for job in jobs if job.state.value == "leased"])

    patch.setattr(Door, "closed", hasty)


@sabotage(first=9)
def client_settles_what_is_settled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClientSession, "_settle", lambda self, rows: self._settled.extend(rows))


@sabotage(first=3)
def withdrawn_blobs_are_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Exchange, "_withdrawn", lambda self, peer, sha: None)


@sabotage(first=16)
def blobs_go_on_where_another_link_ended(patch: pytest.MonkeyPatch) -> None:
    def goes_on(self: Outgoing, s: Any) -> None:
        s.read = s.taken

    patch.setattr(Outgoing, "_begin", goes_on)


@sabotage()
def blobs_are_dropped_while_they_are_sent(patch: pytest.MonkeyPatch) -> None:
    fetch = Exchange.fetch

    def fetches(self: Exchange, peer: Any, message: Any) -> Message | None:
        known = message.sha in peer.outgoing
        answer = fetch(self, peer, message)
        if answer is None and not known:
            self.release(message.sha)
        return answer

    patch.setattr(Exchange, "fetch", fetches)


@sabotage(same_results, first=15)
def a_blob_is_dropped_though_a_worker_has_just_made_it_again(patch: pytest.MonkeyPatch) -> None:
    def keeps(self: Agent, sha: bytes, size: int) -> None:
        self._shelf.hold(sha)
        self._shelf.add(sha, size)

    patch.setattr(Agent, "_keep", keeps)


@sabotage(same_results, first=5)
def large_results_are_named_before_the_agent_reads_of_them(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pool, "NAMED_WHEN_READ", False)


@sabotage(clones)
def a_copied_directory_takes_over_by_its_story(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(names, "succeeds", lambda hello, holder: hello.previous == holder.session)


@sabotage(late_words, first=12)
def a_late_hello_of_an_earlier_life_takes_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(names, "succeeds", lambda hello, holder: hello.lock == holder.lock)


@sabotage(clones)
def who_claims_a_name_is_refused_though_its_holder_is_dead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(names, "proved_alive", lambda hello, holder: hello.session in holder.claims)


@sabotage(clones)
def a_word_from_before_the_claim_shows_the_holder_alive(patch: pytest.MonkeyPatch) -> None:
    def claim(hello: NodeHello, holder: Node) -> None:
        holder.claims[hello.session] = holder.link.number, holder.link.acked

    patch.setattr(names, "claim", claim)


@sabotage(scarce_labels)
def labels_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "satisfies", lambda self, demand: True)


@sabotage(claims)
def claims_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holdings, "fits", lambda self, claims: True)


@sabotage(claims)
def anti_affinity_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    fits = Holdings.fits
    patch.setattr(Holdings, "fits", lambda self, claims: fits(self, claims._replace(apart=None)))


@sabotage(claims)
def what_a_node_brings_along_after_a_restart_claims_nothing(patch: pytest.MonkeyPatch) -> None:
    grant, end = Leases.grant, Leases.end

    def forgets(self: Leases, job: Job) -> None:
        grant(self, job)
        if job.last is Cause.ADOPTED and job.record.claims is not None:
            self.holdings.give_back(job.record.claims)
            job.summary = "forgotten"

    def ends(self: Leases, token: int) -> Job | None:
        job = self.get(token)
        if job is not None and job.summary == "forgotten":
            self.holdings.take(job.record.claims)
            job.summary = ""
        return end(self, token)

    patch.setattr(Leases, "grant", forgets)
    patch.setattr(Leases, "end", ends)


@sabotage(claims)
def what_has_ended_goes_on_claiming(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Holdings, "give_back", lambda self, claims: None)


@sabotage(claims)
def devices_are_free_with_the_result_of_their_job(patch: pytest.MonkeyPatch) -> None:
    done = Agent._worker_done

    def frees(self: Agent, event: WorkerDone) -> None:
        done(self, event)
        self._devices_back(self._slots[event.slot])

    patch.setattr(Agent, "_worker_done", frees)


@sabotage(claims)
def a_worker_that_has_run_others_is_given_devices(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slot, "used", property(lambda self: False, lambda self, value: None))


@sabotage(scarce_labels)
def nobody_is_told_why_jobs_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingJobs, "words", lambda self, ready, roster, now: [])


@sabotage(scarce_labels)
def it_is_told_again_and_again_why_jobs_wait(patch: pytest.MonkeyPatch) -> None:
    watch = WaitingJobs.watch

    def forgets(self: WaitingJobs, ready: Any, roster: Any, now: float) -> None:
        watch(self, ready, roster, now)
        self._unmet = {demand: unmet for demand, unmet in self._unmet.items() if not unmet.told}

    patch.setattr(WaitingJobs, "watch", forgets)


@sabotage(few_scarce_labels)
def others_are_told_why_jobs_wait(patch: pytest.MonkeyPatch) -> None:
    words = WaitingJobs.words

    def tells_others(self: WaitingJobs, ready: Any, roster: Any, now: float) -> Iterator[tuple[Client, Waiting]]:
        others = {id(job.client): job.client for node in roster for job in node.leases}
        for client, word in words(self, ready, roster, now):
            yield from ((other, word) for other in others.values())
            yield client, word

    patch.setattr(WaitingJobs, "words", tells_others)


@sabotage(struck_commits)
def all_is_sent_before_it_is_on_disk(patch: pytest.MonkeyPatch) -> None:
    def releases(self: CoordinatorMachine, turn: Turn) -> None:
        reads = [e for e in turn.after_commit if type(e) is ReadOutcomes]
        for effect in turn.after_commit:
            if type(effect) is not ReadOutcomes:
                self._perform(effect)
        self._held.append(Turn(turn.writes, [], reads))
        self._advance()

    patch.setattr(CoordinatorMachine, "_release", releases)


@sabotage(struck_commits)
def jobs_are_assigned_before_they_are_on_disk(patch: pytest.MonkeyPatch) -> None:
    release = CoordinatorMachine._release

    def releases(self: CoordinatorMachine, turn: Turn) -> None:
        if any(type(e) is Send and type(e.message) is Assign for e in turn.after_commit):
            for waiting in (*self._under_way, *self._held, turn):
                early = [e for e in waiting.after_commit if type(e) is not ReadOutcomes]
                waiting.after_commit = [e for e in waiting.after_commit if type(e) is ReadOutcomes]
                for effect in early:
                    self._perform(effect)
        release(self, turn)

    patch.setattr(CoordinatorMachine, "_release", releases)


@sabotage(struck_commits)
def a_turn_without_rows_overtakes_one_that_is_not_on_disk(patch: pytest.MonkeyPatch) -> None:
    release = CoordinatorMachine._release

    def releases(self: CoordinatorMachine, turn: Turn) -> None:
        if turn.writes:
            release(self, turn)
        else:
            self._let_go([turn])

    patch.setattr(CoordinatorMachine, "_release", releases)


@sabotage(struck_commits)
def the_counter_of_a_session_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    def keeps_none(self: Journal, client: Client) -> None:
        row = SessionRow(client.session, client.identity.key, client.identity.owner, client.namespace, 0)
        self._changes.sessions[client.session] = self._sessions[client.session] = row

    patch.setattr(Journal, "_counter", keeps_none)


@sabotage(restarts)
def recovered_jobs_do_not_wait_for_the_nodes_that_may_hold_them(patch: pytest.MonkeyPatch) -> None:
    land = Coordinator._land

    def lands(self: Coordinator) -> None:
        for node in self._roster:
            node.awaited = False
        land(self)

    patch.setattr(Coordinator, "_land", lands)


@sabotage(restarts)
def nodes_leave_no_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "node", lambda self, node: None)


@sabotage(two_hold_one_job)
def of_two_that_hold_a_job_neither_is_told_to_let_it_go(patch: pytest.MonkeyPatch) -> None:
    def adopts(self: Coordinator, node: Node, hello: NodeHello) -> None:
        node.awaited = False
        for token, jid, attempt in zip(hello.tokens, hello.jobs, hello.attempts, strict=True):
            client = self._clients.get(jid[:8])
            job = None if client is None else client.jobs.get(int.from_bytes(jid[8:], "big"))
            if job is None or job.state not in (State.ADRIFT, State.LEASED, State.RUNNING) or job.node is node:
                continue
            if job.state is State.ADRIFT:
                self._adrift.found(job)
            move(job, Cause.ADOPTED)
            job.attempt, job.token, job.node, job.retracting = attempt, token, node, False
            node.leases.grant(job)
        self._land()

    patch.setattr(Coordinator, "_adopt", adopts)


@sabotage(restarts)
def agent_forgets_what_it_owes_to_an_earlier_epoch(patch: pytest.MonkeyPatch) -> None:
    welcome = Agent._welcome

    def forgets(self: Agent, message: Welcome) -> None:
        if vars(self).setdefault("epoch", message.epoch) != message.epoch:
            vars(self)["epoch"] = message.epoch
            self._unacked.clear()
            self._unsent.clear()
            for attempt in [a for a in self._attempts if a.phase is Phase.OWED]:
                self._forget(attempt)
        welcome(self, message)

    patch.setattr(Agent, "_welcome", forgets)


@sabotage(restarts)
def client_does_not_ask_what_became_of_its_jobs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClientSession, "_await", lambda self, now: None)


@sabotage(restarts)
def client_gives_up_what_is_kept(patch: pytest.MonkeyPatch) -> None:
    welcome = Door._welcome
    patch.setattr(Door, "_welcome", lambda self, known, accepted, kept=False: welcome(self, known, accepted))


@sabotage(restarts)
def outcomes_leave_no_rows(patch: pytest.MonkeyPatch) -> None:
    ended = Journal.ended

    def forgets(self: Journal, *about: Any) -> bool:
        kept = ended(self, *about)
        if kept:
            self._changes.outcomes.pop()
        return kept

    patch.setattr(Journal, "ended", forgets)


@sabotage(restarts)
def blobs_that_rows_name_do_not_outlive_the_coordinator(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machines, "blobs_of", lambda recovered: set())


@sabotage(late_results)
def a_result_counts_whatever_its_token(patch: pytest.MonkeyPatch) -> None:
    lease, results = Dealer._lease, Coordinator._results

    def leases(self: Dealer, job: Job, node: Node) -> None:
        lease(self, job, node)
        vars(self).setdefault("given", {})[job.token] = job

    def takes(self: Coordinator, node: Node, message: Finished) -> None:
        for token in message.tokens:
            job = vars(self._dealer).get("given", {}).get(token)
            if job is not None and job.token != token and job.state in (State.LEASED, State.RUNNING):
                job.node.leases.end(job.token)
                job.node, job.token = node, token
                node.leases.grant(job)
        results(self, node, message)

    patch.setattr(Dealer, "_lease", leases)
    patch.setattr(Coordinator, "_results", takes)


@sabotage(struck_commits)
def clients_are_told_before_it_is_on_disk(patch: pytest.MonkeyPatch) -> None:
    release = CoordinatorMachine._release

    def releases(self: CoordinatorMachine, turn: Turn) -> None:
        routes = self.coordinator._door._routes
        early = [e for e in turn.after_commit if type(e) is Send and isinstance(routes.get(e.route), Client)]
        for effect in early:
            self._perform(effect)
        turn.after_commit = [e for e in turn.after_commit if all(e is not sent for sent in early)]
        release(self, turn)

    patch.setattr(CoordinatorMachine, "_release", releases)


@sabotage(at_most_once, first=14)
def a_node_counts_its_lease_from_beats_that_nobody_has_acknowledged(patch: pytest.MonkeyPatch) -> None:
    due, greet = Dialer.due, Dialer.greet

    def counts(self: Dialer, out: list[Send], now: float) -> list[Send]:
        if any(type(send.message) in (Heartbeat, NodeHello) for send in out):
            self.leased_from = now
        return out

    patch.setattr(Dialer, "due", lambda self, now, *about: counts(self, due(self, now, *about), now))
    patch.setattr(Dialer, "greet", lambda self, now: counts(self, greet(self, now), now))
    patch.setattr(Agent, "_still_ours", lambda self, attempt: True)


@sabotage(at_most_once, first=21)
def a_welcome_renews_what_was_held_before_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Agent, "_still_ours", lambda self, attempt: True)


@sabotage(at_most_once)
def what_may_have_started_and_must_not_twice_is_queued_again(patch: pytest.MonkeyPatch) -> None:
    def again(job: Job, budget: int) -> bool:
        job.lost_nodes += 1
        return job.lost_nodes <= budget

    patch.setattr(retries, "after_lost_node", again)


@sabotage(doubtful_restarts)
def what_may_have_started_is_queued_again_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    rest = Adrift.rest

    def all_of_it(self: Adrift) -> tuple[list[Job], list[Job]]:
        free, doubtful = rest(self)
        return free + doubtful, []

    patch.setattr(Adrift, "rest", all_of_it)


@sabotage()
def nodes_are_not_reconciled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Coordinator, "_reconcile", lambda self, node, tokens: None)


@sabotage(out_of_order, first=11)
def link_takes_what_comes_late_or_twice(patch: pytest.MonkeyPatch) -> None:
    take = Link.take

    def takes(self: Link, header: Header, message: Message, now: float) -> Verdict:
        late = header.link == self.number and 0 < header.seq <= self.heard
        return Verdict.NEXT if late else take(self, header, message, now)

    patch.setattr(Link, "take", takes)


@sabotage(poison)
def an_attempt_that_is_known_to_be_over_is_taken_up_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(retries, "is_over", lambda job, attempt: False)


@sabotage(poison)
def poison_runs_on_and_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(retries, "after_crash", lambda job, memory: True)


@sabotage(full_queue, first=19)
def what_was_sent_before_the_word_to_go_on_was_read_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Client, "holds", property(lambda self: self.held))


@sabotage(full_queue, first=3)
def client_ignores_that_it_is_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClientSession, "_hold", lambda self, message, now: self._accept(message.through, now))


@sabotage(full_queue, first=15)
def client_forgets_the_first_of_what_was_held(patch: pytest.MonkeyPatch) -> None:
    take_back = ClientSession._take_back

    def takes(self: ClientSession) -> None:
        take_back(self)
        if self._unsent and self._held:
            self._unsent.rotate(-1)

    patch.setattr(ClientSession, "_take_back", takes)


@sabotage(full_memory)
def payloads_are_dropped_that_no_row_has(patch: pytest.MonkeyPatch) -> None:
    def relieves(self: Payloads, jobs: Iterable[Job], keeps: Any) -> None:
        for job in jobs:
            self.relieve(job)

    patch.setattr(Payloads, "bound", relieves)


@sabotage(deep_queue)
def payloads_stay_in_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Payloads, "relieve", lambda self, job: None)


@sabotage(limits)
def what_a_job_saves_is_not_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Coordinator, "_saved", lambda self, node, message: None)


@sabotage(limits, first=14)
def what_a_job_has_saved_is_not_on_disk(patch: pytest.MonkeyPatch) -> None:
    standing = Journal.standing

    def stands(self: Journal, job: Job) -> None:
        standing(self, job)
        kept = self._changes.standings.get(job.rank)
        if kept is not None:
            self._changes.standings[job.rank] = kept._replace(saved=b"")

    patch.setattr(Journal, "standing", stands)


@sabotage(limits, first=23)
def agent_does_not_say_again_what_an_attempt_had_saved_that_failed(patch: pytest.MonkeyPatch) -> None:
    welcome = Agent._welcome

    def welcomes(self: Agent, message: Welcome) -> None:
        welcome(self, message)
        self._states = [attempt for attempt in self._states if attempt.phase is not Phase.OWED]

    patch.setattr(Agent, "_welcome", welcomes)


@sabotage(limits)
def a_timeout_costs_no_retry(patch: pytest.MonkeyPatch) -> None:
    after_error = retries.after_error
    late = int(End.TIMED_OUT)
    patch.setattr(retries, "after_error", lambda job, failure, end: end == late or after_error(job, failure, end))


@sabotage(limits)
def agent_counts_the_time_of_an_attempt_from_its_arrival(patch: pytest.MonkeyPatch) -> None:
    limit = Agent._limit

    def limits(self: Agent, slot: Slot, attempt: Attempt) -> None:
        moved_at, slot.moved_at = slot.moved_at, attempt.arrived
        limit(self, slot, attempt)
        slot.moved_at = moved_at

    patch.setattr(Agent, "_limit", limits)


@sabotage(endings)
def a_restart_forgets_what_is_to_be_ended(patch: pytest.MonkeyPatch) -> None:
    restore = retries.restore

    def restores(job: Job, packed: bytes) -> None:
        restore(job, packed)
        job.cancel_wished = Wish.NONE

    patch.setattr(retries, "restore", restores)


@sabotage(endings)
def what_is_to_be_ended_runs_again_where_its_node_is_lost(patch: pytest.MonkeyPatch) -> None:
    push_back = Coordinator._push_back

    def pushes_back(self: Coordinator, jobs: list[Job], cause: str) -> None:
        for job in jobs:
            job.cancel_wished = Wish.NONE
        push_back(self, jobs, cause)

    patch.setattr(Coordinator, "_push_back", pushes_back)


@sabotage(drains)
def drained_nodes_are_given_work(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Roster, "bar", lambda self, name, clear_at: self.barred.update({name: clear_at}))


@sabotage(drains)
def a_restart_forgets_which_nodes_are_drained(patch: pytest.MonkeyPatch) -> None:
    setting = Journal.setting
    patch.setattr(
        Journal, "setting", lambda self, name, value: None if name[:7] == "drained" else setting(self, name, value)
    )


RULES = {
    "no token check": a_result_counts_whatever_its_token,
    "acknowledge before commit": clients_are_told_before_it_is_on_disk,
    "assign before commit": jobs_are_assigned_before_they_are_on_disk,
    "forget the spool": agent_forgets_unacknowledged_results_on_a_new_link,
    "renew unacknowledged assignments": a_node_counts_its_lease_from_beats_that_nobody_has_acknowledged,
    "drop a session's counter": the_counter_of_a_session_is_not_kept,
    "re-queue after a lost at-most-once": what_may_have_started_and_must_not_twice_is_queued_again,
    "release turns out of order": a_turn_without_rows_overtakes_one_that_is_not_on_disk,
    "skip reconciliation": nodes_are_not_reconciled,
}
"""The rules without which nothing else here would be worth its while, each with what breaks it."""


def found_by(name: str) -> tuple[int, str] | None:
    """The first seed that finds the sabotage out, and in which words."""
    _, plan, first = SABOTAGES[name]
    for seed in (*range(first, FOUND_WITHIN), *range(first)):
        failure = simulate(seed, plan(seed), tail=0).failure
        if failure:
            return seed, failure
    return None


@cache
def unbroken(seed: int, plan: Plan) -> Report:
    """Many sabotages are found in the same world."""
    return simulate(seed, plan)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks, plan, _ = SABOTAGES[name]
    breaks(monkeypatch)
    found = found_by(name)
    assert found is not None
    monkeypatch.undo()
    keeps_its_promises(unbroken(found[0], plan(found[0])))  # else it was something else that was found


def test_each_rule_has_its_sabotage() -> None:
    assert len(RULES) == 9
    assert {breaks.__name__ for breaks in RULES.values()} <= SABOTAGES.keys()
