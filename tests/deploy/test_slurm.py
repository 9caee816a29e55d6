"""A site as a batch job: the script is clean, and under a real Slurm the run goes on after its time is up."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.federation_kit import free_port, make_home
from support.waiting import PATIENCE_S, until

TREE = Path(__file__).parents[2]
SCRIPT = TREE / "deploy" / "slurm" / "stic-client.sbatch"
ROUNDS, EPOCHS = 60, 20
"""Half a minute: Slurm takes ten seconds to preempt a job."""

needs_slurm = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("sbatch", "slurmctld", "slurmd", "munged"))),
    reason="needs root and Slurm (Debian: slurm-wlm, munge)",
)


def test_the_batch_script_is_bash() -> None:
    """Bash reads it to its end."""
    checked = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not on this machine")
@pytest.mark.parametrize(
    "path", [SCRIPT, TREE / "deploy" / "offline" / "install.sh"], ids=lambda path: path.name
)
def test_shellcheck_has_nothing_to_say(path: Path) -> None:
    """At its strictest level."""
    checked = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_wrong_command_line_starts_nothing(tmp_path: Path) -> None:
    """Without a site: how to use it, and no folder is made."""
    done = subprocess.run(
        ["bash", SCRIPT],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "usage: sbatch --job-name=stic-SITE" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.deploy
@needs_slurm
def test_a_job_whose_time_is_up_queues_again_and_the_run_goes_on(tmp_path: Path) -> None:
    """Signalled as before its limit, then preempted by another job: the model is that of a run that nobody disturbed."""
    whole, home = (
        make_home(tmp_path / name, sites=("center1",), rounds=ROUNDS) for name in ("whole", "home")
    )
    for one in (whole, home):
        one.edit(one.federation, training__local_epochs=EPOCHS)
    with whole.running("stic-client", "--site", "center1", "--once", output=tmp_path / "client.log"):
        assert whole.run("stic-server", "start").returncode == 0

    program = {"STIC_IMAGE": "", "STIC_PROGRAM": str(Path(sys.executable).with_name("stic-client"))}
    with (
        _cluster(tmp_path / "slurm") as slurm,
        home.running("stic-server", "start", output=tmp_path / "server.log") as server,
    ):
        slurm.environment |= home.environment() | program | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        job = slurm.submit("--job-name=stic-center1", "--partition=low", str(SCRIPT), "center1")
        until(lambda: len(home.rounds()) >= 3, what=lambda: slurm.said("stic-center1"), alive=server)
        slurm.run("scancel", "--batch", "--signal=USR1", job)
        slurm.start_again(job, times=1)
        seen = len(home.rounds())
        until(lambda: len(home.rounds()) >= seen + 3, what=lambda: slurm.said("stic-center1"), alive=server)
        slurm.submit("--job-name=urgent", "--partition=high", "--exclusive", "--wrap=true")
        slurm.start_again(job, times=2)
        assert server.wait(PATIENCE_S) == 0
        until(lambda: slurm.fact(job, "JobState") == "COMPLETED", what=lambda: slurm.said("stic-center1"))
        said = slurm.said("stic-center1")
    assert said.count("queues up again") == 1
    assert "Traceback" not in said
    assert not list((tmp_path / "slurm" / "scratch").iterdir())
    weights = [one.run_folder() / "model" / "model.safetensors" for one in (whole, home)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


class Cluster:
    """A Slurm of one node on this machine.

    Args:
        folder: its configuration, state and logs; jobs run there.
        environment: that commands, and so jobs, have.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self.environment = folder, dict(environment)

    def run(self, *command: str) -> str:
        """A command of Slurm's that has to succeed."""
        done = subprocess.run(
            command, env=self.environment, cwd=self._folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *arguments: str) -> str:
        """A job's number. What the script asks for and this node has not is taken back."""
        small = ("--gres=none", "--cpus-per-task=1", "--mem=2G")
        return self.run("sbatch", "--parsable", *small, *arguments).strip()

    def fact(self, job: str, name: str) -> str:
        """What the controller says of a job."""
        words = self.run("scontrol", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def start_again(self, job: str, *, times: int) -> None:
        """Wait until a job is queued again; then at once, where Slurm would wait for two minutes."""

        def queued() -> bool:
            time.sleep(1)
            assert self.fact(job, "JobState") != "COMPLETED", "the run was over before the job was stopped"
            return (self.fact(job, "JobState"), self.fact(job, "Restarts")) == ("PENDING", str(times))

        until(queued, what=lambda: self.run("scontrol", "show", "job", job))
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def said(self, job_name: str) -> str:
        """A job's output so far."""
        path = self._folder / f"{job_name}.log"
        return path.read_text() if path.exists() else "nothing"


_CONFIGURATION = """\
ClusterName=stic
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,batch_sched_delay=1
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


@contextmanager
def _cluster(folder: Path) -> Iterator[Cluster]:
    for name in ("state", "spool", "scratch"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    ports = {"controller": free_port(), "daemon": free_port()}
    configuration.write_text(_CONFIGURATION.format(folder=folder, host=host, cpus=os.cpu_count(), **ports))
    places = {
        "--key-file": key,
        "--socket": folder / "munge.socket",
        "--log-file": folder / "munge.log",
        "--pid-file": folder / "munge.pid",
        "--seed-file": folder / "munge.seed",
    }
    environment = os.environ | {"SLURM_CONF": str(configuration), "SLURM_TMPDIR": str(folder / "scratch")}
    daemons = [
        ["munged", "--force", "--foreground", *(f"{name}={path}" for name, path in places.items())],
        ["slurmctld", "-D", "-f", str(configuration)],
        ["slurmd", "-D", "-f", str(configuration)],
    ]
    cluster, running = Cluster(folder, environment), list[subprocess.Popen[bytes]]()
    try:
        with (folder / "daemons.log").open("wb") as log:
            for command in daemons:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                if command[0] == "munged":
                    until((folder / "munge.socket").exists, what=(folder / "daemons.log").read_text)

            def idle() -> bool:
                time.sleep(1)
                asked = subprocess.run(
                    ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False
                )
                return set(asked.stdout.split()) == {"idle"}

            until(idle, what=(folder / "daemons.log").read_text)
        yield cluster
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in reversed(running):
            process.wait(60)
