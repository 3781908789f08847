"""What a checkpoint is a checkpoint of: which of two runs are the same run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator

from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.opening import TrainingData
from slimresnet.recipe.hardware import processor_name
from slimresnet.recipe.plan import Plan
from slimresnet.recipe.settings import RESIZE_MODE, SETTINGS, Recipe
from slimresnet.run_folder.names import FINGERPRINT_NAME
from slimresnet.training.class_weights import ClassWeights
from slimresnet.training.distillation.teachers import Teacher
from slimresnet.training.pretrained import Pretrained

COPIES = "distinct training"  # which training images are left out, or kept together, as copies of others


@dataclass(frozen=True)
class RunFingerprint:
    """
    All that the weights of a run depend on, and what it is tested on.

    Attributes:
        recipe: every setting as resolved.
        network: the fields of its config; of what it starts from, and of its teachers, where there are any, the digests
            of their files; where classes are weighed, what their weights are made from.
        data: fingerprints of the splits, which the rows of training, validation and test are drawn from.
            Where a run makes use of them, also of what earlier versions did not know: a validation split of the data's
            own, and the numbers of copies.
        machine: processes, threads, processor, versions: what the last bits depend on.
    """

    recipe: dict
    network: dict
    data: dict
    machine: dict

    @classmethod
    def of(
        cls,
        plan: Plan,
        config: SlimResNetConfig,
        data: TrainingData,
        pretrained: Pretrained | None,
        teachers: Sequence[Teacher],
        accelerator: Accelerator,
        class_weights: ClassWeights | None = None,
    ) -> "RunFingerprint":
        """The fingerprint of the run that is about to begin."""
        device = accelerator.device.type
        network = {field: getattr(config, field) for field in SlimResNetConfig.__annotations__}
        if pretrained:
            network["weights of --model_name_or_path"] = pretrained.digest
        if teachers:  # no entry of a run without: its earlier checkpoints have none
            network["files of --teacher_name_or_path"] = [teacher.digest for teacher in teachers]
        if class_weights:
            network["weights of --class_weights"] = class_weights.asked
        fingerprints = {"training": data.train.fingerprint, "test": data.test.fingerprint}
        if data.validates_on_own:
            fingerprints["validation"] = data.validation.fingerprint
        if data.copies:
            fingerprints[COPIES] = data.copies
        return cls(
            recipe=_with_resize_mode(plan.settings | data.sizes),
            network=network,
            data=fingerprints,
            machine={
                "processes": accelerator.num_processes,
                "threads": torch.get_num_threads() if device == "cpu" else None,
                "device": torch.cuda.get_device_name() if device == "cuda" else device,
                "processor": processor_name(),
                **{package: version(package) for package in ("torch", "transformers", "numpy")},
            },
        )

    @property
    def device_name(self) -> str:
        """What the run computes on, for people."""
        return self.machine["processor"] if self.machine["device"] == "cpu" else self.machine["device"]

    def save(self, folder: Path) -> None:
        """Writes `run.json`."""
        (folder / FINGERPRINT_NAME).write_text(
            json.dumps(asdict(self), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path) -> "RunFingerprint":
        """
        Reads `run.json`.

        Raises:
            ValueError: it is of a version of this program that knew runs by something else, or damaged.
            OSError: it is not there.
        """
        content = json.loads((folder / FINGERPRINT_NAME).read_text(encoding="utf-8"))
        known = {each.name for each in fields(cls)}
        if not isinstance(content, dict) or content.keys() != known or not all(map(_is_object, content.values())):
            raise ValueError(f"{FINGERPRINT_NAME} was written by another version of this program")
        if not all(isinstance(content["machine"].get(name), str) for name in ("device", "processor")):
            raise ValueError(f"{FINGERPRINT_NAME} does not say what machine it is of")
        return cls(**content)

    def differences(self, there: "RunFingerprint") -> list[str]:
        """What makes `there` a different run, each with its name and both values; empty for the same run."""
        # A setting that an earlier version did not have was what its default is.
        recipe = _with_resize_mode(Recipe().to_dict() | there.recipe)
        names = {name for name in self.recipe.keys() | recipe.keys() if _affects(name) == "weights"}
        differing = _differing(recipe, self.recipe, names)
        differing += _differing(there.network, self.network, self.network.keys() | there.network.keys())
        for split in dict.fromkeys([*self.data, *there.data]):
            if there.data.get(split) == self.data.get(split):
                continue
            if split == COPIES and split not in there.data and "test_size" not in there.recipe:
                differing.append(
                    "copies of pictures, which the version that wrote it trained on: go on with that version"
                )
                continue
            differing.append(
                f"the {split} images or their labels ({there.recipe.get('dataset_name')} there, "
                f"{self.recipe['dataset_name']} here)"
            )
        return differing

    def machine_differences(self, there: "RunFingerprint") -> list[str]:
        """What is computed in another way, so that the last bits may differ."""
        # A setting that an earlier version did not have could not be another there.
        shared = self.recipe.keys() & there.recipe.keys()
        return _differing(
            there.recipe, self.recipe, {name for name in shared if _affects(name) == "rounding"}
        ) + _differing(there.machine, self.machine, self.machine.keys() | there.machine.keys())


def _with_resize_mode(recipe: dict) -> dict:
    return recipe | {"resize_mode": recipe["resize_mode"] or RESIZE_MODE}


def _affects(name: str) -> str | None:
    """What a setting affects; one that this version does not know may affect the weights."""
    return SETTINGS[name].affects if name in SETTINGS else "weights"


def _is_object(value) -> bool:
    return isinstance(value, dict)


def _differing(there: dict, here: dict, names: frozenset | set) -> list[str]:
    return [
        f"{name} {there.get(name)} there, {here.get(name)} here"
        for name in sorted(names)
        if there.get(name) != here.get(name)
    ]
