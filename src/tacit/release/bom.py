"""A model's bill of materials in CycloneDX 1.6 (ECMA-424), with its model card.

https://cyclonedx.org/docs/1.6/json/. Written as plain JSON: ``cyclonedx-python-lib`` 11 has no
place for a model card, which is what makes it an ML-BOM.
"""

import uuid
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from tacit.release.facts import Facts


def bom(facts: Facts, weights: str) -> dict[str, Any]:
    """The bill of materials; the same for the same model.

    Args:
        weights: SHA-256 of the model's file, hexadecimal.
    """
    contract, experiment = facts.contract, facts.experiment
    libraries = [
        {"type": "library", "bom-ref": name, "name": name, "version": version(name)}
        | {"purl": f"pkg:pypi/{name}@{version(name)}"}
        for name in ("tacit", "torch", "safetensors")
    ]
    data = {
        "type": "data",
        "bom-ref": "data",
        "name": experiment["data"]["name"],
        "data": [{"type": "dataset", "description": _described(contract)}],
    }
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": facts.name,
        "hashes": [{"alg": "SHA-256", "content": weights}],
        "modelCard": _card(facts),
        "properties": _properties(
            {
                "tacit:experiment": facts.digest,
                "tacit:privacy": facts.spent(),
                "tacit:attacks": facts.attacked(),
                "tacit:record:origin": facts.head.origin,
                "tacit:record:size": str(facts.head.size),
                "tacit:record:root": facts.head.root.hex(),
            }
        ),
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, facts.digest + weights)}",
        "version": 1,
        "metadata": {"component": model},
        "components": [data, *libraries],
        "dependencies": [
            {"ref": "model", "dependsOn": ["data", "safetensors", "tacit", "torch"]},
        ],
    }


def _card(facts: Facts) -> dict[str, Any]:
    contract, experiment = facts.contract, facts.experiment
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": contract["task"],
            "modelArchitecture": str(experiment["model"][0]),
            "datasets": [{"ref": "data"}],
            "inputs": [{"format": f"rows of shape {tuple(contract['row'])}"}],
            "outputs": [{"format": f"{contract['classes']} classes"}]
            if contract["classes"]
            else [{"format": f"numbers of shape {tuple(contract['target'])}"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": name, "value": f"{value:.4g}", "slice": "all sites' test rows"}
                for name, value in facts.scores.items()
                if value is not None
            ]
        },
        "considerations": {
            "technicalLimitations": [
                "The record does not tell whether the sites' private data were good."
            ],
            "ethicalConsiderations": [
                {
                    "name": "What the model gives away of those it was trained on.",
                    "mitigationStrategy": facts.spent(),
                }
            ],
        },
    }


def _described(contract: Mapping[str, Any]) -> str:
    columns = f", columns {', '.join(contract['columns'])}" if contract["columns"] else ""
    return f"Rows for {contract['task']} of shape {tuple(contract['row'])}{columns}; at the sites."


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]
