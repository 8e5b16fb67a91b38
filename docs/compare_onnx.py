"""How far the ONNX files are from PyTorch on the example slices: python docs/compare_onnx.py"""

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modeling_unet import TumorSegmenter  # noqa: E402
from modeling_unet.export import DTYPES, describe, to_onnx  # noqa: E402
from modeling_unet.provenance import SHIPPED_MODEL  # noqa: E402


segmenter = TumorSegmenter.from_pretrained(SHIPPED_MODEL, device="cpu", optimize="none")
slices = sorted((ROOT / "examples" / "images").glob("*.png"))
pixel_values = segmenter.image_processor(slices, return_tensors="pt")["pixel_values"]
with torch.inference_mode():
    expected = segmenter.model(pixel_values).logits[:, 1].numpy()
(snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8"), re.DOTALL)

with tempfile.TemporaryDirectory() as folder:
    for dtype in DTYPES:
        path = Path(folder, f"{dtype}.onnx")
        path.write_bytes(
            to_onnx(segmenter.model, describe(segmenter.model, segmenter.image_processor, "shipped"), dtype)
        )
        logits = onnxruntime.InferenceSession(path).run(["logits"], {"pixel_values": pixel_values.numpy()})[0][:, 1]
        probability, wanted = (1 / (1 + np.exp(-values)) for values in (logits, expected))
        through_snippet = []
        for picture, segmentation in zip(slices, segmenter.batch(slices), strict=True):
            names = {}
            exec(snippet.replace("brain-tumor-unet.onnx", str(path)).replace("slice.png", str(picture)), names)
            through_snippet.append(int(((names["probability"] > 0.5) != segmentation.mask).sum()))
        print(f"{dtype}: {path.stat().st_size / 1e6:.1f} MB")
        print(f"  largest difference of a logit {abs(logits - expected).max():.2g}")
        print(f"  largest difference of a probability {abs(probability - wanted).max():.2g}")
        print(f"  pixels of a slice that change sides, through the snippet: at most {max(through_snippet)}")
