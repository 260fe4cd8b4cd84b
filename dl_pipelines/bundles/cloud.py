"""The bundle for a cluster: the Triton repository with its router, a Containerfile, Kubernetes manifests.

Rendered, not run: nothing here builds an image or applies a manifest. The model files are compared in this process; the
live parity of the same files, measured by the embedded server, is quoted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from dl_pipelines.bundles.base import Built, BundleError, Source
from dl_pipelines.bundles.compose import compose
from dl_pipelines.bundles.edge import INPUTS, OUTPUTS, write_rows
from dl_pipelines.bundles.kserve import inference_service
from dl_pipelines.bundles.kubernetes import (
    ADMIN_KEY,
    GRPC,
    HOME,
    HTTP,
    METRICS,
    USER,
    Served,
    manifests,
    require_image,
)
from dl_pipelines.bundles.start import script
from dl_pipelines.inference.model_files import check_model_folder
from dl_pipelines.inference.parity import session_outputs
from dl_pipelines.inference.runtimes import MODEL_FILES, open_runtime
from dl_pipelines.serving import parity as live
from dl_pipelines.serving import repository
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.wire.routing import only

CONTAINERFILE, COMPOSE, START = "Containerfile", "compose.yaml", "start.sh"
KUBERNETES, KSERVE = "kubernetes", "kserve"
LABEL = "rendered, not run"


def build(source: Source, folder: Path, work: Path) -> Built:
    """See base.Build. Raises ArtifactError too: the partition's `triton_repository` must be there and sound."""
    import numpy as np

    made = source.repository()
    about = made.read_json("model.json")
    model, project = about["model"], source.project
    source.tell("copying the repository")
    _copy(folder / "repository", model, repository.model_files(made))
    _copy(folder / "repository", project, repository.router_files(made.read_text("router.pbtxt")))
    durable.put_text(folder / "server" / "routing" / f"{project}.json", json.dumps(only(project, model, 0).plain()))
    rendered = _render(source, folder, model, made)
    write_rows(source, folder)
    source.tell("answering the rows of the live parity with the copied files")
    opened = folder / "repository" / model / "1"
    inside = {Path(name).name: told for name, told in made.files.items() if name.startswith("model/1/")}
    check_model_folder(opened, inside, source.signature)
    path = opened / MODEL_FILES[about["runtime"]][0]
    session = open_runtime(about["runtime"], path, source.serving.threads, source.choice["precision"])
    inputs = np.load(made.file(live.INPUTS), allow_pickle=False)
    recorded = np.load(made.file(live.OUTPUTS), allow_pickle=False)
    check = source.check(
        "the repository's model files in this process, with the recorded answers",
        recorded, session_outputs(session, inputs),
    )  # fmt: skip
    facts = {
        "container": LABEL, "kubernetes": LABEL, "triton_image": source.options.triton_image, "image": _image(source),
        "model": model, "triton_repository": made.digest, "manifests": rendered,
        "live_parity": next(gate.summary for gate in made.gates if gate.name == "live_parity"),
    }  # fmt: skip
    return Built((check,), facts, _readme(source, facts))


def _copy(folder: Path, model: str, files: dict[str, Any]) -> None:
    """Files of a model into `folder`. Raises BundleError for a name that leads out of it."""
    for name, given in files.items():
        place = Path(model, name)
        if place.is_absolute() or ".." in place.parts:
            raise BundleError(
                f"found the file {str(place)!r} in the triton_repository; expected names inside it; run `dlp run` for "
                "that date again, and find out who changed it"
            )
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(given if isinstance(given, bytes) else given.path.read_bytes())


def _image(source: Source) -> str:
    return source.options.image or f"{source.project.replace('_', '-')}:{source.compressed.short}"


def command(project: str, model: str) -> list[str]:
    """How Triton is started in the container; as the embedded server is, on every address."""
    return [
        "tritonserver", f"--model-repository={HOME}/repository", "--model-control-mode=explicit",
        f"--load-model={model}", f"--load-model={project}", "--disable-auto-complete-config",
        f"--http-port={HTTP}", f"--grpc-port={GRPC}", f"--metrics-port={METRICS}",
    ]  # fmt: skip


def _render(source: Source, folder: Path, model: str, made: Artifact) -> list[str]:
    """The Containerfile and the manifests; names of those for Kustomize.

    Raises ValueError for names that an image or Kubernetes can't have.
    """
    options, given = source.options, source.serving
    require_image(options.triton_image, "--triton-image")
    durable.put_text(folder / START, script(command(source.project, model), ADMIN_KEY))
    durable.put_text(folder / CONTAINERFILE, _containerfile(source, made))
    served = Served(
        source.project, _image(source), given.threads * given.instances, options.memory, [f"{HOME}/{START}"],
        options.max_pods, options.host,
    )  # fmt: skip
    for name, manifest in (found := manifests(served)).items():
        _put_yaml(folder / KUBERNETES / name, manifest)
    _put_yaml(folder / KSERVE / "inferenceservice.yaml", inference_service(served))
    _put_yaml(folder / COMPOSE, compose(served))
    return list(found)


def _put_yaml(path: Path, value: dict[str, Any]) -> None:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    durable.put_text(path, f"# {LABEL}: made by `dlp bundle`\n{text}")


def _containerfile(source: Source, made: Artifact) -> str:
    return f"""# {LABEL}: made by `dlp bundle`, built by nobody yet
FROM {source.options.triton_image}
LABEL org.opencontainers.image.title="{source.project}" \\
      org.opencontainers.image.revision="{made.digest}"
COPY --chown={USER}:{USER} repository {HOME}/repository
COPY --chown={USER}:{USER} server {HOME}/server
COPY --chmod=755 {START} {HOME}/{START}
RUN mkdir -p {HOME}/predictions && chown {USER}:{USER} {HOME}/predictions
USER {USER}
EXPOSE {HTTP} {GRPC} {METRICS}
CMD {json.dumps([f"{HOME}/{START}"])}
"""


def _readme(source: Source, facts: dict[str, Any]) -> str:
    image, name = facts["image"], source.project.replace("_", "-")
    return f"""
**Container and manifests are {LABEL}**: no image was built and no cluster was asked. The model files were compared in
this process, and with the embedded Triton server when they were published ({facts["live_parity"]}).

```bash
docker build -t {image} -f {CONTAINERFILE} .          # or podman
docker run --rm --shm-size 1g -p {HTTP}:{HTTP} {image}
curl localhost:{HTTP}/v2/models/{source.project}/ready
docker push {image}
kubectl create secret generic {name}-users --from-file=users=htpasswd -n {name}   # htpasswd -nB NAME > htpasswd
kubectl create secret generic {name}-admin --from-literal=key=... -n {name}
kubectl apply -k {KUBERNETES}                        # TLS: the Secret {name}-tls, of cert-manager or by hand
```

| file | what it is |
|---|---|
| `repository/{facts["model"]}` | the model: `config.pbtxt`, its files |
| `repository/{source.project}` | the router that clients ask: it logs each answer before it gives it |
| `server/routing/{source.project}.json` | all traffic to this model |
| `{CONTAINERFILE}`, `{START}` | the official image with these folders; control requests ask for a key |
| `{COMPOSE}` | the container on one machine, on loopback ports |
| `{KUBERNETES}/` | for Kustomize: {", ".join(f"`{Path(file).stem}`" for file in facts["manifests"])} |
| `{KSERVE}/` | an InferenceService in their place |
| `{INPUTS}`, `{OUTPUTS}` | validation rows and what the served model answered: ask the server for them |

Before you use it:

- The image is `{source.options.triton_image}`. Look at NVIDIA's security bulletins for Triton, take the newest release
  that they ask for (`--triton-image`), and pin it by digest.
- Triton has no users and no passwords: the network policy lets only the ingress (namespace `traefik`) and monitoring
  (namespace `monitoring`) reach it. KServe brings an ingress of its own: see to its users there.
- A new model is a new image; traffic moves when the Deployment is updated.
- The log of answers is on the volume `predictions`; nothing reads it in the cluster. With `--max-pods` it has to be a
  volume that many nodes may write.
"""
