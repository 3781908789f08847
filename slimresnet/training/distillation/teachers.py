"""Teachers: trained networks, each on the tensor that the student sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoImageProcessor, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.sources.dataset import shared_name
from slimresnet.data.task import SINGLE_LABEL
from slimresnet.errors import first_line
from slimresnet.formats.image_processor import mean_and_std
from slimresnet.formats.trained import explain_error, find_folder, fold_batchnorm, load_model
from slimresnet.recipe.checks import RecipeError, parse_resizing
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.changes import sha256
from slimresnet.run_folder.names import CONFIG_NAME, PREPROCESSOR_NAME


@dataclass(frozen=True)
class View:
    """
    What a network's image processor makes of an image.

    Attributes:
        side: height and width in pixels.
        mean, std: that each channel is normalised with, in 0–1.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Teacher(nn.Module):
    """
    A trained network in evaluation mode, which answers as the student is asked: its classes in the student's order.

    Args:
        network: takes `pixel_values`, gives `logits`.
        order: for each class of the student, its number in the network.
        view: of the network. If its side is the student's, progressive resizing reaches the network too; otherwise
            images are resized to its side.
        student: the view of the student.

    Attributes:
        name: for people, without a path of this machine.
        is_local: whether it is a folder of this machine.
        num_parameters: of the network as it was trained.
        folder: where its files are; None for a network of another family.
        digest: SHA-256 of each file that its answers depend on.
    """

    order: Tensor | None
    scale: Tensor | None
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        order: Sequence[int],
        view: View,
        student: View,
        *,
        name: str,
        is_local: bool,
        num_parameters: int,
        digest: list[str],
        folder: Path | None = None,
    ):
        super().__init__()
        self.network, self.name, self.is_local = network, name, is_local
        self.num_parameters, self.digest, self.folder = num_parameters, digest, folder
        self._num_channels = len(student.mean)
        self._side = None if view.side == student.side else view.side
        in_order = list(order) == list(range(len(order)))
        self.register_buffer("order", None if in_order else torch.tensor(order))
        # Pixels normalised for the student become pixels normalised for the teacher.
        mean, std = torch.tensor(view.mean).double(), torch.tensor(view.std).double()
        student_mean, student_std = torch.tensor(student.mean).double(), torch.tensor(student.std).double()
        alike = torch.allclose(mean, student_mean, atol=1e-6) and torch.allclose(std, student_std, atol=1e-6)
        self.register_buffer("scale", None if alike else (student_std / std).float().view(-1, 1, 1))
        self.register_buffer("shift", ((student_mean - mean) / std).float().view(-1, 1, 1))
        self._multiply_adds: dict[int, int] = {}
        self.eval().requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits `[B, num_labels]` for the student's `pixel_values`, float32 `[B, C, H, W]`."""
        if self._side is not None:
            pixel_values = F.interpolate(pixel_values, (self._side, self._side), mode="bilinear", antialias=True)
        if self.scale is not None:
            pixel_values = pixel_values * self.scale + self.shift
        if pixel_values.shape[1] == 1:  # a teacher of one channel mixes the three again
            pixel_values = pixel_values.expand(-1, 3, -1, -1)
        logits = self.network(pixel_values=pixel_values).logits
        return logits if self.order is None else logits.index_select(1, self.order)

    def describe(self) -> str:
        """Name and size, for people."""
        return f"{self.name} ({self.num_parameters:,} parameters)"

    def multiply_adds(self, image_size: int) -> int:
        """Multiply-adds for an image that the student sees in `image_size` pixels a side; counted on the CPU, once."""
        if image_size not in self._multiply_adds:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                self(torch.zeros(1, self._num_channels, image_size, image_size))
            self._multiply_adds[image_size] = counter.get_total_flops() // 2
        return self._multiply_adds[image_size]

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode, whatever is asked for."""
        return super().train(False)


def open_teachers(
    recipe: Recipe, config: SlimResNetConfig, label_names: Sequence[str], output_dir: Path
) -> list[Teacher]:
    """
    Opens the networks that `--teacher_name_or_path` names, on the CPU, in float32; none where it names none.

    A teacher is a folder or a model on the Hub: of this family, or any `AutoModelForImageClassification` whose code is
    transformers' own and whose weights are safetensors. No code of a teacher's folder is run.

    Args:
        config: of the student.
        label_names: names of the classes, in the student's order.
        output_dir: folder of the run.

    Raises:
        RecipeError: a teacher cannot be opened, has other classes, does not take images of a size that the student
            sees, or is what the run would replace.
    """
    if recipe.teacher_name_or_path is None:
        return []
    student = View(config.image_size, tuple(recipe.image_mean), tuple(recipe.image_std))
    names = [name.strip() for name in recipe.teacher_name_or_path.split(",")]
    sizes = [config.image_size, *(pixels for pixels, _ in parse_resizing(recipe.progressive_resizing))]
    return [_open_teacher(name, student, sizes, label_names, output_dir) for name in names]


def _open_teacher(
    name: str, student: View, sizes: Sequence[int], label_names: Sequence[str], output_dir: Path
) -> Teacher:
    if not name:
        raise RecipeError("--teacher_name_or_path has an empty name: give FOLDER, or FOLDER,FOLDER for several.")
    if Path(name).resolve() == output_dir.resolve():
        raise RecipeError(f"--teacher_name_or_path {name} is the --output_dir of this run: name another output folder.")
    try:
        folder = find_folder(name)
        network = _load(folder)
        view = _view(folder, student)
    except Exception as error:  # those of transformers, safetensors and huggingface_hub are of many kinds
        advice = "give a folder or a model on the Hub with config.json and model.safetensors"
        raise RecipeError(f"--teacher_name_or_path {explain_error(error, name, advice)}") from error
    files = (CONFIG_NAME, PREPROCESSOR_NAME, *(file.name for file in folder.glob("*.safetensors")))
    folds = isinstance(network, SlimResNetForImageClassification)
    teacher = Teacher(
        fold_batchnorm(network) if folds else network,
        _order(name, network.config, label_names),
        view,
        student,
        name=shared_name(name),
        is_local=Path(name).exists(),
        num_parameters=network.num_parameters(),
        digest=[sha256(folder / file)[:16] for file in sorted(files) if (folder / file).is_file()],
        folder=folder if folds else None,
    )
    for size in sizes:
        try:
            teacher.multiply_adds(size)
        except Exception as error:  # each network has its own
            raise RecipeError(
                f"--teacher_name_or_path {name} takes no images of {size}×{size} pixels ({first_line(error)}): give "
                f"its {PREPROCESSOR_NAME} the size that it takes, or leave --progressive_resizing out."
            ) from error
    return teacher


def _load(folder: Path) -> PreTrainedModel:
    content, _ = PretrainedConfig.get_config_dict(folder)
    is_own = content.get("model_type") == SlimResNetConfig.model_type
    network = load_model(folder) if is_own else _load_foreign(folder)
    if network.config.problem_type not in (None, SINGLE_LABEL.problem_type):
        raise RecipeError(f"its problem_type is {network.config.problem_type}: give a network that chooses one class.")
    return network


def _load_foreign(folder: Path) -> PreTrainedModel:
    network, loading = AutoModelForImageClassification.from_pretrained(
        folder,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if missing := sorted({*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}):
        # transformers draws them at random, and says so in a warning.
        raise RecipeError(f"its weights lack {', '.join(missing[:3])}: a teacher has to be trained, its head too.")
    if not all(value.isfinite().all() for value in network.state_dict().values()):
        raise RecipeError("some of its weights are NaN or infinite: give a sound copy, or train it again.")
    return network


def _view(folder: Path, student: View) -> View:
    """What the image processor of a folder makes of an image; as the student's where there is no processor."""
    if not (folder / PREPROCESSOR_NAME).is_file():
        return student
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    mean, std = mean_and_std(processor).tolist()
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    sides = {size[key] for key in ("height", "width", "shortest_edge") if size and size.get(key)}
    if processor.do_resize and len(sides) != 1:
        raise RecipeError(
            f"its {PREPROCESSOR_NAME} makes images of {dict(size)}, and a teacher sees squares: give another one."
        )
    return View(sides.pop() if processor.do_resize else student.side, tuple(mean), tuple(std))


def _order(name: str, config: PretrainedConfig, label_names: Sequence[str]) -> list[int]:
    """For each class of the student, its number in a teacher of the same classes in maybe another order."""
    numbers = {label: number for number, label in config.id2label.items()}
    if numbers.keys() != set(label_names) or len(config.id2label) != len(label_names):
        raise RecipeError(
            f"--teacher_name_or_path {name} tells other classes apart than the dataset: id2label in its config.json "
            f"names {', '.join(map(str, list(numbers)[:12]))}, and the dataset {', '.join(label_names[:12])}. Give a "
            "teacher of these classes, or write their names into its id2label."
        )
    return [numbers[label] for label in label_names]
