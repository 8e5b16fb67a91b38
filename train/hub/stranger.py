"""What somebody without this project does with a published model: load it by its id and segment a slice.

    python -I train/hub/stranger.py ID REVISION PICTURE OUT

`publish` runs it in a fresh process; OUT then holds `probability` and `mask`, both [H, W].
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation


def predict(model_id: str, revision: str, picture: Path) -> dict[str, torch.Tensor]:
    """Load model and processor by the `Auto…` classes and segment one slice.

    Args:
        model_id: id on the Hub, or a folder.
        revision: branch, tag or commit; of a folder it means nothing.
        picture: file of the slice.

    Returns:
        `probability` of tumour, float32 at the network's size, and `mask`, uint8 at the slice's own.
    """
    where = {"revision": revision, "trust_remote_code": True}
    processor = AutoImageProcessor.from_pretrained(model_id, **where)
    model = AutoModelForSemanticSegmentation.from_pretrained(model_id, **where).eval()
    with Image.open(picture) as image:
        size = image.size[::-1]
    with torch.inference_mode():
        outputs = model(**processor(picture, return_tensors="pt"))
    (mask,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
    return {"probability": outputs.logits.softmax(dim=1)[0, 1].clone(), "mask": mask.to(torch.uint8)}


if __name__ == "__main__":
    # The code that is published has to do, also where the package is installed.
    sys.modules["modeling_unet"] = None  # type: ignore[assignment]
    _, model_id, revision, picture, out = sys.argv
    save_file(predict(model_id, revision, Path(picture)), out)
