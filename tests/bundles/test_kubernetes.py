"""The manifests of a served bundle, against the fields that Kubernetes has."""

import pytest

from dl_pipelines.bundles.kubernetes import Served, manifests, require_image


def served(**changed):
    return Served(**{"project": "bakery_sales", "image": "registry.invalid/bakery:1", "cpus": 4, "memory": "3Gi",
                     "command": ["tritonserver"], **changed})  # fmt: skip


PROBE = {"httpGet": {"path": str, "port": str}, "periodSeconds": int, "timeoutSeconds": int, "failureThreshold": int}
CONTAINER = {
    "name": str, "image": str, "command": [str], "ports": [{"name": str, "containerPort": int}],
    "resources": {"requests": {"cpu": str, "memory": str}, "limits": {"memory": str}},
    "startupProbe": PROBE, "readinessProbe": PROBE, "livenessProbe": PROBE,
    "securityContext": {"allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}  # fmt: skip
LABELS = {"app.kubernetes.io/name": str, "app.kubernetes.io/instance": str}
META = {"name": str, "labels": LABELS}
POD = {
    "automountServiceAccountToken": bool, "terminationGracePeriodSeconds": int, "containers": [CONTAINER],
    "securityContext": {
        "runAsNonRoot": bool, "runAsUser": int, "fsGroup": int, "seccompProfile": {"type": str},
    },
    "volumes": [{
        "name": str, "persistentVolumeClaim": {"claimName": str}, "emptyDir": {"medium": str, "sizeLimit": str},
    }],
}  # fmt: skip
FIELDS = {
    "PersistentVolumeClaim": {"accessModes": [str], "resources": {"requests": {"storage": str}}},
    "Deployment": {
        "replicas": int, "strategy": {"type": str}, "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": POD},
    },
    "Service": {"type": str, "selector": LABELS, "ports": [{"name": str, "port": int, "targetPort": str}]},
}  # fmt: skip
"""The fields that these manifests use, with their types, after Kubernetes' published API 1.37."""


def wrong(value, known, path=""):
    if isinstance(known, dict):
        for key, inner in value.items():
            yield from wrong(inner, known[key], f"{path}.{key}") if key in known else [f"{path}.{key}"]
    elif isinstance(known, list):
        for item in value:
            yield from wrong(item, known[0], path)
    elif type(value) is not known:
        yield f"{path} is {value!r}"


def test_every_field_is_one_that_kubernetes_has():
    for item in manifests(served()):
        known = {"apiVersion": str, "kind": str, "metadata": META, "spec": FIELDS[item["kind"]]}
        assert list(wrong(item, known)) == []


def test_what_refers_to_each_other_agrees():
    claim, deployment, service = manifests(served())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    ports = {item["name"]: item["containerPort"] for item in container["ports"]}
    assert {item["targetPort"]: item["port"] for item in service["spec"]["ports"]}.items() <= ports.items()
    assert {probe["httpGet"]["port"] for key, probe in container.items() if key.endswith("Probe")} == {"http"}
    volumes = {item["name"]: item for item in pod["volumes"]}
    assert {item["name"] for item in container["volumeMounts"]} == set(volumes)
    assert volumes["predictions"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert [item["metadata"]["name"] for item in (claim, deployment, service)] == [
        "bakery-sales-predictions", "bakery-sales", "bakery-sales",
    ]  # fmt: skip


def test_a_pod_gets_what_the_brief_asks_for():
    _, deployment, _ = manifests(served())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"] == {"requests": {"cpu": "4", "memory": "3Gi"}, "limits": {"memory": "3Gi"}}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"memory": "2 GB"}, "found --memory '2 GB'; expected a quantity such as 2Gi or 900M"),
        ({"project": "a" * 64}, "found the project 'aaa.*expected lower case letters, digits and - after a letter"),
        ({"image": "digits"}, "found --image 'digits'; expected an image with a tag or digest of its own"),
        ({"image": "digits:latest"}, "found --image 'digits:latest'; expected an image with a tag or digest"),
        ({"image": "registry.invalid:5000/digits"}, "found --image .*5000/digits'; expected an image with a tag"),
        ({"image": "Digits:1"}, "found --image 'Digits:1'; expected an image with a tag or digest"),
        ({"image": "digits@sha256:0123abcd"}, "found --image .*0123abcd'; expected an image with a tag or digest"),
        ({"image": f"digits:{'a' * 129}"}, "found --image 'digits:aaa.*; expected an image with a tag or digest"),
        ({"image": "digits:é"}, "found --image 'digits:é'; expected an image with a tag or digest"),
        ({"image": "digits:1\nRUN x"}, "found --image 'digits:1.*RUN x'; expected an image with a tag"),
    ],
)
def test_what_kubernetes_refuses_is_told(changed, message):
    with pytest.raises(ValueError, match=message):
        manifests(served(**changed))


@pytest.mark.parametrize(
    "image",
    [
        "a:1", "registry.invalid:5000/team/a:1.2-py3", "a:V2_RC1", "registry.invalid/a:Release-2026",
        f"a@sha256:{'0123abcd' * 8}", f"registry.invalid:5000/a:RC1@sha256:{'0123abcd' * 8}",
    ],
)  # fmt: skip
def test_named_images_pass(image):
    require_image(image, "--image")
