"""The model card, README.md: metadata in YAML, then text, as the Hugging Face Hub reads it.

https://huggingface.co/docs/hub/model-cards. JSON is YAML, and needs no further library.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tacit.ledger.release import BOM, MODEL, PUBLIC, SIGNATURE, STATE
from tacit.release.facts import Facts


def card(facts: Facts) -> str:
    """The model card of a released run."""
    metadata = {
        "library_name": "pytorch",
        "tags": ["federated-learning", "tacit"],
        "model-index": [{"name": facts.name, "results": [_results(facts)]}],
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in metadata.items()]
    return "\n".join(["---", *lines, "---", "", *_text(facts), ""])


def _results(facts: Facts) -> dict[str, Any]:
    data, known = facts.experiment["data"]["name"], facts.scores.items()
    return {
        "task": {"type": facts.contract["task"]},
        "dataset": {"type": data, "name": data},
        "metrics": [{"type": name, "value": value} for name, value in known if value is not None],
    }


def _text(facts: Facts) -> Iterator[str]:
    experiment, contract = facts.experiment, facts.contract
    sites, data = experiment["data"]["nodes"], experiment["data"]["name"]
    yield f"# {facts.name}"
    yield ""
    yield (
        f"Trained by {experiment['algorithm']['type']} in {facts.rounds} rounds over the rows of"
        f" {len(sites)} sites, which stayed there. `{MODEL}` holds the weights, of the model"
        " that all share, or the mean where each has its own:"
    )
    yield from ("", "```", str(experiment["model"][0]), "```")
    yield from ("", "## Data contract", "", f"- data set: {data}", f"- task: {contract['task']}")
    yield f"- one row: numbers of shape {tuple(contract['row'])}"
    if contract["columns"]:
        yield f"- columns: {', '.join(contract['columns'])}"
    if contract["classes"]:
        yield f"- classes: {contract['classes']}"
    if table := experiment["data"]["table"]:
        labels = f", values {', '.join(map(str, table['labels']))}" if table["labels"] else ""
        yield f"- target: {table['target']}{labels}"
    yield from ("", "## Privacy spent", "", facts.spent())
    for part in facts.protection:
        yield f"- {_shown(part)}"
    yield from ("", "## Attacks tried", "", facts.attacked())
    if experiment["attack"]:
        yield "Some of the sites were made to attack the training itself: this is an experiment."
    yield from ("", "## Contributions", "", *_contributions(facts.contributions))
    where = "On the test rows of all sites, after the last round." if facts.scores else "None told."
    yield from ("", "## Results", "", where, "")
    for name, value in facts.scores.items():
        yield f"- {name}: {'no number' if value is None else f'{value:.4g}'}"
    yield from ("", "## Record", "")
    yield f"Head before this release: {facts.head.size} entries of `{facts.head.origin}`, root"
    yield f"`{facts.head.root.hex()}`. Experiment: `{facts.digest}`."
    if facts.state:
        yield f"Its last round ends with the SHA-256 of `{STATE}`, what the sites were given; the"
        yield "model is one of its tensors, the weights one after the other."
    yield "The record does not tell whether private data were good."
    yield from ("", "## Checking it", "", "```")
    yield f"model_signing verify key . --signature {SIGNATURE} --public_key {PUBLIC}"
    yield from ("tacit verify RECORD --release .", "```", "")
    yield f"Bill of materials: `{BOM}`, CycloneDX 1.6."


def _contributions(said: Mapping[str, Any] | None) -> Iterator[str]:
    if said is None:
        yield "Not measured."
        return
    yield f"By {said['method']}. {said['weakness']}"
    yield from ("", "| site | share, percent | gain over training alone |", "| --- | --- | --- |")
    for row in said["nodes"]:
        gain = "not measured" if row.get("gain") is None else f"{row['gain']:+.3f}"
        yield f"| {row['node']} | {row['percent']} | {gain} |"


def _shown(part: Mapping[str, Any]) -> str:
    settings = [f"{k}={v}" for k, v in part.items() if k != "type" and v is not None]
    return f"{part['type']}({', '.join(settings)})"
