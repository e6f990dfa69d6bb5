"""Defaults of subjects: `[subjects.NAME]`, and which arguments have precedence."""

from __future__ import annotations

import copy
import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest

from signedwire import ConfigError, Node, Priority, SubjectOptions, TransportConfig, load_config
from signedwire.cli import main
from signedwire.sending import Choice
from signedwire.settings import find_faults
from wirekit import ALICE

POSE = SubjectOptions(latest=True, priority="low", deadline=0.1)
FILE = """
[subjects.pose]
latest = true
priority = "low"
deadline = 0.1

[subjects."arm/left"]
durable = true
"""


def choose(subjects: dict[str, Any], subject: str = "pose", **given: Any) -> Choice:
    node = Node(ALICE, TransportConfig(subjects=subjects))
    values: dict[str, Any] = {"priority": None, "durable": None, "deadline": None, **given}
    return node._sending.choose(subject, **values)


class TestDefaults:
    def test_those_of_the_subject(self) -> None:
        found = choose({"pose": POSE})
        assert (found.priority, found.is_durable, found.latest) == (Priority.LOW, False, b"")
        assert found.expires_at is not None

    def test_those_of_other_subjects(self) -> None:
        assert choose({"pose": POSE}, "status") == (Priority.NORMAL, True, None, None)
        assert choose({"": {"priority": "high"}}, "").priority is Priority.HIGH

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"priority": "critical"}, (Priority.CRITICAL, False, b"")),
            ({"priority": Priority.NORMAL}, (Priority.NORMAL, False, b"")),
            ({"durable": True}, (Priority.LOW, True, None)),
            ({"durable": False}, (Priority.LOW, False, b"")),
            ({"latest": "key"}, (Priority.LOW, False, b"key")),
            ({"latest": False}, (Priority.LOW, False, None)),
        ],
        ids=str,
    )
    def test_an_argument_wins(self, given: dict[str, Any], expected: tuple[Any, ...]) -> None:
        found = choose({"pose": POSE}, **given)
        assert (found.priority, found.is_durable, found.latest) == expected

    def test_a_contradiction_with_an_argument(self) -> None:
        with pytest.raises(ValueError, match="durable=False too"):
            choose({"pose": {"durable": True}}, latest="key")

    def test_without_a_table(self) -> None:
        assert choose({}) == (Priority.NORMAL, True, None, None)
        assert choose({}, latest="key")[1:] == (False, None, b"key")
        assert choose({}, durable=False)[1:] == (False, None, None)


class TestFile:
    def test_it_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "signedwire.toml"
        path.write_text(FILE)
        config = load_config(path, {})
        assert dict(config.subjects) == {"pose": POSE, "arm/left": SubjectOptions(durable=True)}
        assert config == TransportConfig(subjects=tomllib.loads(FILE)["subjects"])

    def test_a_variable_has_an_inline_table(self) -> None:
        config = load_config(environ={"SIGNEDWIRE_SUBJECTS": "{ pose = { durable = false } }"})
        assert dict(config.subjects) == {"pose": SubjectOptions(durable=False)}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[subjects.pose]\nlatest = true\ndurable = true", "subjects.pose: latest=True contr"),
            ("[subjects.pose]\ndurabel = true", "subjects.pose: unknown key 'durabel'"),
            ("[subjects.pose]\npriority = 'urgent'", "subjects.pose: priority='urgent' is unkn"),
            ("[subjects.pose]\npriority = []", "subjects.pose: priority="),
            ("[subjects.pose]\ndeadline = -1", "subjects.pose: deadline -1 is not a positive"),
            ("[subjects.pose]\ndeadline = '1s'", "subjects.pose: deadline='1s' is no number"),
            ("[subjects.pose]\nlatest = 1", "subjects.pose: latest=1 is of type int"),
            ("[subjects.pose]\nlatest = ''", "subjects.pose: latest='' has 0 bytes"),
            ("[subjects.pose]\ndurable = 'no'", "subjects.pose: durable='no' is neither"),
            ("[subjects]\npose = 1", "subjects.pose: 1 is no table"),
            ('[subjects."a\\nb"]', "a key of subjects is not allowed: subject='a"),
            ("subjects = 3", "subjects=3 is not allowed"),
        ],
        ids=str,
    )
    def test_an_error_names_the_file_and_the_key(
        self, tmp_path: Path, text: str, words: str
    ) -> None:
        path = tmp_path / "signedwire.toml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(path, {})
        assert caught.value.fact.startswith(f"{path}: {words}")
        assert len(find_faults(path, {})) == 1

    def test_a_key_that_is_misspelled_has_a_hint(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean deadline"):
            TransportConfig(subjects={"pose": {"deadlin": 1}})

    def test_config_show_prints_what_can_be_read_again(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = tmp_path / "signedwire.toml"
        path.write_text(FILE)
        monkeypatch.setattr("sys.argv", ["signedwire", "config", "show", "--config", str(path)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        printed = capsys.readouterr().out
        (line,) = (line for line in printed.splitlines() if line.startswith("subjects = "))
        again = tomllib.loads(line)["subjects"]
        assert TransportConfig(subjects=again) == load_config(path, {})


def test_a_configuration_stays_a_value() -> None:
    config = TransportConfig(subjects={"pose": POSE})
    assert hash(config) == hash(TransportConfig(subjects={"pose": POSE}))
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config
    assert config.replace(listen=None).subjects == config.subjects
    assert "subjects={'pose': SubjectOptions(" in repr(config)
    assert "subjects" not in repr(TransportConfig())
