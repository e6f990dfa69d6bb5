"""`Admission`: who is let in, who makes room, and what counts as one host."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from signedwire.config import TransportConfig
from signedwire.transport.admission import Admission
from signedwire.transport.socket_addresses import host_group


def admission(proven: int = 3, unproven: int = 3, per_host: int = 2) -> Admission[int]:
    return Admission(
        TransportConfig(
            max_inbound_connections=proven,
            max_unproven_connections=unproven,
            max_unproven_per_host=per_host,
        )
    )


class TestHostGroup:
    @pytest.mark.parametrize(
        ("host", "group"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:23ff::5", "2001:db8:1:2300::/56"),
            ("2001:db8:1:2300:a:b:c:d", "2001:db8:1:2300::/56"),
            ("2001:db8:1:2400::", "2001:db8:1:2400::/56"),
            ("fe80::1%eth0", "fe80::/56"),
            ("127.0.0.1", None),
            ("127.255.0.9", None),
            ("::1", None),
            ("::ffff:127.0.0.1", None),
            ("node-a", "node-a"),
            ("unknown", "unknown"),
        ],
    )
    def test_of(self, host: str, group: str | None) -> None:
        assert host_group(host) == group


class TestUnproven:
    def test_as_many_as_fit_then_the_oldest_makes_room(self) -> None:
        doors = admission(unproven=3)
        for key in range(3):
            assert doors.admit(key, host_group(f"192.0.2.{key}")) == (None, None)
        assert doors.admit(3, host_group("192.0.2.3")) == (None, 0)
        assert doors.admit(4, host_group("192.0.2.4")) == (None, 1)
        assert len(doors) == 3

    def test_the_oldest_of_a_host_that_has_its_share_makes_room(self) -> None:
        doors = admission(unproven=10, per_host=2)
        assert doors.admit(0, host_group("192.0.2.2")) == (None, None)
        assert doors.admit(1, host_group("192.0.2.1")) == (None, None)
        assert doors.admit(2, host_group("::ffff:192.0.2.1")) == (None, None)
        assert doors.admit(3, host_group("192.0.2.1")) == (1, None), (
            "the oldest of that host, not of all"
        )
        doors.leave(2)
        assert doors.admit(4, host_group("192.0.2.1")) == (None, None)
        assert doors.admit(5, host_group("192.0.2.1")) == (3, None)

    def test_who_made_room_may_still_prove_itself(self) -> None:
        doors = admission(unproven=10, per_host=1)
        assert doors.admit(0, host_group("192.0.2.1")) == (None, None)
        assert doors.admit(1, host_group("192.0.2.1")) == (0, None)
        assert doors.prove(0) is None
        doors.touch(0)
        assert doors.admit(2, host_group("192.0.2.1")) == (1, None), "a proven one has no share"
        assert len(doors) == 3

    def test_a_last_moment_lasts_while_nobody_needs_the_place(self) -> None:
        doors = admission(unproven=4, per_host=1)
        assert doors.admit(0, host_group("192.0.2.9")) == (None, None)
        for key, hurried in ((1, None), (2, 1), (3, 2)):
            assert doors.admit(key, host_group("192.0.2.1")) == (hurried, None)
        assert doors.admit(4, host_group("192.0.2.2")) == (None, 1), "not 0, though it is older"
        assert doors.admit(5, host_group("192.0.2.1")) == (3, 2)
        assert len(doors) == 4

    def test_the_host_with_most_last_moments_loses_one_first(self) -> None:
        doors = admission(unproven=5, per_host=1)
        for key, host in enumerate(["192.0.2.2", "192.0.2.2", *["192.0.2.1"] * 3]):
            doors.admit(key, host_group(host))
        assert doors.admit(5, host_group("192.0.2.3")) == (None, 2)

    def test_who_is_hurried_and_closed_at_once_is_told_of_once(self) -> None:
        doors = admission(unproven=1, per_host=1)
        assert doors.admit(0, host_group("192.0.2.1")) == (None, None)
        assert doors.admit(1, host_group("192.0.2.1")) == (None, 0)

    def test_a_56_is_one_host(self) -> None:
        doors = admission(unproven=10, per_host=2)
        assert doors.admit(0, host_group("2001:db8::1")) == (None, None)
        assert doors.admit(1, host_group("2001:db8:0:ff::2")) == (None, None)
        assert doors.admit(2, host_group("2001:db8:0:80::3")) == (0, None)
        assert doors.admit(3, host_group("2001:db8:0:100::3")) == (None, None)

    def test_who_has_his_share_evicts_nobody_else(self) -> None:
        doors = admission(unproven=3, per_host=2)
        assert doors.admit(0, host_group("192.0.2.9")) == (None, None)
        assert doors.admit(1, host_group("192.0.2.1")) == (None, None)
        assert doors.admit(2, host_group("192.0.2.1")) == (None, None)
        assert doors.admit(3, host_group("192.0.2.1")) == (None, 1)
        assert len(doors) == 3

    def test_loopback_is_exempt_from_the_share_alone(self) -> None:
        doors = admission(unproven=3, per_host=1)
        for key in range(3):
            assert doors.admit(key, host_group("127.0.0.1")) == (None, None)
        assert doors.admit(3, host_group("127.0.0.1")) == (None, 0)

    def test_an_evicted_one_gives_its_hosts_share_back(self) -> None:
        doors = admission(unproven=2, per_host=1)
        assert doors.admit(0, host_group("192.0.2.1")) == (None, None)
        assert doors.admit(1, host_group("192.0.2.2")) == (None, None)
        assert doors.admit(2, host_group("192.0.2.3")) == (None, 0)
        assert doors.admit(3, host_group("192.0.2.1")) == (None, 1)


class TestProven:
    def test_a_proven_one_counts_for_its_host_no_more(self) -> None:
        doors = admission(per_host=1)
        assert doors.admit(0, host_group("192.0.2.1")) == (None, None)
        assert doors.prove(0) is None
        assert doors.prove(0) is None
        assert doors.admit(1, host_group("192.0.2.1")) == (None, None)
        assert len(doors) == 2

    def test_a_stranger_never_takes_the_place_of_a_proven_one(self) -> None:
        doors = admission(unproven=1, per_host=1)
        assert doors.admit(0, host_group("192.0.2.1")) == (None, None)
        assert doors.prove(0) is None
        assert doors.admit(1, host_group("192.0.2.2")) == (None, None)
        assert doors.admit(2, host_group("192.0.2.3")) == (None, 1)

    def test_one_host_cannot_keep_all_places(self) -> None:
        doors = admission(proven=3, unproven=9, per_host=3)
        for key, host in enumerate(["192.0.2.1", "192.0.2.9", "192.0.2.1", "192.0.2.2"]):
            assert doors.admit(key, host_group(host)) == (None, None)
        assert [doors.prove(key) for key in (0, 1, 2)] == [None, None, None]
        doors.touch(0)
        assert doors.prove(3) == 2, "the least recently used of the host with most places"
        assert len(doors) == 3

    def test_the_least_recently_used_makes_room(self) -> None:
        doors = admission(proven=2)
        for key in range(3):
            assert doors.admit(key, host_group(f"192.0.2.{key}")) == (None, None)
        assert [doors.prove(0), doors.prove(1)] == [None, None]
        doors.touch(0)
        doors.touch(9)  # nobody
        assert doors.prove(2) == 1
        assert doors.prove(9) is None

    def test_leaving_twice_or_as_a_stranger(self) -> None:
        doors = admission()
        assert doors.admit(0, host_group("192.0.2.1")) == (None, None)
        for key in (0, 0, 9):
            doors.leave(key)
        assert len(doors) == 0
        assert doors.evict_unproven() is None
        assert doors._per_host == {}


class AdmissionMachine(RuleBasedStateMachine):
    """Unproven ones are a list of (key, group), oldest first."""

    HOSTS = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "127.0.0.1", "node-a")

    @initialize(proven=st.integers(1, 3), unproven=st.integers(1, 4), per_host=st.integers(1, 3))
    def start(self, proven: int, unproven: int, per_host: int) -> None:
        per_host = min(per_host, unproven)
        self.doors = admission(proven, unproven, per_host)
        self.limits = (proven, unproven, per_host)
        self.unproven: list[tuple[int, str | None]] = []
        self.leaving: list[tuple[int, str | None]] = []
        self.proven: dict[int, str | None] = {}  # least recently used first
        self.count = 0

    @rule(host=st.sampled_from(HOSTS))
    def admit(self, host: str) -> None:
        _, unproven, per_host = self.limits
        group = host_group(host)
        same = [entry for entry in self.unproven if entry[1] == group]
        hurried = closed = None
        if group is not None and len(same) >= per_host:
            hurried = same[0][0]
            self.unproven.remove(same[0])
            self.leaving.append(same[0])
        if len(self.unproven) + len(self.leaving) >= unproven:
            closed = self.next_to_go()
            self.leave_model(closed)
        self.unproven.append((self.count, group))
        expected = (None if hurried == closed else hurried, closed)
        assert self.doors.admit(self.count, host_group(host)) == expected
        self.count += 1

    def next_to_go(self) -> int:
        if not self.leaving:
            return self.unproven[0][0]
        hosts = [group for _, group in self.leaving]
        most = max(map(hosts.count, hosts))
        return next(key for key, group in self.leaving if hosts.count(group) == most)

    def leave_model(self, key: int) -> None:
        self.unproven = [entry for entry in self.unproven if entry[0] != key]
        self.leaving = [entry for entry in self.leaving if entry[0] != key]
        self.proven.pop(key, None)

    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        known = [key for key, _ in self.unproven + self.leaving] + sorted(self.proven)
        if not known:
            return
        key = data.draw(st.sampled_from(known))
        expected = None
        if key not in self.proven:
            if len(self.proven) >= self.limits[0]:
                hosts = list(self.proven.values())
                most = max(map(hosts.count, hosts))
                expected = next(k for k, h in self.proven.items() if hosts.count(h) == most)
                del self.proven[expected]
            group = dict(self.unproven + self.leaving)[key]
            self.leave_model(key)
            self.proven[key] = group
        assert self.doors.prove(key) == expected

    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        key = data.draw(st.integers(0, self.count))
        self.doors.touch(key)
        if key in self.proven:
            self.proven[key] = self.proven.pop(key)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        key = data.draw(st.integers(0, self.count))
        self.doors.leave(key)
        self.leave_model(key)

    @rule()
    def evict(self) -> None:
        expected = self.next_to_go() if self.unproven or self.leaving else None
        assert self.doors.evict_unproven() == expected
        if expected is not None:
            self.leave_model(expected)

    @invariant()
    def agrees_with_the_model(self) -> None:
        proven, unproven, _ = self.limits
        assert len(self.doors) == len(self.unproven) + len(self.leaving) + len(self.proven)
        assert len(self.unproven) + len(self.leaving) <= unproven
        assert len(self.proven) <= proven
        # No host is remembered that has no connection: memory is bounded.
        assert set(self.doors._per_host) == {g for _, g in self.unproven if g is not None}


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
