"""The files of deploy/cluster: they name options that there are, and say the same as one another."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ldc.cli.main import make_parser
from ldc.cluster.bus import BusOptions, configured, dialled, is_private

DEPLOY = Path(__file__).parents[2] / "deploy"
CLUSTER = DEPLOY / "cluster"
NODES = ["ldc-0", "ldc-1", "ldc-2"]


@pytest.fixture(scope="module")
def manifests():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text(encoding="utf-8")))
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def parsed(arguments):
    """Return the options of a command line, or fail as the program does."""
    return make_parser().parse_args(["node", *arguments])


def test_the_nodes_of_kubernetes_are_what_the_program_takes(manifests):
    [container] = manifests["StatefulSet", "ldc"]["spec"]["template"]["spec"]["containers"]
    for name in NODES:
        options = parsed([each.replace("$(POD_NAME)", name) for each in container["args"]])
        assert options.listen == [f"tls/{name}.ldc:7447"]
        assert options.connect == [f"tls/{each}.ldc:7447" for each in NODES]
        assert dialled(options.connect, options.listen) == options.connect[: NODES.index(name)]
        assert all(is_private(endpoint) for endpoint in options.listen)
        assert options.gateway == 8080
        assert options.token_file
    assert manifests["StatefulSet", "ldc"]["spec"]["replicas"] == len(NODES)


def test_the_parts_of_kubernetes_fit_each_other(manifests):
    assert {kind for kind, _ in manifests} == {"Service", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"}
    spec = manifests["StatefulSet", "ldc"]["spec"]
    pod, labels = spec["template"]["spec"], spec["template"]["metadata"]["labels"]
    for selector in (
        spec["selector"]["matchLabels"],
        manifests["PodDisruptionBudget", "ldc"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy", "ldc"]["spec"]["podSelector"]["matchLabels"],
        manifests["Service", "ldc"]["spec"]["selector"],
        *(
            term["labelSelector"]["matchLabels"]
            for term in pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ),
    ):
        assert selector == labels
    assert spec["serviceName"] == "ldc"
    [container] = pod["containers"]
    ports = {each["name"] for each in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] > parsed(["--cluster", "desk"]).drain_seconds
    budget = manifests["PodDisruptionBudget", "ldc"]["spec"]["maxUnavailable"]
    assert budget < parsed(container["args"]).replicas
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_manifests_are_valid_by_the_schema_of_kubernetes(manifests):
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for manifest in manifests.values():
        validate.validate(manifest, validate.latest_version(), strict=True)


def test_the_nodes_of_compose_are_what_the_program_takes():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    compose = yaml.safe_load((CLUSTER / "docker-compose.yml").read_text(encoding="utf-8"))
    assert list(compose["services"]) == ["a", "b", "c"]
    for name, service in compose["services"].items():
        options = parsed(service["entrypoint"][2:] + service["command"])
        assert (options.name, options.listen) == (name, [f"tcp/{name}:7447"])
        assert options.connect == ["tcp/a:7447", "tcp/b:7447", "tcp/c:7447"]
        assert options.allow_host == [name]
        assert configured(BusOptions(options.connect, options.listen, None, options.insecure))
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_unit_calls_what_there_is(tmp_path):
    unit = (CLUSTER / "ldc-node.service").read_text(encoding="utf-8")
    [comment] = re.findall(r"LDC_ARGUMENTS=(.*\n#.*)\(in one line\)", unit)
    options = parsed(comment.replace("\n#", " ").split())
    assert options.connect[0] == options.listen[0]
    for rule in ("NoNewPrivileges=yes", "DynamicUser=yes", "ProtectSystem=strict", "Restart=on-failure"):
        assert rule in unit
    assert float(re.findall(r"TimeoutStopSec=(\d+)", unit)[0]) > options.drain_seconds
    try:
        subprocess.run(["systemd-analyze", "--version"], capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return  # there is no systemd here; the rest was looked at
    copy = tmp_path / "ldc-node.service"
    copy.write_text(unit.replace("/usr/local/lib/ldc/bin/ldc", sys.executable))
    found = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert "ldc-node" not in found.stderr


def test_zenoh_reads_the_configuration():
    config = configured(BusOptions(["tls/10.0.0.1:7447"], ["tls/10.0.0.1:7447"], CLUSTER / "zenoh.json5"))
    tls = json.loads(config.get_json("transport/link/tls"))
    assert tls["enable_mtls"]
    assert tls["listen_private_key"] == "/etc/ldc/tls/tls.key"
    assert json.loads(config.get_json("scouting/multicast/enabled")) is False


def test_the_image_has_the_engine():
    assert ".[gateway,cluster]" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
