"""Serve an exported AIM without torch: print the class, and save the image with the hidden part darkened, here.

python examples/serve_onnx.py model.onnx image.jpg  # needs onnxruntime, numpy and pillow
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
facts = session.get_modelmeta().custom_metadata_map  # written by aimwrap's export
names, prep = json.loads(facts["class_names"]), json.loads(facts["preprocessing"])

image = ImageOps.exif_transpose(Image.open(sys.argv[2]))  # turned upright, by the camera's note
if image.mode[0] in "IF":
    sys.exit("The image has more than 8 bits; save it with 8 bits, 255 for white.")
image = image.convert("L" if len(prep["mean"]) == 1 else "RGB")
height, width = prep["image_size"]
high, wide = int(height / prep["crop"]), int(width / prep["crop"])
target, side = max((high, image.height), (wide, image.width), key=lambda pair: pair[0] / pair[1])
# timm rounds down for square images only
size = [n * target // side if height == width else round(n / (side / target)) for n in image.size]
size = [wide, high] if prep["squash"] else size
image = image.resize(size, Image.Resampling[prep["interpolation"].upper()])
left, top = round((image.width - width) / 2), round((image.height - height) / 2)
image = image.crop((left, top, left + width, top + height))

pixels = (np.asarray(image).reshape(height, width, -1) / 255 - prep["mean"]) / prep["std"]
images = pixels.transpose(2, 0, 1)[None].astype(np.float32)
logits, mask = session.run(["logits", "merged_mask"], {"images": images})
logits = np.append(0, logits) if logits.size == 1 else logits[0]  # a single logit decides by its sign
odds = np.exp(logits - logits.max())
best = odds.argmax()
print(f"{names[best]} {odds[best] / odds.sum():.1%}")

kept = Image.fromarray((255 * mask[0, 0]).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
darkened = image.point(lambda value: value // 4)
Image.composite(image, darkened, kept).save(Path(sys.argv[2]).with_suffix(".mask.png").name)
