"""Figures as Markdown: for the terminal that `evaluate` prints to, and for `report.md`."""

NONE = "–"
OF_CLASSES = ("slice_dice", "person_dice", "pooled_dice", "slice_iou", "nsd", "ece")
WITH_TUMOR = "with tumour"
# With probability 2 · 0.5ⁿ the means of n persons all lie on the same side of the true median. With fewer persons than
# this, not even the range of all of them is a 95 % interval.
MIN_PERSONS_OF_AN_INTERVAL = 6
SPREAD_OVER_FOLDS = ("slice_dice", "person_dice", "pooled_dice", "slice_iou", "nsd", "zero_dice_rate")


# What a dash stands for, wherever there is one.
NONE_MEANS = (
    f"{NONE} stands for an interval where fewer than {MIN_PERSONS_OF_AN_INTERVAL} persons are too few for one, and for "
    "a figure that these slices do not have."
)
EMPTY_MEANS = (
    "Slices without tumour are among all others: an empty prediction on one counts as 1, any other as 0. They are left "
    f"out of the row “{WITH_TUMOR}”."
)


CLASSES_MEAN = (
    "Of each class, the slices that show it are scored; specificity is the share of all others in which it is not "
    "found. What else is said here is about tumour of any class."
)


def main_groups(report: dict) -> dict[str, dict]:
    """Name → figures, the ones to quote first: of the slices with tumour, and of all if these are not the same."""
    with_tumor, everything = report.get("with_tumor"), {"all": report["all"]}
    if with_tumor is None or with_tumor["slices"] == report["all"]["slices"]:
        return everything
    return {WITH_TUMOR: with_tumor, **everything}


def headline(report: dict) -> dict:
    """The figures to quote where there is room for one set: those of the slices with tumour."""
    return next(iter(main_groups(report).values()))


def format_table(report: dict) -> str:
    """The tables of an evaluation for a terminal: all slices, each tumour type and fold, then slices without tumour."""
    main, types = main_groups(report), report["by_tumor_type"]
    groups = {**main, **(types if len(types) > 1 else {})}
    tables = [overlap_table(groups), detail_table(groups)]
    if "by_class" in report:
        tables.append(class_table(report["by_class"]))
    if "by_fold" in report:
        tables.append(fold_table(report))
    if report["false_alarms"]:
        tables.append(false_alarm_table(report["false_alarms"]))
    notes = [describe_detection(report["detection"])]
    notes += [CLASSES_MEAN] if "by_class" in report else []
    notes += [EMPTY_MEANS] if WITH_TUMOR in main else []
    notes += [NONE_MEANS] if any(f"| {NONE} |" in table for table in tables) else []
    return "\n\n".join([*tables, *notes])


def overlap_table(groups: dict[str, dict]) -> str:
    """Name → figures of a set of slices, as a Markdown table of what the overlap says."""
    header = ["slices", "persons", "slice_dice", "95 % interval"]
    header += ["person_dice", "pooled_dice", "slice_iou", "zero_dice_rate"]
    rows = {
        name: [
            *(str(figures["slices"]), str(figures["persons"])),
            *(_number(figures["slice_dice"]), _interval(figures, "slice_dice_interval")),
            *(_number(figures[column]) for column in ("person_dice", "pooled_dice", "slice_iou")),
            _percent(figures["zero_dice_rate"]),
        ]
        for name, figures in groups.items()
    }
    return markdown_table(header, rows)


def detail_table(groups: dict[str, dict]) -> str:
    """Name → figures of a set of slices, as a Markdown table of what surfaces, lesions and probabilities say."""
    header = ["nsd", "95 % interval", "hd95_median", "hd95_undefined", "hd95_median_diagonal"]
    header += ["lesion_sensitivity", "false_lesions_per_slice", "ece", "brier"]
    rows = {
        name: [
            *(_number(figures["nsd"]), _interval(figures, "nsd_interval")),
            *(_number(figures["hd95_median"], 1), str(figures["hd95_undefined"])),
            _number(figures["hd95_median_diagonal"], 1),
            *(_number(figures["lesion_sensitivity"], 3), _number(figures["false_lesions_per_slice"], 3)),
            *(_number(figures["ece"]), _number(figures["brier"])),
        ]
        for name, figures in groups.items()
    }
    return markdown_table(header, rows)


def class_table(by_class: dict[str, dict]) -> str:
    """Every class and the mean of all that some slice shows, as a Markdown table."""
    header = ["slices", "slice_dice", "95 % interval", *OF_CLASSES[1:], "sensitivity", "specificity"]
    rows = {}
    for name, of_class in by_class.items():
        figures, detection = of_class["figures"], of_class["detection"]
        rates = [_percent(detection["sensitivity"]), _percent(detection["specificity"])]
        if figures is None:
            rows[name] = ["0", *[NONE] * (len(OF_CLASSES) + 1), *rates]
        else:
            first = [str(figures["slices"]), _number(figures["slice_dice"]), _interval(figures, "slice_dice_interval")]
            rows[name] = [*first, *(_number(figures[column]) for column in OF_CLASSES[1:]), *rates]
    shown = [of_class["figures"] for of_class in by_class.values() if of_class["figures"]]
    if shown:
        dice, *others = (_number(sum(own[column] for own in shown) / len(shown)) for column in OF_CLASSES)
        rows["mean of classes"] = ["", dice, "", *others, "", ""]
    return markdown_table(header, rows, corner="class")


def fold_table(report: dict) -> str:
    """The folds of `evaluate.put_together` side by side, as a Markdown table."""
    header = ["slices", "persons", *SPREAD_OVER_FOLDS]
    rows = {
        str(figures["fold"]): [
            *(str(figures["slices"]), str(figures["persons"])),
            *(_number(figures[name]) for name in SPREAD_OVER_FOLDS),
        ]
        for figures in report["by_fold"]
    }
    spreads = (report["over_folds"][name] for name in SPREAD_OVER_FOLDS)
    rows["mean ± SD"] = ["", "", *("{mean:.4f} ± {standard_deviation:.4f}".format(**own) for own in spreads)]
    return markdown_table(header, rows, corner="fold")


def false_alarm_table(false_alarms: list[dict]) -> str:
    """What is reported on slices without tumour, as a Markdown table."""
    header = ["slices", "models", "persons", "slice_rate", "95 % interval", "person_rate", "95 % interval"]
    header += ["lowest–highest person"]
    rows = {
        f"a lesion of {figures['min_area_px']} px or more": [
            *(str(figures["slices"]), str(figures["models"]), str(figures["persons"])),
            *(_percent(figures["slice_rate"]), _percent_interval(figures, "slice_rate_interval")),
            *(_percent(figures["person_rate"]), _percent_interval(figures, "person_rate_interval")),
            f"{100 * figures['lowest_person_rate']:.1f}–{_percent(figures['highest_person_rate'])}",
        ]
        for figures in false_alarms
    }
    return markdown_table(header, rows, corner="false alarms")


def describe_detection(detection: dict) -> str:
    """In one sentence, how well "there is a tumour in this slice" is told."""
    sentence = (
        f"Is there a tumour in the slice? Sensitivity {_percent(detection['sensitivity'])} "
        f"on {detection['slices_with_tumor']} slices with one (on {detection['found_elsewhere']} of them all that is "
        "found lies elsewhere)"
    )
    if not detection["slices_without_tumor"]:
        return f"{sentence}; specificity is not known, as no slice is without."
    return (
        f"{sentence}, specificity {_percent(detection['specificity'])} on {detection['slices_without_tumor']} without."
    )


def comparison_table(comparison: dict, names: tuple[str, str]) -> str:
    """What `report.compare` returns, as a Markdown table with a row per metric."""
    rows = {
        metric: [
            *(_number(figures["first"]), _number(figures["second"])),
            f"{figures['difference']:+.4f}",
            "{:+.4f} … {:+.4f}".format(*figures["interval"]) if _has_interval(comparison) else NONE,
        ]
        for metric, figures in comparison["metrics"].items()
    }
    return markdown_table([*names, "difference", "95 % interval"], rows)


def markdown_table(header: list[str], rows: dict[str, list[str]], corner: str = "") -> str:
    """A table whose rows begin with their names."""
    lines = [[corner, *header], ["---"] * (len(header) + 1), *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None, decimals: int = 4) -> str:
    return NONE if value is None else f"{value:.{decimals}f}"


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def _interval(figures: dict, name: str) -> str:
    return "{:.3f}–{:.3f}".format(*figures[name]) if _has_interval(figures) else NONE


def _percent_interval(figures: dict, name: str) -> str:
    return "{:.1f}–{:.1f} %".format(*(100 * limit for limit in figures[name])) if _has_interval(figures) else NONE


def _has_interval(figures: dict) -> bool:
    return figures["persons"] >= MIN_PERSONS_OF_AN_INTERVAL
