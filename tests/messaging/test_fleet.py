"""`Fleet`: names, roles and typed values between nodes on one memory network."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from signedwire import (
    ConfigError,
    DeliveryError,
    DeliveryState,
    Fleet,
    HandlerContext,
    Identity,
    MemoryNetwork,
    Message,
    MessageRefusedError,
    Outcomes,
    Reason,
    Receipt,
    RoutingTable,
    SchemaError,
    Silence,
    SilenceWatch,
    StoreError,
    TransportConfig,
    UnknownNameError,
    WrongContextError,
)
from tlskit import quick
from wirekit import ALICE, BOB, CAROL, LIMIT, eventually, identity, on_asyncio, on_both_loops

NAMES = {"base": ALICE.did, "robot-1": BOB.did, "robot-2": CAROL.did, "robot-9": identity(9).did}
ROLES = {"robot": ["robot-1", "robot-2"], "staff": ["base"]}


@dataclass
class Drive:
    speed: float


@dataclass
class EStop:
    reason: str = ""


@dataclass
class Status:
    battery: float


class Ground:
    """Makes fleets that know each other by name, and can meet in memory."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.routing = RoutingTable()

    def fleet(self, who: Identity, **arguments: Any) -> Fleet:
        changes = {"names": NAMES, "roles": ROLES} | arguments.pop("changes", {})
        return Fleet(who, quick(**changes), self.routing, network=self.network, **arguments)

    @contextlib.asynccontextmanager
    async def open(self, who: Identity, **arguments: Any) -> AsyncIterator[Fleet]:
        async with self.fleet(who, **arguments) as me:
            self.routing.update(who.did, me.node.address)
            yield me


async def refusal(receipt: Receipt) -> tuple[Reason, str]:
    with pytest.raises(DeliveryError) as refused:
        await receipt.wait("handled", LIMIT)
    return refused.value.reason, receipt.detail or ""


# -- handlers ------------------------------------------------------------------------------


@on_both_loops
async def test_a_handler_gets_the_value_and_the_message_is_handled_when_it_returns() -> None:
    ground = Ground()
    seen: list[tuple[object, HandlerContext]] = []
    go_on = asyncio.Event()
    async with ground.open(ALICE) as base, ground.open(BOB) as robot:

        @robot.on(Drive, allow="base")
        async def drive(command: Drive, context: HandlerContext) -> None:
            seen.append((command, context))
            await go_on.wait()

        receipt = await base.peer("robot-1").send(Drive(0.5))
        await eventually(lambda: seen)
        assert receipt.state is not DeliveryState.HANDLED
        go_on.set()
        await receipt.wait("handled", LIMIT)
        (value, context) = seen[0]
        assert (value, context.sender) == (Drive(0.5), "base")
        assert context.message.subject == "drive"
        assert (base.name, robot.name) == ("base", "robot-1")


@on_asyncio
async def test_what_is_refused_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "signedwire.fleet")
    ground = Ground()
    called: list[Drive] = []
    async with (
        ground.open(ALICE) as base,
        ground.open(BOB) as robot,
        ground.open(CAROL) as other,
    ):

        @robot.on(Drive, allow="staff")
        def drive(command: Drive) -> None:
            called.append(command)

        @robot.on("broken")
        def broken(message: Message) -> None:
            raise KeyError("secret")

        @robot.on("cancelled")
        async def cancelled() -> None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        @robot.on("late", type=bytes, within=0.0)
        def late(value: bytes) -> None:
            raise AssertionError("it is too old")

        to = base.peer("robot-1")
        assert await refusal(await other.peer("robot-1").send(Drive(1.0))) == (Reason.ROLE, "")
        reason, text = await refusal(await to.send({"speed": "x"}, subject="drive"))
        assert (reason, "$.speed" in text) == (Reason.MALFORMED, True)
        assert await refusal(await to.send(EStop())) == (Reason.UNKNOWN_SUBJECT, "")
        for subject, kind in (("broken", "KeyError"), ("cancelled", "CancelledError")):
            expected = (Reason.REFUSED, f"its handler failed: {kind}")
            assert await refusal(await to.send(None, subject=subject)) == expected
            # The next one is refused for the same reason: the task of the subject lives.
            assert await refusal(await to.send(None, subject=subject)) == expected
        reason, _ = await refusal(await to.send(b"x", subject="late"))
        assert reason in (Reason.EXPIRED, Reason.CLOCK_UNKNOWN)
        assert not called
        await to.send(Drive(2.0), until="handled")
        assert called == [Drive(2.0)]
    records = [each for each in caplog.records if each.name == "signedwire.fleet"]
    assert len(records) == 4
    assert "'broken'" in records[0].getMessage()
    assert "base" in records[0].getMessage()


@on_both_loops
async def test_a_slow_handler_delays_its_own_subject_alone() -> None:
    ground = Ground()
    order: list[float] = []
    stopped = asyncio.Event()
    go_on = asyncio.Event()
    async with ground.open(ALICE) as base, ground.open(BOB) as robot:

        @robot.on(Drive)
        async def drive(command: Drive) -> None:
            await go_on.wait()
            order.append(command.speed)

        @robot.on(EStop)
        async def stop(_: EStop) -> None:
            stopped.set()

        drives = [await base.peer("robot-1").send(Drive(float(n))) for n in range(20)]
        await base.peer("robot-1").send(EStop(), priority="critical", until="handled")
        assert stopped.is_set()
        assert not order
        go_on.set()
        await asyncio.gather(*(each.wait("handled", LIMIT) for each in drives))
        assert order == [float(n) for n in range(20)]


@on_asyncio
async def test_256_wait_for_a_handler_and_further_ones_are_refused() -> None:
    ground = Ground()
    go_on, begun = asyncio.Event(), asyncio.Event()
    async with ground.open(ALICE) as base, ground.open(BOB) as robot:

        @robot.on("slow")
        async def slow() -> None:
            begun.set()
            await go_on.wait()

        to = base.peer("robot-1")
        first = await to.send(None, subject="slow")
        await asyncio.wait_for(begun.wait(), LIMIT)
        receipts = [await to.send(None, subject="slow") for _ in range(257)]
        reason, text = await refusal(receipts[-1])
        assert (reason, text) == (Reason.INBOX_FULL, "256 messages wait for its handler")
        go_on.set()
        for receipt in (first, *receipts[:-1]):
            await receipt.wait("handled", LIMIT)


@on_asyncio
async def test_8_mib_wait_for_a_handler_and_further_messages_are_refused() -> None:
    ground = Ground()
    go_on, begun = asyncio.Event(), asyncio.Event()
    async with ground.open(ALICE) as base, ground.open(BOB) as robot:

        @robot.on("slow", type=bytes)
        async def slow() -> None:
            begun.set()
            await go_on.wait()

        to = base.peer("robot-1")
        first = await to.send(b"", subject="slow")
        await asyncio.wait_for(begun.wait(), LIMIT)
        large = [await to.send(bytes(2**20 - 4096), subject="slow") for _ in range(9)]
        assert await refusal(large[-1]) == (Reason.INBOX_FULL, "8 messages wait for its handler")
        go_on.set()
        for receipt in (first, *large[:-1]):
            await receipt.wait("handled", LIMIT)


@on_asyncio
async def test_a_message_that_expires_while_it_waits_is_not_handled() -> None:
    ground = Ground()
    go_on, begun = asyncio.Event(), asyncio.Event()
    values: list[bytes] = []
    async with ground.open(ALICE) as base, ground.open(BOB) as robot:

        @robot.on("slow", type=bytes)
        async def slow(value: bytes) -> None:
            values.append(value)
            begun.set()
            await go_on.wait()

        to = base.peer("robot-1")
        await to.send(b"first", subject="slow")
        await asyncio.wait_for(begun.wait(), LIMIT)
        second = await to.send(b"second", subject="slow", deadline=0.2, until="accepted")
        await asyncio.sleep(0.25)  # until the deadline has passed
        go_on.set()
        with contextlib.suppress(Exception):
            await second.wait("handled", LIMIT)
        assert second.state is not DeliveryState.HANDLED
        await to.send(b"third", subject="slow", until="handled")
        assert values == [b"first", b"third"]


def test_handlers_that_cannot_be_used() -> None:
    me = Ground().fleet(ALICE)

    @me.on(Drive)
    def drive(_: Drive) -> None: ...

    with pytest.raises(ValueError, match="'drive' has a handler already"):
        me.on("drive")(drive)
    with pytest.raises(TypeError, match="a handler is a function, not str"):
        me.on("x")("handler")  # type: ignore[type-var]
    with pytest.raises(UnknownNameError, match="Did you mean the role robot"):
        me.on(EStop, allow=("base", "robto"))
    with pytest.raises(UnknownNameError, match="Did you mean robot-9"):
        me.peer("robot9")
    with pytest.raises(TypeError, match="cannot be read: name 'Nowhere' is not defined"):

        @me.on("y")
        def wrong(_: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="the type itself"):
        me.on(EStop, type=EStop)


# -- calls ---------------------------------------------------------------------------------


@on_both_loops
async def test_calls_have_typed_arguments_and_results() -> None:
    ground = Ground()
    async with ground.open(ALICE) as base, ground.open(BOB) as robot:

        @robot.serve("get_battery", allow=("staff",))
        async def get_battery() -> float:
            return 0.5

        @robot.serve("faster")
        def faster(command: Drive, context: HandlerContext) -> Drive:
            assert context.sender == "base"
            return Drive(command.speed * 2)

        @robot.serve("raw")
        def raw(request: Message) -> bytes:
            return request.payload[::-1]

        @robot.serve("reset")
        def reset(_) -> None:  # type: ignore[no-untyped-def]
            return None

        @robot.serve("speeds")
        def speeds(count: int) -> list[Drive]:
            return [Drive(float(n)) for n in range(count)]

        to = base.peer("robot-1")
        assert await to.call("get_battery", returns=float, timeout=LIMIT) == 0.5
        assert await to.call("get_battery") == 0.5
        assert await to.call("faster", Drive(2.0), returns=Drive) == Drive(4.0)
        assert await to.call("raw", b"abc", returns=bytes) == b"cba"
        assert await to.call("reset") is None
        assert await to.call("speeds", 2, returns=list[Drive]) == [Drive(0.0), Drive(1.0)]
        with pytest.raises(SchemaError, match="expected str, got float"):
            await to.call("get_battery", returns=str)
        with pytest.raises(MessageRefusedError, match="expected `float`") as malformed:
            await to.call("faster", {"speed": "x"})
        assert malformed.value.reason is Reason.MALFORMED
        with pytest.raises(MessageRefusedError) as unknown:
            await to.call("nothing")
        assert unknown.value.reason is Reason.UNKNOWN_SUBJECT


@on_asyncio
async def test_a_call_of_a_sender_that_is_not_allowed_and_of_a_fleet_that_serves_nothing() -> None:
    ground = Ground()
    async with ground.open(BOB) as robot, ground.open(CAROL) as other:

        @robot.serve("get_battery", allow="base")
        def get_battery() -> float:
            raise AssertionError("robot-2 may not ask")

        with pytest.raises(MessageRefusedError) as role:
            await other.peer("robot-1").call("get_battery")
        assert role.value.reason is Reason.ROLE
        with pytest.raises(MessageRefusedError) as unknown:
            await robot.peer("robot-2").call("get_battery")
        assert unknown.value.reason is Reason.UNKNOWN_SUBJECT


# -- groups --------------------------------------------------------------------------------


@on_both_loops
async def test_a_group_is_sent_to_without_ourselves_and_the_failed_have_names() -> None:
    ground = Ground()
    async with ground.open(ALICE) as base, ground.open(BOB) as robot:
        stops: list[str] = []

        @robot.on(EStop, allow="base")
        def stop(value: EStop) -> None:
            stops.append(value.reason)

        group = base.group("robot")
        assert (list(group), len(group)) == (["robot-1", "robot-2"], 2)
        outcomes: Outcomes = await group.send(
            EStop("fire"), priority="critical", deadline=LIMIT, until="handled"
        )
        assert stops == ["fire"]
        assert outcomes.delivered == (BOB.did,)
        (member,) = outcomes.failed
        assert (member.did, member.name) == (CAROL.did, "robot-2")
        assert list(robot.group("robot")) == ["robot-2"]
        stranger = identity(77).did
        assert list(base.group(["robot-2", "staff", stranger])) == ["robot-2", str(stranger)]
        unnamed = await base.group([stranger]).send(EStop(), deadline=1)
        assert unnamed.failed[0].name is None


@on_both_loops
async def test_a_subscription_of_a_group_goes_on_when_a_member_refuses_or_comes_late(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ground = Ground()
    caplog.set_level(logging.WARNING, "signedwire.fleet")

    class Refuses:
        def admit(self, header: Any, context: Any) -> Reason | None:
            return Reason.SUBJECT_RULE if header.subject == "status" else None

    async with (
        ground.open(ALICE) as base,
        ground.open(BOB, policy=Refuses()),
        base.group("robot").subscribe("status", Status) as values,
    ):
        reading = asyncio.ensure_future(anext(values))
        await eventually(lambda: caplog.records)
        assert "robot-1" in caplog.records[0].getMessage()
        assert not reading.done()
        for battery in (0.5, 0.25):  # the second time, in a new process as it were
            async with ground.open(CAROL) as late:
                publisher = late.publisher("status", Status)
                while not len(await publisher.put(Status(battery))):
                    await asyncio.sleep(0.01)
                name, value, message = await asyncio.wait_for(reading, LIMIT)
                assert (name, value, message.subject) == ("robot-2", Status(battery), "status")
                reading = asyncio.ensure_future(anext(values))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@on_asyncio
async def test_a_subscription_that_all_have_refused_raises_and_one_of_nobody_ends() -> None:
    ground = Ground()

    class Refuses:
        def admit(self, header: Any, context: Any) -> Reason | None:
            return Reason.SUBJECT_RULE if header.subject == "status" else None

    async with ground.open(ALICE) as base, ground.open(BOB, policy=Refuses()):
        with pytest.raises(MessageRefusedError):
            await asyncio.wait_for(anext(base.group("robot-1").subscribe("status", Status)), LIMIT)
        assert [each async for each in base.group("base").subscribe("status", Status)] == []


@on_asyncio
async def test_a_value_is_handled_when_the_next_is_asked_for_and_latest_keeps_the_newest() -> None:
    ground = Ground()
    async with ground.open(ALICE) as base, ground.open(BOB) as robot:
        publisher = robot.publisher("status", Status, durable=False, priority="high")
        async with base.group("robot-1").subscribe("status", Status, latest=True) as values:
            first: Outcomes = await publisher.put(Status(1.0))
            while not len(first):
                await asyncio.sleep(0.01)
                first = await publisher.put(Status(1.0))
            assert (await anext(values))[1] == Status(1.0)
            assert first.receipts[0].state is not DeliveryState.HANDLED
            others = [await publisher.put(Status(float(n))) for n in range(2, 9)]
            for older in others[:-1]:
                await older.receipts[0].wait("handled", LIMIT)  # replaced by the next one
            assert others[-1].receipts[0].state is not DeliveryState.HANDLED
            _, value, message = await anext(values)
            assert (value, message.priority.name) == (Status(8.0), "HIGH")
            await first.receipts[0].wait("handled", LIMIT)
        await others[-1].receipts[0].wait("handled", LIMIT)  # at the end of the block


@on_asyncio
async def test_a_malformed_value_is_refused_and_the_next_one_read() -> None:
    ground = Ground()
    async with (
        ground.open(ALICE) as base,
        ground.open(BOB) as robot,
        base.group("robot-1").subscribe("status", Status) as values,
    ):
        wrong, right = robot.publisher("status", dict), robot.publisher("status", Status)
        outcomes = await wrong.put({})
        while not len(outcomes):
            await asyncio.sleep(0.01)
            outcomes = await wrong.put({})
        await right.put(Status(1.0))
        assert (await anext(values))[1] == Status(1.0)
        assert (await refusal(outcomes.receipts[0]))[0] is Reason.MALFORMED


@on_asyncio
async def test_stored_publications_wait_for_their_subscription(tmp_path: Path) -> None:
    ground = Ground()
    async with ground.open(BOB, store=tmp_path / "robot.db") as robot:
        status = robot.publisher("status", Status, durable=True)
        async with (
            ground.open(ALICE, store=tmp_path / "base.db") as base,
            base.node.subscribe("robot-1", "status"),
        ):
            outcomes = await status.put(Status(1.0))
            await outcomes.wait("accepted", LIMIT)
            await base.close()  # without having read it
        async with ground.open(ALICE, store=tmp_path / "base.db") as base:
            await asyncio.sleep(0.05)  # the dispatcher has taken it from the inbox by now
            async with base.group("robot").subscribe("status", Status) as values:
                assert (await asyncio.wait_for(anext(values), LIMIT))[1] == Status(1.0)
            await outcomes.receipts[0].wait("handled", LIMIT)


@on_asyncio
async def test_256_values_wait_to_be_read_and_close_refuses_all_that_were_not() -> None:
    ground = Ground()
    async with ground.open(ALICE) as base, ground.open(BOB) as robot:
        values = base.group("robot-1").subscribe("status", Status)
        reading = asyncio.ensure_future(anext(values))
        publisher = robot.publisher("status", Status)
        first = await publisher.put(Status(0.0))
        while not len(first):
            await asyncio.sleep(0.01)
            first = await publisher.put(Status(0.0))
        assert (await reading)[1] == Status(0.0)
        others = [await publisher.put(Status(float(n))) for n in range(1, 301)]
        await others[-1].wait("accepted", LIMIT)
        for n in range(1, 11):
            assert (await anext(values))[1] == Status(float(n))
        await eventually(lambda: len(values._items) == 256)
        await values.close()
        for outcomes in (others[10], others[299]):
            assert (await refusal(outcomes.receipts[0]))[0] is Reason.UNKNOWN_SUBJECT
        for outcomes in others[10:]:
            await outcomes.wait("handled", LIMIT)
            assert outcomes.failed
        with pytest.raises(StopAsyncIteration):
            await anext(values)
        await values.close()


@on_asyncio
async def test_a_subscription_ends_with_its_fleet() -> None:
    ground = Ground()
    async with ground.open(ALICE) as base:
        reading = asyncio.ensure_future(anext(base.group("robot").subscribe("status", Status)))
        await asyncio.sleep(0)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(reading, LIMIT)


# -- all else ------------------------------------------------------------------------------


@on_asyncio
async def test_queue_for_a_robot_that_was_never_met(tmp_path: Path) -> None:
    ground = Ground()
    async with ground.open(ALICE) as base:
        with pytest.raises(StoreError, match="needs a store, and this node has none"):
            await base.queue("robot-9", EStop())
    async with ground.open(ALICE, store=tmp_path / "base.db") as base:
        receipt = await base.queue("robot-9", EStop("mission"))
        assert receipt.state is DeliveryState.PERSISTED
    got: list[EStop] = []
    async with ground.open(identity(9)) as robot:
        robot.on(EStop)(got.append)
        async with ground.open(ALICE, store=tmp_path / "base.db"):
            await eventually(lambda: got)
    assert got == [EStop("mission")]


@on_asyncio
async def test_lost_is_on_silence_by_name() -> None:
    ground = Ground()
    found: list[Silence] = []
    async with ground.open(BOB) as robot:
        watch = robot.lost("base", after=0.1)(found.append)
        assert isinstance(watch, SilenceWatch)
        await eventually(lambda: found)
        assert found[0].did == ALICE.did


@on_asyncio
async def test_options_of_subjects_hold_for_publishers() -> None:
    ground = Ground()
    subjects = {"pose": {"priority": "high", "latest": True}}
    async with (
        ground.open(ALICE) as base,
        ground.open(BOB, changes={"subjects": subjects}) as robot,
    ):
        async with base.node.subscribe("robot-1", "pose") as pose:
            await robot.publisher("pose", float).put(1.5)
            message = await pose.receive(LIMIT)
            assert (message.priority.name, message.durable, message.payload) == (
                "HIGH",
                False,
                b"1.5",
            )
        with pytest.raises(ConfigError, match="contradicts durable=True"):
            robot.publisher("pose", float, latest=True, durable=True)


@on_asyncio
async def test_a_handler_that_runs_is_cancelled_at_the_end() -> None:
    ground = Ground()
    begun, ended = asyncio.Event(), asyncio.Event()
    async with ground.open(ALICE) as base:
        async with ground.open(BOB) as robot:

            @robot.on("slow")
            async def slow() -> None:
                begun.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()

            await base.peer("robot-1").send(None, subject="slow")
            await asyncio.wait_for(begun.wait(), LIMIT)
        assert ended.is_set()


def test_a_fleet_in_another_loop_says_so_and_goes_on_in_its_own() -> None:
    ground = Ground()
    home = asyncio.new_event_loop()
    me = ground.fleet(ALICE)

    @me.on("x")
    async def x() -> None: ...

    home.run_until_complete(me.start())

    async def elsewhere() -> None:
        with pytest.raises(WrongContextError):
            await me.close()
        with pytest.raises(WrongContextError):
            await me.group("robot").send(None, subject="x")

    asyncio.run(elsewhere())
    assert home.run_until_complete(me.group([]).send(None, subject="x")) == {}
    home.run_until_complete(me.close())
    home.run_until_complete(me.close())
    home.close()


@pytest.mark.parametrize(
    "thing",
    [
        lambda me: me,
        lambda me: me.peer("base"),
        lambda me: me.group("robot"),
        lambda me: me.publisher("status", Status),
        lambda me: me.group("robot").subscribe("status", Status),
    ],
)
def test_what_belongs_to_a_fleet_has_a_short_text_and_is_not_pickled(thing: Any) -> None:
    found = thing(Ground().fleet(BOB))
    assert len(repr(found)) < 60
    assert type(found).__name__ in repr(found)
    with pytest.raises(TypeError, match="can be neither pickled nor copied"):
        pickle.dumps(found)


# -- configuration -------------------------------------------------------------------------


def test_roles_are_checked_with_their_names() -> None:
    with pytest.raises(ConfigError, match=r"roles.robot: 'robot-3' is not a DID.*Did you mean rob"):
        TransportConfig(names=NAMES, roles={"robot": ["robot-1", "robot-3"]})
    with pytest.raises(ConfigError, match=r"roles.robot: 'robot-1' is no list"):
        TransportConfig(names=NAMES, roles={"robot": "robot-1"})
    with pytest.raises(ConfigError, match=r"roles.base: 'base' is the name of a peer too"):
        TransportConfig(names=NAMES, roles={"base": ["robot-1"]})
    TransportConfig(names=NAMES, roles={"base": ["base"]})  # both mean the same
    with pytest.raises(ConfigError, match="a key of roles is not allowed: 'Robot'"):
        TransportConfig(roles={"Robot": []})
    config = TransportConfig(names=NAMES, roles=ROLES)
    assert config.roles == {"robot": (BOB.did, CAROL.did), "staff": (ALICE.did,)}
    assert eval(repr(config), {"TransportConfig": TransportConfig}) == config
    assert hash(config) == hash(config.replace())
    with pytest.raises(ConfigError, match="roles are given twice"):
        Fleet(ALICE, config, roles=ROLES)
    with pytest.raises(ConfigError, match="ack='auto' is not for a Fleet"):
        Fleet(ALICE, TransportConfig(ack="auto"))


def test_a_fleet_of_a_file_and_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ALICE.save(tmp_path / "key.pem")
    path, peers = tmp_path / "base.toml", tmp_path / "peers.toml"
    path.write_text(
        f"identity = '{tmp_path / 'key.pem'}'\n[names]\nrobot-1 = '{BOB.did}'\n"
        "[roles]\nrobot = ['robot-1']\n"
    )
    peers.write_text("[peers]\nrobot-1 = '127.0.0.1:9'\n")
    monkeypatch.setenv("SIGNEDWIRE_PEERS", str(peers))
    me = Fleet.from_file(path)
    assert (me.node.did, list(me.group("robot"))) == (ALICE.did, ["robot-1"])
    assert BOB.did in me.node.routing
    monkeypatch.setenv("SIGNEDWIRE_CONFIG", str(path))
    assert list(Fleet.from_env().group("robot")) == ["robot-1"]
    monkeypatch.setenv("SIGNEDWIRE_ROLES", '{ crew = ["robot-1"] }')
    assert list(Fleet.from_env().group("crew")) == ["robot-1"]
