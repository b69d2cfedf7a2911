"""A training that is killed, or meets a full disk or a second process, ends as if nothing was."""

import itertools
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Trains in processes of its own, which it forks when it has imported everything: `start`, a folder,
# the name of a result, the size of the largest file, a signal and the nanoseconds of processor time
# after which the kernel sends it gives a process number, `wait` its end.
SERVER = """
import ctypes, hashlib, json, os, resource, struct, sys, time, traceback
import lattices
import torch
from unimat_lib.model import UniMat, UniMatConfig
from unimat_lib.training import fit
from unimat_lib.training.config import FitConfig, make_fabric
from unimat_lib.views.batch import build_views
from unimat_lib.views.effects import Measurement
from unimat_lib.views.grid import Grid

torch.set_num_threads(1)
fit.CHECKPOINT_SECONDS = 0
make_fabric("cpu")
grid = Grid(10.0, 80.0, 256)
same = {"grid": grid, "fwhm": 0.6, "modalities": ("xrd",)}
views = build_views(lattices.bravais_crystals(), max_strain=0.02, **same)
rows = torch.arange(len(views))
config = FitConfig(epochs=25, batch_size=5, measurement=Measurement(strain=0.02, noise=0.02))


def train(run_dir, result_file):
    torch.manual_seed(0)
    small = {"dim": 16, "projection_dim": 8, "xrd": {"width": 8, "depths": (1, 1)}}
    model = UniMat(UniMatConfig(inputs=("xrd",), **small, **same))
    model.fit_scalers(views, rows[:10])
    result = fit.fit(model, views, train=rows[:10], val=rows[10:], config=config, run_dir=run_dir)
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    result = {"weights": digest.hexdigest(), "history": result.history.to_dict("list")}
    result["seconds"] = time.process_time()
    open(result_file, "w").write(json.dumps(result))


def send_at(number, moment):
    libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
    event = struct.pack("qii48x", 0, number, 0)
    assert libc.timer_create(time.CLOCK_PROCESS_CPUTIME_ID, event, ctypes.byref(timer)) == 0
    when = struct.pack("4q", 0, 0, *divmod(moment, 10**9))
    assert libc.timer_settime(timer, 0, when, None) == 0


for line in sys.stdin:
    command, *words = line.split()
    if command == "start":
        number = os.fork()
        if number == 0:
            try:
                most, way, moment = map(int, words[2:])
                if way:
                    send_at(way, moment)
                if most:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
                train(*words[:2])
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
    else:
        number = os.waitstatus_to_exitcode(os.waitpid(int(words[0]), 0)[1])
    print(number, flush=True)
"""


class Trainer:
    """Starts trainings in processes that can be killed, and waits for them."""

    def __init__(self):
        self.number = itertools.count()
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=Path(__file__).parents[1],  # for the module lattices
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *words):
        self.server.stdin.write(" ".join(map(str, words)) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, folder, *, most_bytes=0, way=0, moment=0.0):
        result = folder.with_name(f"{folder.name}.{next(self.number)}.json")
        return self.ask("start", folder, result, most_bytes, int(way), int(1e9 * moment)), result

    def wait(self, process):
        return self.ask("wait", process)

    def finish(self, folder):
        process, result = self.start(folder)
        assert self.wait(process) == 0
        return json.loads(result.read_text())


@pytest.fixture(scope="module")
def trainer():
    trainer = Trainer()
    yield trainer
    trainer.server.stdin.close()
    trainer.server.wait(timeout=240)


@pytest.fixture(scope="module")
def undisturbed(trainer, tmp_path_factory):
    """The result of a run, its seconds on a processor, and the size of a checkpoint."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = trainer.finish(folder)
    size = next(folder.glob("*/best.safetensors")).stat().st_size
    return result, result.pop("seconds"), size


def without_times(result):
    history = {name: x for name, x in result["history"].items() if "seconds" not in name}
    return {"weights": result["weights"], "history": history}


def check_disturbed(trainer, folder, undisturbed, seed):
    """Disturb a run in four ways, one after the other, and let it end."""
    expected, seconds, size = undisturbed
    draw = random.Random(seed)
    ways = ["full disk", signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    draw.shuffle(ways)
    codes = []
    for way in ways:
        if way == "full disk":
            disturbed = {"most_bytes": draw.randrange(100, size)}
        else:
            disturbed = {"way": way, "moment": draw.uniform(0.02, 0.3 * seconds)}
        process, _ = trainer.start(folder, **disturbed)
        codes.append(trainer.wait(process))
    assert codes[0] != 0  # it was not over before the first of them came
    assert without_times(trainer.finish(folder)) == without_times(expected)
    (run,) = folder.iterdir()
    assert sorted(path.name for path in run.iterdir()) == ["best.safetensors", "log.jsonl"]


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(trainer, tmp_path, undisturbed, seed):
    check_disturbed(trainer, tmp_path / "runs", undisturbed, seed)


@pytest.mark.longer
@pytest.mark.parametrize("seed", range(10, 20))
def test_kills_at_ten_random_moments_each(trainer, tmp_path, undisturbed, seed):
    check_disturbed(trainer, tmp_path / "runs", undisturbed, seed)


def test_of_two_processes_with_one_run_one_waits_for_the_other(trainer, tmp_path, undisturbed):
    started = [trainer.start(tmp_path / "runs") for _ in range(2)]
    assert [trainer.wait(process) for process, _ in started] == [0, 0]
    first, second = (json.loads(result.read_text()) for _, result in started)
    # To the seconds of each epoch: the second has loaded the first's.
    assert first["history"] == second["history"] and first["weights"] == second["weights"]
    assert first["weights"] == undisturbed[0]["weights"]
