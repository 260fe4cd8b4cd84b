"""The MPIJob of a brief, as plain data and as the command prints it."""

import copy
from pathlib import Path

import pytest
import yaml

from dl_pipelines import catalog
from dl_pipelines.training import hosts, mpijob
from dl_pipelines.training.mpijob import Cluster

DIGITS = Path(__file__).parents[2] / "briefs" / "digits.yaml"
DEFINITION = Path(__file__).parent / "mpijob_definition.yaml"


def brief_of(**changed):
    return catalog.with_overrides(catalog.load_brief(DIGITS), changed) if changed else catalog.load_brief(DIGITS)


def made(cluster=None, **changed):
    config, job = mpijob.manifests(
        brief_of(**changed), DIGITS.read_text(), cluster or Cluster("registry.invalid/dlp:1")
    )
    return config, job, job["spec"]["mpiReplicaSpecs"]


def container(replicas):
    (found,) = replicas["template"]["spec"]["containers"]
    return found


def test_a_brief_becomes_a_job_that_the_definition_takes():
    changed = {"distributed.workers": 4, "distributed.threads": 3, "distributed.restarts": 5}
    _, job, replicas = made(Cluster("registry.invalid/dlp:1", "ml", slots=2, memory="8Gi", gpus=2), **changed)
    assert mpijob.problems(job, mpijob.read_definition(DEFINITION)) == []
    assert (job["apiVersion"], job["kind"], job["metadata"]["namespace"]) == ("kubeflow.org/v2beta1", "MPIJob", "ml")
    assert job["spec"]["slotsPerWorker"] == 2
    assert job["spec"]["runPolicy"] == {"cleanPodPolicy": "Running", "backoffLimit": 5}
    assert (replicas["Launcher"]["replicas"], replicas["Worker"]["replicas"]) == (1, 2)
    size = {"cpu": "6", "memory": "8Gi", "nvidia.com/gpu": "2"}
    assert container(replicas["Worker"])["resources"] == {"requests": size, "limits": size}
    assert container(replicas["Worker"])["command"] == ["/usr/sbin/sshd", "-De"]
    assert container(replicas["Launcher"])["command"] == [
        "dlp", "run", "/etc/dlp/brief.yaml", "--until", "trained_model"
    ]  # fmt: skip


def test_the_brief_is_mounted_where_the_launcher_reads_it(monkeypatch, tmp_path):
    config, _, replicas = made()
    assert catalog.read_brief(config["data"]["brief.yaml"], "brief.yaml") == catalog.load_brief(DIGITS)
    (volume,) = (item for item in replicas["Launcher"]["template"]["spec"]["volumes"] if item["name"] == "brief")
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    homes = [
        next(item for item in container(replicas[name])["volumeMounts"] if item["name"] == "home")["mountPath"]
        for name in ("Launcher", "Worker")
    ]
    assert homes == ["/var/lib/dlp"] * 2
    env = {item["name"]: item.get("value") for item in container(replicas["Launcher"])["env"]}
    assert env == {"DLP_HOME": "/var/lib/dlp", "DLP_HOSTFILE": "/etc/mpi/hostfile"}
    operators = tmp_path / "hostfile"
    operators.write_text("digits-worker-0.digits.default.svc slots=1\ndigits-worker-1.digits.default.svc slots=1\n")
    monkeypatch.setenv(hosts.HOSTFILE, str(operators))
    assert hosts.hosts_of(catalog.load_brief(DIGITS).distributed)[1] == "digits-worker-1.digits.default.svc:1"


def test_secrets_are_references_and_only_the_launchers():
    source = {"name": "sql", "params": {"url": "${SHOP_DATABASE}"}}
    assert list(mpijob.secrets_of({"a": [source, {"url": "no ${SUCH}"}]})) == ["SHOP_DATABASE"]
    _, job, replicas = made(Cluster("i", secret="shop", variables=("DLP_DATABASE_URL",)))
    (found,) = (item for item in container(replicas["Launcher"])["env"] if "valueFrom" in item)
    assert found == {
        "name": "DLP_DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "shop", "key": "DLP_DATABASE_URL"}},
    }  # fmt: skip
    assert "env" not in container(replicas["Worker"])
    assert mpijob.problems(job, mpijob.read_definition(DEFINITION)) == []


@pytest.mark.parametrize(
    ("cluster", "changed", "message"),
    [
        (
            {},
            {"distributed.communicator": "torch"},
            "found distributed.communicator: torch; expected horovod for an",
        ),
        (
            {},
            {"distributed.hosts": ["a:2"]},
            "found distributed.hosts; expected none for an MPIJob, whose operator",
        ),
        (
            {"slots": 3},
            {},
            "found 2 workers and 3 slots a pod; expected pods that are full; change",
        ),
        ({"memory": "4 GB"}, {}, "found --memory '4 GB'; expected a quantity such as 4Gi or 900M"),
        (
            {"variables": ("A=b",)},
            {},
            "found --variable 'A=b'; expected the NAME of a variable, never its value",
        ),
    ],
)
def test_what_is_no_mpijob_is_told(cluster, changed, message):
    with pytest.raises(ValueError, match=message):
        made(Cluster("i", **cluster), **changed)


def test_a_definition_refuses_what_it_does_not_know():
    _, job, _ = made()
    definition = mpijob.read_definition(DEFINITION)
    wrong = copy.deepcopy(job)
    wrong["spec"]["slotsPerWorker"] = "two"
    wrong["spec"]["launcherCreationPolicy"] = "Sometime"
    wrong["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["colour"] = "red"
    found = sorted(mpijob.problems(wrong, definition))
    assert found[0].startswith("spec.launcherCreationPolicy: 'Sometime' is not one of")
    assert found[1].startswith("spec.mpiReplicaSpecs.Worker.template.spec.containers.0: Additional properties are not")
    assert found[2] == "spec.slotsPerWorker: 'two' is not of type 'integer'"


def test_what_is_no_definition_is_told(tmp_path):
    _, job, _ = made()
    with pytest.raises(ValueError, match=r"found no schema of MPIJob v2beta1; expected the operator's Custom"):
        mpijob.problems(job, mpijob.read_definition(DIGITS))
    with pytest.raises(ValueError, match=r"found .*none.yaml, which can't be read .*; expected YAML of a definition"):
        mpijob.read_definition(tmp_path / "none.yaml")
    text = DEFINITION.read_text().replace("name: v2beta1", "name: v1")
    with pytest.raises(ValueError, match="found no schema of MPIJob v2beta1"):
        mpijob.problems(job, yaml.safe_load(text))
