"""What the pages about the network name is there: commands, options, fields of a policy."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from tacit.cli import app
from tacit.network.policy import Policy, parse

DOCS = Path(__file__).parents[1] / "docs"
LINES = [
    (path.name, line)
    for path in sorted(DOCS.glob("*.md"))
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", path.read_text(), re.M | re.S)
    for line in block.splitlines()
    if line.startswith("tacit ")
]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_has_the_options_that_a_page_gives_it(page: str, line: str) -> None:
    words = shlex.split(line.split(" > ")[0])[1:]
    command = typer.main.get_command(app)
    while isinstance(commands := getattr(command, "commands", None), dict):
        name = words.pop(0) if words[0] in commands else "run"  # tacit node FILE
        command = commands[name]
    known = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_policy_on_the_page_is_the_one_that_refuses_nothing() -> None:
    page = (DOCS / "policy.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    assert parse(block.encode(), "page", Policy) == Policy()
    assert re.findall(r"^(?:# )?(\w+) =", block, re.M) == [each.name for each in fields(Policy)]
