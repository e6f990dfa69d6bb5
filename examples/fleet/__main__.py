"""Start the fleet, disturb it, print a summary: `python -m examples.fleet [ROBOTS SECONDS]`."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from typing import Any

from signedwire import Identity


class Stage:
    """A folder with keys and configurations, and the processes that use them."""

    def __init__(self, folder: Path, robots: list[str]) -> None:
        self.folder, self.names = folder, ["base", "console", "auditor", *robots]
        self.processes: dict[str, Popen[bytes]] = {}
        keys = {name: Identity.generate() for name in self.names}
        with ExitStack() as held:
            servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in keys]
            at = {n: f"127.0.0.1:{s.getsockname()[1]}" for n, s in zip(keys, servers, strict=True)}
        peers = "\n".join(f"{name} = '{at[name]}'" for name in keys)
        (folder / "peers.toml").write_text(f"[peers]\n{peers}\n")
        dids = "\n".join(f"{name} = '{key.did}'" for name, key in keys.items())
        shared = f"[names]\n{dids}\n[roles]\nrobot = {robots}\noperator = ['console']\n"
        shared += Path(__file__).with_name("subjects.toml").read_text()
        for name, key in keys.items():
            key.save(folder / f"{name}.pem")
            file = "evidence" if name == "auditor" else "store"
            own = f"identity = '{name}.pem'\nlisten = '{at[name]}'\n{file} = '{name}.{file}'\n"
            (folder / f"{name}.toml").write_text(own + shared)

    def start(self, *names: str) -> None:
        environment = os.environ | {"SIGNEDWIRE_PEERS": "peers.toml"}
        for name in names:
            command = [sys.executable, str(Path(__file__).with_name("members.py")), name]
            with (self.folder / f"{name}.out").open("ab") as out:
                process = Popen(command, cwd=self.folder, env=environment, stdin=PIPE, stdout=out)
            self.processes[name] = process

    def news(self, name: str, key: str, since: float = 0, before: float = 1e12) -> list[Any]:
        """Return what a process has printed about something."""
        told = map(json.loads, (self.folder / f"{name}.out").read_text().split("\n")[:-1])
        return [each[key] for each in told if key in each and since < each["at"] < before]

    def close(self, *names: str) -> None:
        for name in names or self.processes:
            self.processes[name].kill()
            self.processes[name].wait()


def wait_until(is_true: Callable[[], object]) -> float:
    while not is_true():
        time.sleep(0.1)
    return time.time()


def run(stage: Stage, robots: list[str], seconds: float) -> None:
    """Let the fleet work; then kill the base, freeze a robot, and print a summary."""
    news, count = stage.news, len(robots)
    stage.start(*stage.names)
    began = wait_until(lambda: any(len(each) == count for each in news("console", "handled")))
    time.sleep(seconds)
    ended = time.time()
    stage.close("base")
    time.sleep(1.5)
    stage.start("base")
    back = wait_until(lambda: any(news("base", "received", ended)[1:]))
    stage.processes["robot-1"].send_signal(signal.SIGSTOP)
    wait_until(lambda: any(news("console", "failed", back)))
    stage.processes["robot-1"].send_signal(signal.SIGCONT)
    wait_until(lambda: news("console", "failed", back)[-1:] == [{}])

    one_way = [each for name in robots for each in news(name, "one_way", began, ended)]
    handled = [each for some in news("console", "handled", began, ended) for each in some]
    for what, values in ("one way", sorted(one_way)), ("handled", sorted(handled)):
        half, most = (1000 * values[int(len(values) * share)] for share in (0.5, 0.99))
        print(f"E-stop {what}: p50 {half:.1f} ms, p99 {most:.1f} ms, of {len(values)}")
    rates = sorted(each.get("telemetry", 0) for each in news("base", "received", began, ended))
    print(f"telemetry: {rates[len(rates) // 2] / count:.0f} Hz from each robot")
    alone = [name for name in robots if news(name, "alone", ended, back)]
    print(f"stopped by themselves, without the base: {len(alone)} of {count} robots")
    print("E-stop to a frozen robot:", *filter(None, news("console", "failed", back)))
    print(f"signed status at the auditor: {len(set(news('auditor', 'status_of')))} robots")
    print(f"battery told: {len(set(news('console', 'battery_of')))} robots")


if __name__ == "__main__":
    count, seconds = map(int, sys.argv[1:] or (8, 10))
    names = [f"robot-{number}" for number in range(1, count + 1)]
    with TemporaryDirectory() as folder, closing(Stage(Path(folder), names)) as stage:
        run(stage, names, seconds)
