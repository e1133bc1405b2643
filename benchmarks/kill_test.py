"""Kills runs, starts them again, and holds what comes out against a run that nobody killed.

    python benchmarks/kill_test.py --kills=40             # train, audit, compare, export
    python benchmarks/kill_test.py --kills=4 --workers=2  # kills one of two training workers

Small runs get SIGKILL at every rename and first write of each command (`kill_hook.py`), at some of
those of the processes that `mtard-compare --jobs=2` starts, and at random moments; each time the
same command is run again. In the end weights, `metrics.jsonl`, `stage.json`, reports, the
comparison and the exported model's logits must equal those of runs that nobody killed, to the bit,
and no checkpoint, audited batch or finished part may be lost on the way. Prints one line per kill;
exits with 1 if anything differs or was lost.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from kill_outcomes import differences, kept
from small_run import CONFIG, DATA, ROOT, SUITE, free_port

HERE = pathlib.Path(__file__).parent
JOB_KILLS = 5  # moments of the jobs of mtard-compare, which are those of training and auditing
AT_RANDOM = 10  # kills at random moments, at least
# Two stages, and few steps: the processes take longer to start than to train.
COMPARED = """
include 'run.gin'
Experiment.stages = ('clean_teacher', 'robust_teacher')
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="at least so many")
    parser.add_argument("--chosen", type=int, help="at most so many moments; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="training processes")
    return parser.parse_args()


class Runs:
    """The commands of a run, and of one that is compared as it is trained."""

    def __init__(self, folder: pathlib.Path, name: str, workers: int) -> None:
        self.folder, self.root, self.workers = folder, folder / name, workers
        self.root.mkdir()
        self.seen = folder / f"{name}.seen"
        self.seen.touch()
        self.deadly = folder / f"{name}.deadly"
        self.log = (folder / f"{name}.log").open("ab")

    def commands(self) -> dict[str, list[list[str]]]:
        """Name -> the processes that run side by side."""
        run, compared = (f"--run_dir={self.root / name}" for name in ("run", "compared"))
        train = ["train", f"--config={self.folder / 'run.gin'}", run]
        suite = f"--suite={self.folder / 'suite.gin'}"
        if self.workers > 1:
            ports = ",".join(f"localhost:{free_port()}" for _ in range(self.workers))
            flags = ["--strategy=multi_worker", f"--workers={ports}"]
            return {"train": [[*train, *flags, f"--index={i}"] for i in range(self.workers)]}
        config = f"--config={self.folder / 'compared.gin'}"
        return {
            "train": [train],
            "eval": [["eval", run, suite, "--batch_size=20"]],
            "compare": [["compare", config, compared, suite, "--jobs=2"]],
            "export": [["export", run, "--stage=student"]],
        }

    def attempt(self, name: str, delay: float | None = None, victim: int = 0) -> bool:
        """Runs a command; kills one of its processes `delay` seconds after its first moment.

        Returns:
          Whether it ended well, and was not killed.
        """
        begun, working = self.seen.stat().st_size, None
        environment = os.environ | {
            "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "KILL_FOLDER": str(self.root),
            "KILL_SEEN": str(self.seen),
            "KILL_AT": str(self.deadly) if self.deadly.exists() else os.devnull,
            "KILL_AFTER": str(victim % 2),
            "KILL_COMMAND": name,
        }
        running = [
            subprocess.Popen(
                [sys.executable, "-m", f"mtard_tf.bin.{command[0]}", *command[1:]],
                **dict(env=environment, cwd=self.folder, stdout=self.log, stderr=self.log),
                start_new_session=True,
            )
            for command in self.commands()[name]
        ]
        while any(process.poll() is None for process in running):
            if delay is not None and working is None and self.seen.stat().st_size > begun:
                working = time.monotonic()
            if working is not None and time.monotonic() - working > (delay or 0.0):
                os.killpg(running[victim % len(running)].pid, signal.SIGKILL)
                time.sleep(1 if len(running) > 1 else 0)
                break
            time.sleep(0.005)
        codes = [process.poll() for process in running]
        for process in running:  # what a scheduler does with the others
            process.kill()
            process.wait()
        fine = {0, -signal.SIGKILL, None}
        if -signal.SIGKILL in codes and len(running) > 1:
            fine.add(75)  # what a worker says whose fellow is gone: run it again
        if not fine.issuperset(codes):
            lines = pathlib.Path(self.log.name).read_text(errors="replace").splitlines()
            print(*lines[-20:], sep="\n")
            raise SystemExit(f"{name} failed: {codes}.")
        return codes == [0] * len(codes)

    def moments(self) -> list[str]:
        """All moments that were passed."""
        return list(dict.fromkeys(self.seen.read_text().splitlines()))


class Killer:
    """Kills the commands of `Runs` and counts."""

    def __init__(self, runs: Runs, numbers: random.Random) -> None:
        self._runs, self._numbers = runs, numbers
        self.kills, self.lost = 0, []

    def chosen(self, name: str, moments: list[str]) -> None:
        """Runs a command again and again until none of the moments comes any more."""
        left = list(moments)
        while True:
            self._runs.deadly.write_text("\n".join(left))
            seen = self._runs.seen.read_text().splitlines()
            if self._step(name, None):
                return
            new = self._runs.seen.read_text().splitlines()[len(seen) :]
            hit = [moment for moment in new if moment in left]
            assert hit, (name, new)
            left = [moment for moment in left if moment not in hit]
            self._say(hit[-1])

    def at_random(self, name: str, seconds: float) -> bool:
        """Kills a command within so many seconds of its first moment, if it lasts so long."""
        self._runs.deadly.write_text("")
        ended = self._step(name, self._numbers.uniform(0.0, seconds))
        if not ended:
            self._say(f"{name}: at random")
        return ended

    def _step(self, name: str, delay: float | None) -> bool:
        before = kept(self._runs.root)
        ended = self._runs.attempt(name, delay, self.kills)
        after = kept(self._runs.root)
        self.lost += [
            f"{k}: {v} -> {after.get(k)}" for k, v in before.items() if after.get(k, 0) < v
        ]
        return ended

    def _say(self, what: str) -> None:
        self.kills += 1
        done = "" if self.kills % 2 else ", before it"
        print(f"kill {self.kills:2}: {what}{done if 'rename' in what else ''}", flush=True)


def choose(moments: list[str], most: int | None, numbers: random.Random) -> dict[str, list[str]]:
    """Command -> its moments; of those of jobs, and of all where there is a limit, some by lot."""
    jobs = [moment for moment in moments if moment.startswith("job: ")]
    taken = [moment for moment in moments if moment not in jobs]
    taken += numbers.sample(jobs, min(JOB_KILLS, len(jobs)))
    if most is not None:
        taken = numbers.sample(taken, min(most, len(taken)))
    by_command: dict[str, list[str]] = {}
    for moment in moments:
        if moment in taken:
            command = moment.split(":")[0].replace("job", "compare")
            by_command.setdefault(command, []).append(moment)
    return by_command


def main() -> None:
    args = parse()
    numbers = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        (folder / "run.gin").write_text(CONFIG + "Stage.epochs = 4\n")
        (folder / "compared.gin").write_text(COMPARED)
        (folder / "suite.gin").write_text(SUITE)
        (folder / "kill_test_data.py").write_text(DATA)
        shutil.copy(HERE / "kill_hook.py", folder / "sitecustomize.py")
        whole = Runs(folder, "whole", args.workers)
        seconds = {}
        for command in whole.commands():
            started = time.monotonic()
            assert whole.attempt(command)
            seconds[command] = time.monotonic() - started
        print("unkilled:", ", ".join(f"{k} {v:.0f} s" for k, v in seconds.items()), flush=True)
        every = whole.moments() if args.workers == 1 else []
        moments = choose(every, args.chosen, numbers)
        planned = sum(map(len, moments.values()))
        wanted = max(args.kills, planned + (AT_RANDOM if args.chosen is None else 1))
        done, found, lost, rounds = 0, [], [], 0
        while done < wanted:
            rounds += 1
            runs = Runs(folder, f"killed{rounds}", args.workers)
            killer = Killer(runs, numbers)
            for command, took in seconds.items():
                if rounds == 1 and planned:
                    killer.chosen(command, moments.get(command, []))
                    continue
                for _ in range(-(-(wanted - done) // len(seconds))):
                    if done + killer.kills == wanted or killer.at_random(command, took / 2):
                        break
                killer.chosen(command, [])
            done += killer.kills
            lost += killer.lost
            found += differences(runs.root, whole.root)
        print(f"{done} kills in {rounds} runs, {planned} of them at chosen moments;", end=" ")
        print(f"differences: {', '.join(found) or 'none'}; lost: {', '.join(lost) or 'nothing'}")
    sys.exit(bool(found or lost))


if __name__ == "__main__":
    main()
