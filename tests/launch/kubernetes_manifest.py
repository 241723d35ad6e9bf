"""Whether a manifest has only the fields that Kubernetes and the MPI operator (kubeflow.org/v2beta1) know, with values of their kind, and
what training needs of it: kubernetes_manifest.py FILE. It also takes away and misspells fields, which must be noticed."""
import copy
import re
import sys

import yaml

name = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
quantity = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")


class Needed:
    """A field that must be there."""

    def __init__(self, kind):
        self.kind = kind


def of(kind):  # a map with any keys
    return {None: kind}


resources = {"requests": of(quantity), "limits": of(quantity)}
container = {
    "name": Needed(name), "image": Needed(str), "workingDir": str, "command": [str], "args": [str], "resources": resources,
    "env": [{"name": Needed(str), "value": str, "valueFrom": {"fieldRef": {"fieldPath": Needed(str)}}}],
    "volumeMounts": [{"name": Needed(name), "mountPath": Needed(str), "subPath": str, "readOnly": bool}],
}  # fmt: skip
pod = {
    "terminationGracePeriodSeconds": int, "containers": Needed([container]), "hostNetwork": bool,
    "volumes": [{
        "name": Needed(name), "persistentVolumeClaim": {"claimName": Needed(str), "readOnly": bool},
        "emptyDir": {"medium": {"", "Memory"}, "sizeLimit": quantity},
    }],
}  # fmt: skip
replica = {"replicas": int, "restartPolicy": {"Never", "OnFailure"}, "template": Needed({"metadata": of(dict), "spec": Needed(pod)})}
metadata = Needed({"name": Needed(name), "namespace": name, "labels": of(str)})
kinds = {
    ("v1", "PersistentVolumeClaim"): {
        "metadata": metadata,
        "spec": Needed({
            "accessModes": Needed([{"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"}]),
            "resources": Needed(resources), "storageClassName": str,
        }),
    },
    ("kubeflow.org/v2beta1", "MPIJob"): {
        "metadata": metadata,
        "spec": Needed({
            "slotsPerWorker": int, "runLauncherAsWorker": bool, "sshAuthMountPath": str,
            "launcherCreationPolicy": {"AtStartup", "WaitForWorkersReady"}, "mpiImplementation": {"OpenMPI", "Intel", "MPICH"},
            "runPolicy": {
                "cleanPodPolicy": {"None", "Running", "All"}, "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int,
                "backoffLimit": int, "suspend": bool,
            },
            "mpiReplicaSpecs": Needed({"Launcher": Needed(replica), "Worker": replica}),
        }),
    },
}  # fmt: skip


def deviations(value, kind, where):
    if isinstance(kind, Needed):
        kind = kind.kind
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return [f"{where}: no map"]
        found = [f"{where}.{key}: missing" for key, of_key in kind.items() if isinstance(of_key, Needed) and key not in value]
        for key, held in value.items():
            if key not in kind and None not in kind:
                found.append(f"{where}.{key}: unknown")
            else:
                found += deviations(held, kind.get(key, kind.get(None)), f"{where}.{key}")
        return found
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [line for i, held in enumerate(value) for line in deviations(held, kind[0], f"{where}[{i}]")]
    if isinstance(kind, set):
        fits = value in kind
    elif isinstance(kind, re.Pattern):
        fits = isinstance(value, (str, int)) and kind.fullmatch(str(value))
    else:
        fits = type(value) is kind
    return [] if fits else [f"{where}: {value!r}"]


def refusals(documents):
    found = []
    for document in documents:
        kind = (document.pop("apiVersion", None), document.pop("kind", None))
        found += deviations(document, kinds[kind], kind[1]) if kind in kinds else [f"unknown kind {kind}"]
    if found:
        return found
    claims = {claim["metadata"]["name"]: claim["spec"]["accessModes"] for claim in documents if "mpiReplicaSpecs" not in claim["spec"]}
    for job in (document["spec"] for document in documents if "mpiReplicaSpecs" in document["spec"]):
        for role, spec in job["mpiReplicaSpecs"].items():
            volumes = {volume["name"]: volume for volume in spec["template"]["spec"]["volumes"]}
            for mount in (mount for one in spec["template"]["spec"]["containers"] for mount in one["volumeMounts"]):
                if mount["name"] not in volumes:
                    found.append(f"{role}: no volume {mount['name']}")
            for claim in (volume["persistentVolumeClaim"] for volume in volumes.values() if "persistentVolumeClaim" in volume):
                if "ReadWriteMany" not in claims.get(claim["claimName"], []):
                    found.append(f"{role}: claim {claim['claimName']} is not ReadWriteMany")
        worker = job["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
        if not any(mount["mountPath"] == "/dev/shm" for mount in worker["containers"][0]["volumeMounts"]):
            found.append("Worker: no volume at /dev/shm")
        if job.get("launcherCreationPolicy") != "WaitForWorkersReady":
            found.append("the launcher does not wait for the workers")
    return found


def main():
    with open(sys.argv[1]) as file:
        documents = list(yaml.safe_load_all(file))
    found = refusals(copy.deepcopy(documents))
    spoilers = {
        "a misspelt field": lambda job: job["spec"].update(slotPerWorker=1),
        "a policy that is none": lambda job: job["spec"]["mpiReplicaSpecs"]["Launcher"].update(restartPolicy="ExitCode"),
        "a number as text": lambda job: job["spec"]["runPolicy"].update(backoffLimit="100"),
        "no launcher": lambda job: job["spec"]["mpiReplicaSpecs"].pop("Launcher"),
        "no volumes": lambda job: job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"].update(volumes=[]),
    }
    for what, spoil in spoilers.items():
        spoilt = copy.deepcopy(documents)
        spoil(spoilt[-1])
        if not refusals(spoilt):
            found.append(f"this check does not notice {what}")
    for line in found:
        print(f"{sys.argv[1]}: {line}", file=sys.stderr)
    return bool(found)


sys.exit(main())
