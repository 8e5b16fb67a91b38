"""What labs have on their disks: small heads with a tumour as NIfTI volumes, in the layouts of challenges."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from tiny import TINY


SHAPE = (40, 36, 6)
AFFINE = np.diag([1.0, 1.5, 3.0, 1.0])
CHANNELS = {"0": "FLAIR", "1": "T1w", "2": "T1Gd", "3": "T2w"}


def draw_head(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """(image int16, labels uint8): a head with a tumour of edema 2, rim 4 and core 1; the lowest slice is black."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    image = np.where((places**2).sum(axis=0) < 1.6, 300, 0) + rng.integers(0, 30, shape)
    center = rng.uniform(-0.2, 0.2, 3)[:, None, None, None]
    distance = np.sqrt(((places - center) ** 2).sum(axis=0))
    labels = np.select([distance < 0.2, distance < 0.3, distance < 0.45], [1, 4, 2], 0).astype(np.uint8)
    image[labels > 0] = 600
    image[..., 0], labels[..., 0] = 0, 0
    return image.astype(np.int16), labels


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def write_heads(folder: Path, count: int = 6, image: str = "images/p{}.nii.gz", mask: str = "masks/p{}.nii.gz") -> Path:
    """Heads of persons 1, 2, … with masks of 0 and 1, named by patterns."""
    for number in range(1, count + 1):
        voxels, labels = draw_head(number)
        write_nifti(folder / image.format(number), voxels)
        write_nifti(folder / mask.format(number), (labels > 0).astype(np.uint8))
    return folder


def write_brats(folder: Path, count: int = 3) -> Path:
    """Folders of BraTS 2020: four sequences, of which t1ce is the head, and labels 1, 2 and 4."""
    for number in range(1, count + 1):
        voxels, labels = draw_head(number)
        case = f"BraTS20_Training_{number:03}"
        for sequence, factor in (("flair", 2), ("t1", 3), ("t1ce", 1), ("t2", 4)):
            write_nifti(folder / case / f"{case}_{sequence}.nii.gz", voxels * factor)
        write_nifti(folder / case / f"{case}_seg.nii.gz", labels)
    return folder


def write_nnunet(folder: Path, count: int = 3) -> Path:
    """nnU-Net's raw data of four channels, of which T1Gd is the head, and labels 1, 2 and 3."""
    for number in range(1, count + 1):
        voxels, labels = draw_head(number)
        for channel in range(4):
            write_nifti(
                folder / "imagesTr" / f"glioma_{number:03}_{channel:04}.nii.gz", voxels * (abs(channel - 2) + 1)
            )
        write_nifti(
            folder / "labelsTr" / f"glioma_{number:03}.nii.gz", np.where(labels == 4, 3, labels).astype(np.uint8)
        )
    description = {
        "channel_names": CHANNELS,
        "labels": {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def axial(voxels: np.ndarray) -> np.ndarray:
    """Voxels in the order right, anterior, superior → axial slices [N, H, W] as radiologists look at them."""
    return voxels[::-1, ::-1].transpose(2, 1, 0)


def coronal(voxels: np.ndarray) -> np.ndarray:
    return voxels[::-1, :, ::-1].transpose(1, 2, 0)


def fit_options(data: Path, run: Path, *more: str, **config) -> list[str]:
    """A short training of a tiny network on all folds but the first; `config` changes that network."""
    return [
        *("fit", "--data_dir", str(data), "--fold", "0", "--output_dir", str(run), "--architecture", "resnet34"),
        *("--config", json.dumps({**TINY, **config}), "--image_size", "32", "--dataloader_num_workers", "0"),
        *("--disable_tqdm", "true", "--bf16", "false", *more),
    ]
