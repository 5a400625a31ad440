"""The commands as people and scripts meet them: exit codes, sentences, JSON, stopping, resuming."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import tacit
from tacit.cli import app

EXPERIMENT = """
import os, time
from dataclasses import dataclass
from torch import nn
import tacit

print("the file may print")

@dataclass(frozen=True)
class Schedule:
    def __call__(self, round, rounds):
        while os.environ.get("HANG_IN_ROUND") == str(round + 1):
            time.sleep(0.05)
        return 1.0

experiment = tacit.Experiment(
    data=tacit.data.load("wine", partition=tacit.data.Dirichlet(0.1)),
    model=lambda: nn.Linear(13, 3),
    loss=nn.functional.cross_entropy,
    training=tacit.SGD(lr=0.1, momentum=0.9, schedule=Schedule()),
    rounds=6,
)
"""

# Ctrl-C must work where the tests themselves run in the background, with SIGINT ignored.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tacit.cli import main
main()
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "wine.py"
    path.write_text(EXPERIMENT)
    return path


def call(*arguments: str, code: int = 0) -> tuple[str, str]:
    """Standard output and error of a command in this process."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def wait_for_round(folder: Path, round: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        checkpoint = folder / "checkpoint.json"
        if checkpoint.exists() and json.loads(checkpoint.read_text())["round"] == round:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate())


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from tacit.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'polars', 'matplotlib', 'jinja2', 'networkx'}\n"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_version() -> None:
    assert call("--version")[0].startswith("tacit 0.")


def test_a_run_leaves_metrics_model_and_report(file: Path) -> None:
    out, err = call("run", "wine.py")
    assert "baseline majority" in out
    assert "runs/wine/report.html" in out
    assert err == ""
    folder = file.parent / "runs" / "wine"
    assert json.loads((folder / "metrics.json").read_text())["rounds"][-1]["round"] == 6
    assert {
        name: tuple(t.shape) for name, t in load_file(folder / "model.safetensors").items()
    } == {
        "weight": (3, 13),
        "bias": (3,),
    }
    assert "<html" in (folder / "report.html").read_text()


def test_json_is_one_document_and_nothing_else(file: Path) -> None:
    out, err = call("run", "wine.py", "--json", "--set", "rounds=2", "--folder", "here")
    found = json.loads(out, parse_constant=refuse_constant)
    assert err == "the file may print\n"
    assert found == json.loads((file.parent / "here" / "metrics.json").read_text())
    assert [row["round"] for row in found["rounds"]] == [1, 2]
    assert found["experiment"]["rounds"] == 2
    # Dirichlet(0.1) leaves nodes with a single grower, on whose test rows AUC is not defined.
    assert None in [row["auc"] for row in found["nodes"]]


def test_compare_as_json_and_as_a_table(file: Path) -> None:
    out, _ = call("compare", "wine.py", "--json", "--set", "rounds=2")
    found = json.loads(out, parse_constant=refuse_constant)
    assert [row["name"] for row in found["table"]] == ["alone", "federated", "gossip", "pooled"]
    assert len(found["nodes"]) == 4
    assert Path(found["report"]).is_file()
    out, _ = call("compare", "wine.py", "--set", "rounds=2")
    for sentence in found["verdict"][:2]:
        assert sentence in " ".join(out.replace("\n- ", "\n").split())


def test_arena_as_json_and_as_a_table(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.robustness.defaults.attacks", lambda _: {})
    monkeypatch.setattr("tacit.robustness.defaults.defences", lambda: {"mean": tacit.Mean()})
    out, _ = call("arena", "wine.py", "--json", "--set", "rounds=2")
    found = json.loads(out, parse_constant=refuse_constant)
    assert [(row["topology"], row["outcome"]) for row in found["table"]] == [
        ("Star", "done"),
        ("RandomRegular", "done"),
    ]
    folder = Path("runs/wine-arena")
    assert found["folder"] == str(folder)
    assert json.loads((folder / "arena.json").read_text()) == found
    assert (folder / "arena.csv").read_text().splitlines()[0].startswith("topology,defence,rule,")
    assert "<html" in (folder / "arena.html").read_text()
    kept = (folder / "cells.jsonl").read_bytes()
    out, _ = call("arena", "wine.py", "--set", "rounds=2")
    assert (folder / "cells.jsonl").read_bytes() == kept  # nothing was run again
    assert "Star: Use mean, Mean()." in " ".join(out.split())
    assert "runs/wine-arena/arena.html" in out


def test_explain(file: Path) -> None:
    out, _ = call("explain", "wine.py")
    assert "the server" in out
    found = json.loads(call("explain", "wine.py", "--json", "--set", "algorithm=Gossip")[0])
    assert {row["receiver"] for row in found["rows"]} == {"each neighbour"}


def test_data_commands() -> None:
    assert "breast-cancer" in call("data", "list")[0]
    assert "wine" in [row["name"] for row in json.loads(call("data", "list", "--json")[0])]
    out, _ = call("data", "describe", "wine", "--nodes", "3", "--partition", "Shards(1)")
    assert "3 nodes, " in out
    assert "label 2" in out
    rows = json.loads(call("data", "describe", "wine", "--nodes", "3", "--json")[0])
    assert [row["node"] for row in rows] == ["0", "1", "2"]
    assert "nothing to fetch" in call("data", "fetch", "wine")[0]
    assert "did you mean 'wine'" in call("data", "describe", "wein", code=2)[1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "other.py: there is no such file"),
        ("", "other.py: it defines no `experiment`; set experiment = tacit.Experiment(...)"),
        (EXPERIMENT.replace("experiment =", "exp ="), "no `experiment` but `exp`; rename that"),
        ("experiment = 3", "other.py: `experiment` is a int; allowed is a tacit.Experiment"),
        ("\n\nx = 1 / 0", "other.py, line 3: ZeroDivisionError: division by zero"),
        ("x = (\n", "other.py, line 1: SyntaxError: "),
        ("import sys\nsys.exit('over')", "other.py, line 2: SystemExit: over"),
        ("import nothing_of_that_name", "other.py, line 1: ModuleNotFoundError: "),
        (
            EXPERIMENT.replace("lr=0.1", "lr=0"),
            "tacit: other.py, line 20: training.lr: 0 was given; allowed is any number above 0",
        ),
        (EXPERIMENT.replace("(13, 3)", "(13, 2)"), "the model gives an output of shape (5, 2)"),
    ],
)
def test_a_file_that_cannot_be_used(file: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (file.parent / "other.py").write_text(content)
    _, err = call("run", "other.py", "--json", code=2)
    *_, last = err.splitlines()
    assert last.startswith("tacit: ")
    assert sentence in last
    assert not (file.parent / "runs").exists()


def test_a_file_may_import_its_neighbours(file: Path) -> None:
    folder = file.parent / "elsewhere"
    folder.mkdir()
    (folder / "neighbour_of_wine.py").write_text(EXPERIMENT)
    (folder / "borrowed.py").write_text("from neighbour_of_wine import experiment")
    call("explain", "elsewhere/borrowed.py")


def test_an_unknown_setting_names_the_nearest(file: Path) -> None:
    _, err = call("run", "wine.py", "--set", "training.learning_rate=1", code=2)
    assert "tacit: training.learning_rate: unknown; did you mean training.lr?" in err


def test_a_divergent_run_keeps_its_checkpoint(file: Path) -> None:
    file.write_text(EXPERIMENT.replace("return 1.0", "return 1.0 if round < 2 else 1e39"))
    _, err = call("run", "wine.py", code=2)
    assert "tacit: training diverged: the loss of node " in err
    checkpoint = file.parent / "runs" / "wine" / "checkpoint.json"
    assert json.loads(checkpoint.read_text())["round"] >= 2


def test_an_unfinished_run_is_not_overwritten_and_a_finished_one_is(file: Path) -> None:
    file.write_text(EXPERIMENT.replace("return 1.0", "return 1.0 if round < 2 else 1e39"))
    call("run", "wine.py", code=2)
    _, err = call("run", "wine.py", code=2)
    assert "runs/wine holds an unfinished run" in err
    assert "--resume" in err
    file.write_text(EXPERIMENT.replace("lr=0.1", "lr=0.2"))
    _, err = call("run", "wine.py", "--resume", code=2)
    assert "holds another experiment's run" in err
    call("run", "wine.py", "--folder", "fresh", "--set", "rounds=1")
    call("run", "wine.py", "--folder", "fresh", "--set", "rounds=2")
    assert len(json.loads(Path("fresh/metrics.json").read_text())["rounds"]) == 2
    file.write_text(EXPERIMENT.replace("return 1.0", "return 1.0 if round < 2 else 1e39"))
    call("run", "wine.py", "--folder", "fresh", code=2)
    assert not Path("fresh/metrics.json").exists()  # it would pass for this run's


def test_debug_shows_the_traceback_at_either_place(file: Path) -> None:
    for arguments in (["--debug", "run", "none.py"], ["run", "none.py", "--debug"]):
        result = CliRunner().invoke(app, arguments)
        assert type(result.exception).__name__ == "InputError"


def test_errors_of_the_real_command(file: Path) -> None:
    process = start("run", "none.py")
    assert process.communicate() == ("", "tacit: none.py: there is no such file [TACIT-101]\n")
    assert process.returncode == 2


def test_a_folder_that_cannot_be_written(file: Path) -> None:
    Path("runs").write_text("a file where a folder should be")
    _, err = call("run", "wine.py", code=2)
    assert err.startswith("tacit: ")
    assert "Not a directory" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_to_the_same_bits(file: Path, blow: signal.Signals) -> None:
    stopped = Path("runs/wine")
    process = start("run", "wine.py", HANG_IN_ROUND="4")
    wait_for_round(stopped, 3, process)
    process.send_signal(blow)
    _, err = process.communicate()
    if blow == signal.SIGINT:
        assert process.returncode == 130
        sentence = "stopped after round 3 of 6; go on with `tacit run wine.py --resume`\n"
        assert err.endswith(sentence)
        assert "Traceback" not in err
    assert not (stopped / "metrics.json").exists()
    before = json.loads((stopped / "checkpoint.json").read_text())["metrics"]
    call("run", "wine.py", "--resume")
    call("run", "wine.py", "--folder", "whole")
    resumed, whole = (Path(f) / "model.safetensors" for f in (stopped, "whole"))
    assert resumed.read_bytes() == whole.read_bytes()
    rounds = json.loads((stopped / "metrics.json").read_text())["rounds"]
    assert rounds[:3] == before  # their seconds, too: these rounds were not repeated
    assert [row["round"] for row in rounds] == [1, 2, 3, 4, 5, 6]
