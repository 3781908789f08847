"""The model card of a trained folder: what it scored and how to load it."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

_TEXT = """---
{metadata}
---

# {name}

A SlimResNet: a small residual network (He et al., 2016) for images of {image_size}×{image_size} pixels and
{num_labels} classes, trained on `{dataset}`.

| split | images | accuracy | loss |
|---|---|---|---|
{rows}

The test split was scored once, after training. `recipe.yaml` holds every setting of the run, `all_results.json` and
`trainer_state.json` its figures.

![Loss and accuracy over the epochs](figures/curves.png)

```python
from transformers import pipeline

classify = pipeline("image-classification", model="{name}", trust_remote_code=True)
classify("image.png")
```
"""


def write_model_card(
    path: Path,
    name: str,
    dataset_name: str,
    test_split: str,
    results: dict,
    *,
    image_size: int,
    num_labels: int,
) -> None:
    """
    Writes a model card from the figures of the run.

    Args:
        name: of the model.
        dataset_name, test_split: as the run was told.
        results: as in `all_results.json`: `test_accuracy`, `test_loss`, `test_samples`, and the same for `eval`.
    """
    dataset = Path(dataset_name).resolve().name if Path(dataset_name).is_dir() else dataset_name
    metadata = ModelCardData(
        model_name=name,
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        metrics=["accuracy"],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=test_split,
                metric_type="accuracy",
                metric_value=results["test_accuracy"],
            )
        ],
    )
    rows = [
        f"| {title} | {results[f'{key}_samples']:,} | {results[f'{key}_accuracy']:.2%} | {results[f'{key}_loss']:.4f} |"
        for title, key in (("validation", "eval"), ("test", "test"))
        if f"{key}_samples" in results
    ]
    path.write_text(
        _TEXT.format(
            metadata=metadata.to_yaml(),
            name=name,
            image_size=image_size,
            num_labels=num_labels,
            dataset=dataset,
            rows="\n".join(rows),
        ),
        encoding="utf-8",
    )
