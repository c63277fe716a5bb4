"""Serve an exported model without torch: print the class, and save the image with the hidden part darkened, here.

python examples/serve_onnx.py model.onnx image.jpg more.jpg  # needs onnxruntime, numpy and pillow
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) < 3:
    sys.exit(__doc__)
try:
    session = onnxruntime.InferenceSession(sys.argv[1])
    facts = session.get_modelmeta().custom_metadata_map  # written by aimwrap's export
    names, prep = json.loads(facts["class_names"]), json.loads(facts["preprocessing"])
    shown = "kept" if "second_look" in facts else "merged_mask"  # the pixels that a second look saw, or positions
except Exception as error:  # the runtime's errors have no kind in common
    sys.exit(f"{sys.argv[1]} is not a model that aimwrap exported to ONNX: {error}")


def prepared(path: str) -> np.ndarray:
    with Image.open(path) as file:
        if getattr(file, "n_frames", 1) > 1 and file.format != "MPO":  # whose others are a preview or a second view
            raise ValueError("it has several pages or frames; save the one that you mean as one picture")
        tile = str(file.tile)  # of RGB with 16 bits Pillow would keep the upper 8
        image = ImageOps.exif_transpose(file)  # turned upright, by the camera's note
    deep, window = image.mode[0] in "IF", prep.get("window")
    halved = any(each in tile for each in (";16B", ";16L", ";16N", "'RGB', 65535)")) and not deep
    if halved or (deep and (not window or file.format == "PPM")):  # whose values Pillow scales
        raise ValueError("it has more than 8 bits; save it with 8 bits, 255 for white, as the model's images had")
    wrong = ("'ppm'", "'L;2'", "'L;4'", "I;32N", *((";16BS", ";32BS", ";32BF") if "'libtiff'" in tile else ()))
    if window and any(each in tile for each in wrong):
        raise ValueError("Pillow reads other values than the file has; save it as PNG of 8 or 16 bits")
    image = image if deep else image.convert("L" if len(prep["mean"]) == 1 else "RGB")
    parts = list(image.split())
    if window:  # the values that the model sees as black and white; 8 bits would cut off what the resize overshoots
        low, high = window
        if (low < 0 or not 1 < high <= 255) and not deep:
            raise ValueError(f"it has 8 bits, and the model's images have values from {low} to {high}")
        shares = [((np.asarray(part, np.float32) - low) / (high - low)).clip(0, 1) for part in parts]
        parts = [Image.fromarray(255 * each) for each in shares]
    height, width = prep["image_size"]
    high, wide = int(height / prep["crop"]), int(width / prep["crop"])
    target, side = max((high, image.height), (wide, image.width), key=lambda pair: pair[0] / pair[1])
    # timm rounds down for square images only
    size = [n * target // side if height == width else round(n / (side / target)) for n in image.size]
    size = [wide, high] if prep["squash"] else size
    method = Image.Resampling[prep["interpolation"].removesuffix("-exact").upper()]
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return np.dstack([part.resize(size, method).crop((left, top, left + width, top + height)) for part in parts])


failed = False
for number, path in enumerate(sys.argv[2:]):
    try:
        values = prepared(path)  # (H, W, C), 255 for white
    except (OSError, ValueError) as error:
        print(f"{path} cannot be read as an image: {error}", file=sys.stderr)
        failed = True
        continue
    if len(prep["mean"]) not in (1, 3):
        sys.exit(f"the model takes {len(prep['mean'])} channels; this program reads grey and colours only")
    pixels = (values / 255 - prep["mean"]) / prep["std"]
    images = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    logits, mask = session.run(["logits", shown], {"images": images})
    logits = np.append(0, logits) if logits.size == 1 else logits[0]  # a single logit decides by its sign
    odds = np.exp(logits - logits.max())
    best = odds.argmax()
    print(f"{path}: " * (len(sys.argv) > 3) + f"{names[best]} {odds[best] / odds.sum():.1%}")

    image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8).squeeze())
    kept = Image.fromarray((255 * mask[0, 0]).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    darkened = image.point(lambda value: value // 4)
    same = [Path(other).stem for other in sys.argv[2:][:number]].count(Path(path).stem)  # of other folders
    name = f"{Path(path).stem}{f'-{same + 1}' * bool(same)}.mask.png"
    Image.composite(image, darkened, kept).save(name)
if failed:
    sys.exit(1)
