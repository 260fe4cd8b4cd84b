"""The manifests of a served bundle, against the schema that Kubernetes publishes."""

import contextlib
import subprocess
import time
from http.client import HTTPConnection

import pytest

from dl_pipelines.bundles.compose import compose
from dl_pipelines.bundles.kserve import inference_service
from dl_pipelines.bundles.kubernetes import ADMIN_KEY, Served, manifests, require_image
from dl_pipelines.bundles.start import script
from dl_pipelines.serving.admin import restricted


def served(**changed):
    return Served(**{"project": "bakery_sales", "image": "registry.invalid/bakery:1", "cpus": 4, "memory": "3Gi",
                     "command": ["tritonserver"], **changed})  # fmt: skip


def of_kind(found, kind):
    return [item for item in found.values() if item["kind"] == kind]


@pytest.mark.parametrize("changed", [{}, {"max_pods": 6, "host": "models.example.org"}])
def test_every_manifest_is_valid_by_the_published_schema_of_kubernetes(changed):
    import kubernetes_validate

    checked = []
    for item in manifests(served(**changed)).values():
        if item["kind"] not in ("Kustomization", "Middleware"):  # not of Kubernetes itself
            kubernetes_validate.validate(item, "1.37", strict=True)
            checked.append(item["kind"])
    expected = {"Namespace", "PersistentVolumeClaim", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy",
                "Ingress"}  # fmt: skip
    assert set(checked) == expected | ({"HorizontalPodAutoscaler"} if changed else set())


def test_the_schema_refuses_what_is_wrong():
    import kubernetes_validate

    deployment = manifests(served())["deployment.yaml"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_kustomize_is_given_every_file_once():
    found = manifests(served(max_pods=3))
    assert found["kustomization.yaml"]["resources"] == sorted(set(found) - {"kustomization.yaml"})
    assert found["kustomization.yaml"]["namespace"] == found["namespace.yaml"]["metadata"]["name"]


def test_what_refers_to_each_other_agrees():
    found = manifests(served(max_pods=3))
    deployment, claim = found["deployment.yaml"], found["volume.yaml"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    services = {item["metadata"]["name"]: item for item in of_kind(found, "Service")}
    ports = {item["name"]: item["containerPort"] for item in container["ports"]}
    for service in services.values():
        assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
        assert {item["targetPort"]: item["port"] for item in service["spec"]["ports"]}.items() <= ports.items()
    for file in ("disruption.yaml", "network.yaml"):
        spec = found[file]["spec"]
        assert spec.get("selector", spec.get("podSelector")) == {"matchLabels": labels}
    assert found["autoscaler.yaml"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"], "the autoscaler's number would be set back by each update"
    volumes = {item["name"]: item for item in pod["volumes"]}
    assert {item["name"] for item in container["volumeMounts"]} == set(volumes)
    assert volumes["predictions"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (rule,) = found["ingress.yaml"]["spec"]["rules"]
    for path in rule["http"]["paths"]:
        to = path["backend"]["service"]
        assert to["port"]["name"] in {port["name"] for port in services[to["name"]]["spec"]["ports"]}
    users = found["users.yaml"]["metadata"]["name"]
    annotations = found["ingress.yaml"]["metadata"]["annotations"]
    namespace = found["namespace.yaml"]["metadata"]["name"]
    assert annotations["traefik.ingress.kubernetes.io/router.middlewares"] == f"{namespace}-{users}@kubernetescrd"


def test_clients_reach_the_router_alone_and_with_tls():
    found = manifests(served(host="models.example.org"))
    spec = found["ingress.yaml"]["spec"]
    assert spec["tls"] == [{"hosts": ["models.example.org"], "secretName": "bakery-sales-tls"}]
    paths = [path["path"] for path in spec["rules"][0]["http"]["paths"]]
    assert paths == ["/v2/models/bakery_sales", *(
        f"/inference.GRPCInferenceService/{call}" for call in ("ModelInfer", "ModelReady", "ModelMetadata")
    )]  # fmt: skip
    network = found["network.yaml"]["spec"]
    assert network["egress"] == [] and set(network["policyTypes"]) == {"Ingress", "Egress"}
    allowed = {
        rule["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]:
        {port["port"] for port in rule["ports"]} for rule in network["ingress"]
    }  # fmt: skip
    assert allowed == {"traefik": {"http", "grpc"}, "monitoring": {"metrics"}}


def test_a_pod_gets_what_the_brief_asks_for_and_no_privilege():
    pod = manifests(served())["deployment.yaml"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"] == {"requests": {"cpu": "4", "memory": "3Gi"}, "limits": {"memory": "3Gi"}}
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/bakery_sales/ready"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_one_pod_stops_before_the_next_and_several_share_their_volume():
    one, many = manifests(served()), manifests(served(max_pods=2))
    assert one["deployment.yaml"]["spec"]["strategy"] == {"type": "Recreate"}
    assert one["volume.yaml"]["spec"]["accessModes"] == ["ReadWriteOnce"] and "autoscaler.yaml" not in one
    assert many["deployment.yaml"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert many["volume.yaml"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_kserve_runs_the_same_container():
    given = served(max_pods=4)
    predictor = inference_service(given)["spec"]["predictor"]
    (ours,) = manifests(given)["deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    (theirs,) = predictor["containers"]
    assert theirs["name"] == "kserve-container"
    same = ("image", "command", "env", "resources", "securityContext", "volumeMounts")
    assert {name: theirs[name] for name in same} == {name: ours[name] for name in same}
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 4)


def test_compose_listens_on_loopback_only():
    server = compose(served(memory="900M"))["services"]["triton"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"]) and server["cap_drop"] == ["ALL"]
    assert server["deploy"]["resources"]["limits"] == {"cpus": "4", "memory": "900000000b"}
    assert "/v2/models/bakery_sales/ready" in server["healthcheck"]["test"][1]


def test_the_start_script_has_a_key_of_its_own_where_none_is_given(tmp_path):
    echo = tmp_path / "tritonserver"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    start = tmp_path / "start.sh"
    start.write_text(script(["tritonserver", "--load-model=a b"], ADMIN_KEY))

    def said(**more):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **more}
        run = subprocess.run(["sh", str(start)], env=environment, capture_output=True, text=True, check=True)
        return run.stdout.splitlines()

    known, first, second = said(**{ADMIN_KEY: "k3y"}), said(), said()
    assert known == ["--load-model=a b", *restricted("k3y")]
    assert len(first[1].rpartition("=")[2]) == 64 and first != second


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"memory": "2 GB"}, "found --memory '2 GB'; expected a quantity such as 2Gi or 900M"),
        ({"project": "a" * 64}, "found the project 'aaa.*expected lower case letters, digits and - after a letter"),
        ({"max_pods": 0}, "found --max-pods 0; expected 1 or more"),
        ({"host": "Models"}, "found --host 'Models'; expected a DNS name such as models.example.org"),
        ({"host": "a.b\nRUN x"}, "found --host 'a.b.*RUN x'; expected a DNS name"),
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


def test_a_real_server_asks_for_the_key_before_it_loads_a_model(tmp_path):
    from dl_pipelines.serving.process import Installation, free_ports

    installation, (http, grpc, metrics) = Installation.find(), free_ports(3)
    (tmp_path / "tritonserver").symlink_to(installation.binary)
    (tmp_path / "repository").mkdir()
    flags = [f"--{name}-port={port}" for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics))]
    flags += [f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")]
    command = ["tritonserver", f"--model-repository={tmp_path / 'repository'}", "--model-control-mode=explicit", *flags]
    (tmp_path / "start.sh").write_text(script(command, ADMIN_KEY))
    environment = installation.environment(tmp_path)
    environment |= {"PATH": f"{tmp_path}:{environment['PATH']}", ADMIN_KEY: "k3y"}
    server = subprocess.Popen(
        ["sh", tmp_path / "start.sh"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def asked(path, **headers):
        with contextlib.closing(HTTPConnection("127.0.0.1", http, timeout=10)) as connection:
            connection.request("POST" if path.endswith("load") else "GET", path, b"{}", headers)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()

    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if asked("/v2/health/ready")[0] == 200:
                    break
            time.sleep(0.05)
        load = "/v2/repository/models/nobody/load"
        assert asked(load) == (403, '{"error":"This API is restricted, expecting header \'dlp-admin\'"}')
        assert asked(load, **{"dlp-admin": "wrong"})[0] == 403
        _, told = asked(load, **{"dlp-admin": "k3y"})
        assert "failed to load 'nobody', failed to poll from model repository" in told, "it is tried"
    finally:
        server.terminate()
        assert server.wait(20) == 0
