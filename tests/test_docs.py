"""The README's snippets are run as they stand."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), re.M | re.S)


def of(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def test_python_snippets_run_one_after_the_other(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for snippet in of("python"):
        exec(compile(snippet, str(README), "exec"), names)
    assert names["result"].metrics[-1]["accuracy"] > 0.9


COMMANDS = [line[2:] for text in of("console") for line in text.splitlines() if line[:2] == "$ "]


CASES = [  # an arena trains hundreds of models
    pytest.param(command, marks=[pytest.mark.slow] if "arena" in command else [])
    for command in COMMANDS
]


@pytest.mark.parametrize("command", CASES)
def test_commands_run(command, monkeypatch, tmp_path):
    from tacit.cli import app

    (tmp_path / "experiment.py").write_text(of("python")[0])
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command)
    assert program == "tacit"
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output


def test_the_readme_has_exactly_two_set_up_commands():
    commands = [line for text in of("bash") for line in text.strip().splitlines()]
    assert len(commands) == 2
    assert commands[0].endswith("tacit demo")
    assert commands[1].endswith("pytest -n auto")
