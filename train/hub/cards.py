"""The cards that the Hub shows: of a model, of a data set, of the page. They say what is known and what is not.

config.json, training.json, evaluation.json ─ write_model_card ─→ README.md of the model
README.md of `python -m train prepare`, rows ─ write_data_card ─→ README.md of the data set
README.md of this project, a model's id ─ write_space_card, write_static_card ─→ README.md of the Space
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData, RepoCard

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor

from ..data.folds import read_manifest
from ..record import ALL_PERSONS, BASE_WEIGHTS, CALIBRATION, CANVASES, STANDS_FOR, TEACHERS
from ..scoring.tables import format_table, headline


TAGS = ["medical-imaging", "brain-tumor", "mri", "unet"]
REPORTED = ("slice_dice", "person_dice", "pooled_dice", "slice_iou", "nsd", "zero_dice_rate")
# Stands for the id of the model in the card that the project writes by hand.
PLACEHOLDER = "YOU/brain-tumor-unet"
OWN_FOLDER = "weights/brain-tumor-unet"

MODEL_CARD = """---
{front_matter}
---

# {title}

Segments brain tumours on single MRI slices: a U-Net for 🤗 Transformers, trained with `python -m train fit`.

**Not a medical device. For research and education.**

## Use

```python
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

where = {{"revision": "{revision}", "trust_remote_code": True}}  # better still, the hash of a commit that you have read
processor = AutoImageProcessor.from_pretrained("{repo_id}", **where)
model = AutoModelForSemanticSegmentation.from_pretrained("{repo_id}", **where).eval()

outputs = model(**processor({slice}, return_tensors="pt"))
(mask,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(height, width)])  # {values}
```

The code that this runs lies beside the weights.

## Model

| | |
|---|---|
| network | U-Net, {block} blocks, {parameters:.2f} M parameters |
| input | {input} |
| output | {output} |
| weights | float16 safetensors; they load as float32 |
| encoder started from | {initialization} |

## Training

{training}

{license}

## Figures

{figures}

## Limits

The network knows what its training slices show and nothing else: other sequences, scanners and diseases are outside,
and so are slices without a tumour if it has seen none. {calibration}
"""

LICENSED = "Licence of the weights: `{license}`, as their owner says."
NOT_LICENSED = "**No licence of the weights is given**: ask their owner before you use them."
PUBLIC_DATA_SET = (
    "Jun Cheng, *brain tumor dataset*, figshare, <https://doi.org/10.6084/m9.figshare.1512427>, shared under CC BY 4.0"
)

SPACE_CARD = """---
{front_matter}
---

# {title}

Drop an MRI slice, see the tumour in colour, move the overlay's opacity, read the measurements. The weights are those of
[{model_id}](https://huggingface.co/{model_id}): the variable `MODEL_ID` in the settings names them.

**Not a medical device. For research and education.**

Code: Apache-2.0. The slices in `examples/` are Jun Cheng's, CC BY 4.0: see `examples/ATTRIBUTION.md`.
"""

STATIC_CARD = """---
{front_matter}
---

# {title}

Drop an MRI slice, see the tumour in colour. The network runs in the browser: the slice never leaves the computer. Its
weights are those of [{model_id}](https://huggingface.co/{model_id}).

**Not a medical device. For research and education.**

Code: Apache-2.0. ONNX Runtime Web, which computes: MIT. The slices in `examples/` are Jun Cheng's, CC BY 4.0: see
`examples/ATTRIBUTION.md`.
"""
# What lets a page have threads: https://huggingface.co/docs/hub/spaces-config-reference
ISOLATED = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}
OF_GRADIO = ("sdk_version", "python_version", "app_file", "suggested_hardware")

COLUMNS = """\
| column | holds |
|---|---|
| `image` | the slice, at its own size and bit depth |
| `mask` | tumour or not, in 1 bit, of the same size |
| `slice` | its name |
| `person_id` | whose slice it is, a string; empty if that is not known |
| `tumor_type`, `plane` | strings |
| `fold` | the fold in which it validates, or -1 |
| `volume`, `row_mm`, `column_mm` | the volume that it was cut from, and the size of a pixel; empty if not known |

The pictures are embedded in Parquet files, one set for each split: {splits}.
"""
DATA_USE = """## Use

```python
from datasets import load_dataset

slices = load_dataset("{repo_id}", split="train")  # columns image, mask, slice, person_id, …
```

```bash
python -m train fit --data_dir {repo_id}{num_folds} --output_dir RUN --fold 0
```
"""


# ---------------------------------------------------------------------------------------------------------------- model


def write_model_card(
    model: UNetForSemanticSegmentation,
    processor: UNetImageProcessor,
    record: dict | None,
    evaluation: dict | None,
    repo_id: str,
    revision: str,
    dataset_id: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> str:
    """A card that says of a model what its own files say.

    Args:
        model, processor: as they are published.
        record: content of training.json; None if there is none.
        evaluation: content of evaluation.json; None if there is none.
        repo_id, revision: where it is published.
        dataset_id: of the slices that it was trained and scored on, if they are on the Hub.
        license: of the weights, by its name on the Hub, e.g. apache-2.0; their owner alone can say it.
        base_model: id on the Hub of what was fine-tuned, where the record does not know it.
    """
    config = model.config
    front_matter = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-segmentation",
        license=license,
        tags=TAGS,
        base_model=base_model or _base_model(record),
    )
    text = MODEL_CARD.format(
        front_matter=front_matter.to_yaml(),
        title=repo_id.partition("/")[2],
        repo_id=repo_id,
        revision=revision,
        block=config.block_type.replace("_", " "),
        parameters=model.num_parameters() / 1e6,
        slice=_describe_slice(config),
        input=_describe_input(config, processor.size["longest_edge"]),
        initialization=config.encoder_initialization,
        values=_describe_values(config),
        output=_describe_output(config),
        training=_describe_training(record, base_model),
        license=LICENSED.format(license=license) if license else NOT_LICENSED,
        calibration=_describe_calibration(record),
        figures=_describe_figures(evaluation),
    )
    return complete_model_card(text, evaluation, repo_id, revision, dataset_id)


def complete_model_card(
    text: str,
    evaluation: dict | None,
    repo_id: str,
    revision: str,
    dataset_id: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> str:
    """Fill in where a model is published, and what it scored, as the Hub reads it.

    Args:
        text: of the card; `PLACEHOLDER` in it, and `revision="main"`, are replaced.
        evaluation, repo_id, revision, dataset_id, license, base_model: as in `write_model_card`; what is None stays as
            the text has it.
    """
    text = text.replace(PLACEHOLDER, repo_id).replace('revision="main"', f'revision="{revision}"')
    text = text.replace(f"]({OWN_FOLDER}/", "](")  # its pictures lie beside it there
    card = ModelCard(text, ignore_metadata_errors=False)
    data: Any = card.data  # it takes every field that the Hub knows
    if dataset_id:
        data.datasets = [dataset_id]
    if license:
        data.license = license
    if base_model:
        data.base_model = base_model
    # Figures on persons that were trained on, or may have been, must not be ranked beside honest ones.
    if evaluation and evaluation.get("seen_in_training") is False:
        data.model_name = repo_id.partition("/")[2]
        data.eval_results = _eval_results(evaluation, dataset_id)
    return str(card)


def _base_model(record: dict | None) -> str | None:
    """The id on the Hub that a fine-tuning started from; None for a folder, whose name means nothing to others."""
    init_from = (record or {}).get("recipe", {}).get("init_from") or ""
    return init_from if "/" in init_from else None


def _describe_slice(config: UNetConfig) -> str:
    if config.num_channels == 1:
        return '"slice.png"'
    return "[{}]".format(", ".join(f'"{name}.png"' for name in config.channels))


def _describe_input(config: UNetConfig, side: int) -> str:
    if config.num_channels == 1:
        return (
            "one slice of any size and depth; the processor makes it grey, fits it into "
            f"{side}×{side} and standardises it"
        )
    return (
        f"one slice of {config.num_channels} channels of one size ({', '.join(config.channels)}), a picture for each "
        f"or an array [{config.num_channels}, height, width]; the processor fits them into {side}×{side} and "
        "standardises each by itself"
    )


def _describe_values(config: UNetConfig) -> str:
    names = config.class_names
    if len(names) == 1:
        return "1 where tumour is"
    values = ", ".join(f"{label} {name}" for label, name in enumerate(names, start=1))
    return f"{values}; of several the last one" if config.classes_overlap else values


def _describe_output(config: UNetConfig) -> str:
    if len(config.class_names) == 1:
        return "`logits` [B, 2, H, W]: background (always 0) and tumour; probability above 0.5 is tumour"
    rule = "each class where its logit is above 0, so that they may overlap"
    if not config.classes_overlap:
        rule = "a pixel has the label of the highest logit"
    return f"`logits` [B, {config.num_labels}, H, W]: background (always 0), {', '.join(config.class_names)}; {rule}"


def _describe_training(record: dict | None, base_model: str | None) -> str:
    if record is None:
        return "No record of the training lies beside these weights: what they were trained on is not known here."
    sentences = [f"On {_describe_slices(record)}."]
    sentences += _describe_bases(record, base_model)
    if teachers := record.get(TEACHERS):
        sentences.append(f"Beside the masks it learned the average of {len(teachers)} models.")
    sentences += _describe_public_slices(record)
    sentences.append("The recipe, the course of the validation and the versions are in `training.json`.")
    return " ".join(sentences)


def _describe_slices(record: dict) -> str:
    slices, persons = record.get("training_slices"), record.get("training_persons")
    held_out = "nobody was held out" if record.get("fold") is None else f"fold {record['fold']} was held out"
    amount = f"{slices:,} slices of {persons:,} persons" if slices and persons else "slices that were not counted"
    amount += " and on slices without tumour" if record.get(CANVASES) else ""
    return f"{amount}; {held_out}"


def _describe_bases(record: dict, base_model: str | None) -> Iterator[str]:
    """Of every training before this one, the last first, which weights it left and what they had been trained on."""
    while name := record.get("recipe", {}).get("init_from"):
        digest = f" (SHA-256 of its weights {record[BASE_WEIGHTS][:12]}…)" if record.get(BASE_WEIGHTS) else ""
        link = base_model or (name if "/" in name else None)
        shown = f"[{link}](https://huggingface.co/{link})" if link else f"a model called `{name}`"
        record, base_model = record.get("started_from") or {}, None
        known = f"trained on {_describe_slices(record)}" if record else "whose own training has no record"
        yield f"Fine-tuned from {shown}{digest}, {known}."


def _describe_public_slices(record: dict) -> Iterator[str]:
    """Whose slices are known by the hashes of their masks, the base model's included: their licence wants a name."""
    trained_on = record.get("trained_on", "").split()
    digits = len(trained_on[0]) if trained_on else 0
    public = {row["mask_sha256"][:digits] for row in read_manifest().values() if row["mask_sha256"]}
    if known := len(public.intersection(trained_on)):
        yield f"Of all these slices {known:,} are from {PUBLIC_DATA_SET}."


def _describe_calibration(record: dict | None) -> str:
    if found := (record or {}).get(CALIBRATION):
        parts = {f" ({name})": platt for name, platt in found["classes"].items()} if "classes" in found else {"": found}
        pairs = [f"scale {platt['scale']:.3f} and shift {platt['shift']:+.3f}{of}" for of, platt in parts.items()]
        return (
            f"Its probabilities are calibrated on persons whom the training left out: {', '.join(pairs)} of the logits "
            "are in the weights of its head."
        )
    return "No calibration has been fitted: a probability of 0.7 is not a 70 % chance."


def _describe_figures(evaluation: dict | None) -> str:
    if evaluation is None:
        return "**This model has not been evaluated**: how good it is, is not known."
    intervals = "Intervals are 95 %, by bootstrap over persons."
    return "\n\n".join([describe_scored(evaluation), format_table(evaluation), intervals])


def describe_scored(evaluation: dict) -> str:
    figures = evaluation["all"]
    scored = (
        f"On {_name_folds(evaluation)}, {figures['slices']:,} slices of {figures['persons']:,} persons, at "
        f"{evaluation['resolution']} resolution, threshold {evaluation['threshold']:g}."
    )
    seen = evaluation.get("seen_in_training")
    if seen:
        return f"{scored} **The model was trained on these persons: the figures say nothing about new people.**"
    if seen is None:
        return f"{scored} **Whether the model was trained on these persons is not known.**"
    if STANDS_FOR in evaluation:
        return (
            f"{scored} Every slice was scored by weights of the same recipe that had not seen its person; the model "
            "itself was trained on all folds."
        )
    return f"{scored} The model was not trained on these persons."


def _name_folds(evaluation: dict) -> str:
    fold = evaluation["fold"]
    if isinstance(fold, str):
        return fold if fold == ALL_PERSONS else f"the {fold} split"
    return f"folds {', '.join(map(str, fold))}" if isinstance(fold, list) else f"fold {fold}"


def _eval_results(evaluation: dict, dataset_id: str | None) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset_id or "not-on-the-hub",
            dataset_name=dataset_id or "slices that are not on the Hub",
            dataset_split=_name_folds(evaluation),
            metric_type=name,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name in REPORTED
        if (value := headline(evaluation)[name]) is not None
    ]


# ------------------------------------------------------------------------------------------------- data set, page


def write_data_card(readme: str, repo_id: str, splits: Sequence[str]) -> str:
    """The card of a prepared folder, with what is said of its files said of Parquet files; licence and origin stay.

    Args:
        readme: README.md of the folder.
        repo_id: where it is published.
        splits: names of the splits.
    """
    card = DatasetCard(readme)
    data: Any = card.data
    data.configs = [
        {
            "config_name": "default",
            "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
        }
    ]
    columns = COLUMNS.format(splits=", ".join(f"`{split}`" for split in splits))
    text = re.sub(r"^\| file \| holds \|\n(\|.*\n)+", lambda _: columns, str(card), flags=re.MULTILINE)
    num_folds = found[0] if (found := re.search(r" --num_folds \d+", readme)) else ""
    use = DATA_USE.format(repo_id=repo_id, num_folds=num_folds)
    return re.sub(r"^## Use\n.*?(?=^## |\Z)", lambda _: use, text, flags=re.MULTILINE | re.DOTALL)


def write_space_card(readme: str, model_id: str, dataset_id: str | None) -> str:
    """The front matter of this project's README, and which model the page shows."""
    return _fill_space_card(SPACE_CARD, RepoCard(readme), model_id, dataset_id)


def write_static_card(readme: str, model_id: str, dataset_id: str | None) -> str:
    """The same for the page that runs in the browser."""
    card = RepoCard(readme)
    for key in OF_GRADIO:
        card.data.pop(key)
    card.data["sdk"], card.data["custom_headers"] = "static", ISOLATED
    return _fill_space_card(STATIC_CARD, card, model_id, dataset_id)


def _fill_space_card(template: str, card: RepoCard, model_id: str, dataset_id: str | None) -> str:
    card.data["models"] = [model_id]
    if dataset_id:
        card.data["datasets"] = [dataset_id]
    return template.format(front_matter=card.data.to_yaml(), title=card.data["title"], model_id=model_id)
