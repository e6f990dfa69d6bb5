"""`Admission`: who is let in, who makes room, and what counts as one host."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from signedwire.config import TransportConfig
from signedwire.transport.admission import Admission, host_group


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
            assert doors.admit(key, f"192.0.2.{key}") == (True, None)
        assert doors.admit(3, "192.0.2.3") == (True, 0)
        assert doors.admit(4, "192.0.2.4") == (True, 1)
        assert len(doors) == 3

    def test_one_host_gets_few(self) -> None:
        doors = admission(unproven=10, per_host=2)
        assert doors.admit(0, "192.0.2.1") == (True, None)
        assert doors.admit(1, "::ffff:192.0.2.1") == (True, None)
        assert doors.admit(2, "192.0.2.1") == (False, None)
        assert doors.admit(3, "192.0.2.2") == (True, None)
        doors.leave(0)
        assert doors.admit(4, "192.0.2.1") == (True, None)

    def test_a_56_is_one_host(self) -> None:
        doors = admission(unproven=10, per_host=2)
        assert doors.admit(0, "2001:db8::1") == (True, None)
        assert doors.admit(1, "2001:db8:0:ff::2") == (True, None)
        assert doors.admit(2, "2001:db8:0:80::3") == (False, None)
        assert doors.admit(3, "2001:db8:0:100::3") == (True, None)

    def test_who_has_his_share_evicts_nobody(self) -> None:
        doors = admission(unproven=3, per_host=2)
        assert doors.admit(0, "192.0.2.9") == (True, None)
        assert doors.admit(1, "192.0.2.1") == (True, None)
        assert doors.admit(2, "192.0.2.1") == (True, None)
        assert doors.admit(3, "192.0.2.1") == (False, None)
        assert len(doors) == 3

    def test_loopback_is_exempt_from_the_share_alone(self) -> None:
        doors = admission(unproven=3, per_host=1)
        for key in range(3):
            assert doors.admit(key, "127.0.0.1") == (True, None)
        assert doors.admit(3, "127.0.0.1") == (True, 0)

    def test_an_evicted_one_gives_its_hosts_share_back(self) -> None:
        doors = admission(unproven=2, per_host=1)
        assert doors.admit(0, "192.0.2.1") == (True, None)
        assert doors.admit(1, "192.0.2.2") == (True, None)
        assert doors.admit(2, "192.0.2.3") == (True, 0)
        assert doors.admit(3, "192.0.2.1") == (True, 1)


class TestProven:
    def test_a_proven_one_counts_for_its_host_no_more(self) -> None:
        doors = admission(per_host=1)
        assert doors.admit(0, "192.0.2.1") == (True, None)
        assert doors.prove(0) is None
        assert doors.prove(0) is None
        assert doors.admit(1, "192.0.2.1") == (True, None)
        assert len(doors) == 2

    def test_a_stranger_never_takes_the_place_of_a_proven_one(self) -> None:
        doors = admission(unproven=1)
        assert doors.admit(0, "192.0.2.1") == (True, None)
        assert doors.prove(0) is None
        assert doors.admit(1, "192.0.2.2") == (True, None)
        assert doors.admit(2, "192.0.2.3") == (True, 1)

    def test_one_host_cannot_keep_all_places(self) -> None:
        doors = admission(proven=3, unproven=9, per_host=3)
        for key, host in enumerate(["192.0.2.1", "192.0.2.9", "192.0.2.1", "192.0.2.2"]):
            assert doors.admit(key, host) == (True, None)
        assert [doors.prove(key) for key in (0, 1, 2)] == [None, None, None]
        doors.touch(0)
        assert doors.prove(3) == 2, "the least recently used of the host with most places"
        assert len(doors) == 3

    def test_the_least_recently_used_makes_room(self) -> None:
        doors = admission(proven=2)
        for key in range(3):
            assert doors.admit(key, f"192.0.2.{key}") == (True, None)
        assert [doors.prove(0), doors.prove(1)] == [None, None]
        doors.touch(0)
        doors.touch(9)  # nobody
        assert doors.prove(2) == 1
        assert doors.prove(9) is None

    def test_leaving_twice_or_as_a_stranger(self) -> None:
        doors = admission()
        assert doors.admit(0, "192.0.2.1") == (True, None)
        for key in (0, 0, 9):
            doors.leave(key)
        assert len(doors) == 0
        assert doors._per_host == {}


class AdmissionMachine(RuleBasedStateMachine):
    """Unproven ones are a list of (key, group), oldest first."""

    HOSTS = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "127.0.0.1", "node-a")

    @initialize(proven=st.integers(1, 3), unproven=st.integers(1, 4), per_host=st.integers(1, 3))
    def start(self, proven: int, unproven: int, per_host: int) -> None:
        self.doors = admission(proven, unproven, per_host)
        self.limits = (proven, unproven, per_host)
        self.unproven: list[tuple[int, str | None]] = []
        self.proven: dict[int, str | None] = {}  # least recently used first
        self.count = 0

    @rule(host=st.sampled_from(HOSTS))
    def admit(self, host: str) -> None:
        _, unproven, per_host = self.limits
        group = host_group(host)
        share = sum(other == group for _, other in self.unproven)
        is_refused = group is not None and share >= per_host
        is_admitted, evicted = self.doors.admit(self.count, host)
        assert is_admitted == (not is_refused)
        if is_admitted:
            oldest = self.unproven.pop(0)[0] if len(self.unproven) >= unproven else None
            assert evicted == oldest
            self.unproven.append((self.count, group))
        else:
            assert evicted is None
        self.count += 1

    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        known = [key for key, _ in self.unproven] + sorted(self.proven)
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
            self.proven[key] = dict(self.unproven)[key]
            self.unproven = [entry for entry in self.unproven if entry[0] != key]
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
        self.unproven = [entry for entry in self.unproven if entry[0] != key]
        self.proven.pop(key, None)

    @invariant()
    def agrees_with_the_model(self) -> None:
        proven, unproven, _ = self.limits
        assert len(self.doors) == len(self.unproven) + len(self.proven)
        assert len(self.unproven) <= unproven
        assert len(self.proven) <= proven
        # No host is remembered that has no connection: memory is bounded.
        assert set(self.doors._per_host) == {g for _, g in self.unproven if g is not None}


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
